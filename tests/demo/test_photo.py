from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from demo.photo import check_photo, note_photo, notice_of
from demo.visitors import Visitors
from tests.helpers.photos import encoded

ANN = SimpleNamespace(session_hash="ann")


@pytest.fixture
def visitors() -> Visitors:
    return Visitors()


def test_a_good_photo_stays_and_nothing_is_said(sent, visitors):
    photo = sent("a.png")
    shown, notice = check_photo(photo, ANN, visitors)
    assert shown == {"__type__": "update"}
    assert notice.visible is False
    assert visitors.of(ANN).files == {Path(photo["path"])}


def test_a_bad_photo_is_taken_out_on_arrival_with_a_reason(sent, visitors):
    shown, notice = check_photo(sent("a.jpg", b"hello"), ANN, visitors)
    assert shown is None
    assert "not in a format" in notice.value
    assert notice.visible is True


def test_an_svg_is_refused_as_such(visitors):
    """Gradio's page sends it within the request instead of as a file."""
    drawn = {"path": None, "url": "data:image/svg+xml,%3Csvg%3E", "orig_name": "a.svg"}
    shown, notice = check_photo(drawn, ANN, visitors)
    assert shown is None
    assert "An SVG is drawn and no photo; send a JPEG" in notice.value


def test_two_events_of_one_photo_say_the_same_of_it(sent, visitors):
    """The page takes their answers in any order, and the later must not hide the reason."""
    for photo in (sent("a.jpg", b"hello"), sent("a.png"), {"path": None, "url": "data:,"}):
        told, again = check_photo(photo, ANN, visitors)[1], notice_of(photo)
        assert (told.visible, told.value) == (again.visible, again.value)
    assert "not in a format" in notice_of(sent("b.jpg", b"hello")).value


@pytest.mark.parametrize("name", ["scan.tiff", "IMG_1.HEIC", "a.avif"])
def test_what_browsers_cannot_show_is_shown_as_a_copy(name, sent, visitors):
    form = {"scan.tiff": "TIFF", "IMG_1.HEIC": "HEIF", "a.avif": "AVIF"}[name]
    photo = sent(name, encoded(Image.new("RGB", (64, 48), "blue"), form))
    shown, _ = check_photo(photo, ANN, visitors)
    with Image.open(shown) as copy:
        assert copy.format == "JPEG"
        red, green, blue = copy.getpixel((8, 8))
        assert red < 5 and green < 5 and blue > 250
    assert Path(photo["path"]).exists()


def test_the_page_says_which_photo_it_has(sent, visitors):
    red, blue = sent("a.png", "red"), sent("b.png", "blue")
    note_photo(red, ANN, visitors)
    visitor = visitors.of(ANN)
    assert visitor.wants(Path(red["path"])) and not visitor.wants(Path(blue["path"]))
    note_photo(None, ANN, visitors)
    assert not visitor.wants(Path(red["path"]))
