from pathlib import Path

import pytest
from PIL import Image

from blip2.errors import UserError
from demo.uploads import check_photo, received_file, received_text


def test_a_good_photo_stays_and_nothing_is_said(sent):
    shown, notice = check_photo(sent("a.png"))
    assert shown == {"__type__": "update"}
    assert notice.visible is False


def test_a_bad_photo_is_taken_out_on_arrival_with_a_reason(sent):
    shown, notice = check_photo(sent("a.jpg", b"hello"))
    assert shown is None
    assert "not a picture" in notice.value
    assert notice.visible is True


def test_what_browsers_cannot_show_is_shown_as_a_copy(sent, tmp_path):
    photo = sent("scan.tiff", "blue")
    shown, _ = check_photo(photo)
    with Image.open(shown) as copy:
        assert copy.format == "PNG"
        assert copy.convert("RGB").getpixel((8, 8)) == (0, 0, 255)
    assert Path(photo["path"]).exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cat.jpg", "cat.jpg"), ("../../etc/cat.jpg", "cat.jpg"), ("C:\\photos\\cat.jpg", "cat.jpg")],
)
def test_of_a_name_only_the_last_part_is_kept(name, expected):
    assert received_file({"path": "/tmp/x", "orig_name": name}) == (Path("/tmp/x"), expected)


@pytest.mark.parametrize("text", [["a"], {"a": 1}, 7])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(UserError, match="The question is not a text"):
        received_text(text, "question")
