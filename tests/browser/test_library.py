"""A folder as people keep it: photos of phones, videos beside them, and many deleted since."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from blip2 import Blip2Retriever
from index import PhotoIndex
from tests.browser.conftest import ANSWER, PHOTOS, photograph, serve, show_tab
from tests.browser.test_search import found, search

DELETED = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A library of which most photos were deleted since it was indexed."""
    place = tmp_path_factory.mktemp("kept")
    folder = place / "photos"
    folder.mkdir()
    with Image.open(PHOTOS / "coffee.png") as coffee:
        pillow_heif.from_pillow(coffee.convert("RGB")).save(folder / "IMG_0001.HEIC")
    with Image.open(PHOTOS / "astronaut.png") as astronaut:
        exif = Image.Exif()
        exif[0x0112] = 6  # held upright: stored on its side
        turned = astronaut.convert("RGB").transpose(Image.Transpose.ROTATE_90)
        turned.save(folder / "IMG_0002.jpg", exif=exif)
    for number in range(DELETED):
        Image.new("RGB", (64, 64), (10 * number, 80, 200)).save(folder / f"old-{number}.png")
    PhotoIndex.create(place / "index", Blip2Retriever.from_pretrained("mini-itm")).update([folder])
    for number in range(DELETED):
        (folder / f"old-{number}.png").unlink()
    for name in ("IMG_0003.CR2", "IMG_0004.MOV", "IMG_0005.MOV"):
        (folder / name).touch()
    return place


@pytest.fixture(scope="module")
def address(place) -> Iterator[str]:
    with serve(place, "--photos", str(place / "photos")) as (started, log):
        said = log.read_text()
        assert f"{DELETED} photos of {place}/photos are no longer there" in said
        assert "1 .cr2, 2 .mov were left out: not read here." in said
        yield started


def test_what_the_library_lacks_is_said_and_deleted_photos_are_forgotten(
    visit: Callable[..., Page],
) -> None:
    page = visit()
    show_tab(page, "Search")
    notes, forget = page.locator("#library-notes"), page.locator("#library-forget")
    expect(notes).to_contain_text("1 .cr2, 2 .mov were left out: not read here.")
    expect(notes).to_contain_text(f"{DELETED} photos of")
    expect(forget).to_have_text(f"Forget {DELETED} photos")
    assert search(page, "a cup of coffee")[0] == "IMG_0001.HEIC"
    photograph(page, "library-1440-light")
    expect(page.locator("#search-gallery img").first).to_be_visible()
    forget.click()
    expect(page.locator("#search-status")).to_contain_text(
        "2 photos in the library", timeout=ANSWER
    )
    expect(forget).to_be_hidden()
    expect(notes).not_to_contain_text("no longer there")
    assert set(search(page, "a smiling woman")) == set(found(page)) == {
        "IMG_0001.HEIC", "IMG_0002.jpg",
    }  # fmt: skip
    small = visit(390, "dark")
    show_tab(small, "Search")
    expect(small.locator("#library-notes")).to_have_text(
        "1 .cr2, 2 .mov were left out: not read here."
    )
    expect(small.locator("#library-forget")).to_be_hidden()
    photograph(small, "library-390-dark")
