"""A folder of odd names in a real browser: found, filtered, chosen, captioned and added to."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from blip2.display import one_line
from tests.browser.conftest import (
    ANSWER,
    PHOTOS,
    expect_tab,
    photograph,
    serve,
    show_tab,
    unfold,
)
from tests.browser.test_search import found, search
from tests.odd_names import COMPOSED, DECOMPOSED, LATIN, ODD

SCENES = sorted(path for path in PHOTOS.glob("*") if path.stem in (
    "astronaut", "coffee", "chelsea", "rocket", "motorcycle_left", "retina", "hubble_deep_field",
))  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Photos of every odd name, one each in folders of some of them, and one that is damaged."""
    folder = tmp_path_factory.mktemp("photos") / f"{LATIN} \U0001f389"
    folder.mkdir()
    for number, name in enumerate(ODD):
        with Image.open(SCENES[number % len(SCENES)]) as scene:
            small = scene.convert("RGB").resize((160 + 4 * number, 120))
        small.save(folder / f"{name}.jpg")
        if name in (LATIN, DECOMPOSED, "two\nlines", "<b>bold<", " space "):
            (folder / name).mkdir()
            small.rotate(90, expand=True).save(folder / name / f"in {number}.jpg")
    (folder / f"bad\n{LATIN}.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def address(odd, tmp_path_factory) -> Iterator[str]:
    """The page over them, instead of that over the samples."""
    with serve(tmp_path_factory.mktemp("odd"), "--photos", str(odd)) as (started, log):
        left_out = [line for line in log.read_text().splitlines() if line.startswith("Left out")]
        assert len(left_out) == 1 and r"caf\xe9 🎉/bad\ncaf\xe9.jpg: " in left_out[0]
        yield started


def choose_folder(page: Page, name: str) -> None:
    page.locator("#search-folder input").click()
    page.get_by_role("option", name=name, exact=True).click()


def test_photos_of_odd_names(visit: Callable[..., Page], odd: Path, tmp_path: Path) -> None:
    page = visit()
    show_tab(page, "Search")
    expect(page.locator("#search-status")).to_contain_text(f"{len(ODD) + 5} photos in the library")
    box = page.locator("#search-k input[type=number]")
    box.fill("48")
    box.press("Tab")
    unfold(page, "search-filters")
    page.get_by_label("Fold near-duplicates").uncheck()
    names = search(page, "a red motorcycle")
    assert {" ".join(f"{one_line(name)}.jpg".split()) for name in ODD} < set(names)
    photograph(page, "names-1440-light")
    assert page.locator("#search-gallery .caption-label b").count() == 0  # <b> stays text

    for name, typed in (
        (LATIN, r"caf\xe9.jpg"),
        (DECOMPOSED, f"{COMPOSED.upper()}."),
        ("[1]", "[1]"),
    ):
        page.get_by_label("File name").fill(typed)
        assert search(page, f"a cat {typed}"[:60]) == [f"{one_line(name)}.jpg"]
    page.get_by_label("File name").fill("")
    for folder in (r"caf\xe9", COMPOSED, '" space "'):
        choose_folder(page, folder)
        (name,) = search(page, f"a dog {folder}")
        assert name.startswith("in ")
    photograph(page, "names-folder-1440-light")
    choose_folder(page, "All folders")

    page.get_by_label("File name").fill(r"caf\xe9.jpg")
    search(page, "an astronaut")
    page.locator("#search-gallery .thumbnail-item").first.click()
    expect(page.locator("#search-chosen-name")).to_have_text(r"caf\xe9.jpg")
    page.get_by_label("File name").fill("")
    page.click("#chosen-similar")
    expect(page.locator("#search-status")).to_contain_text("like this one", timeout=ANSWER)
    assert len(found(page)) > 20
    page.locator("#search-gallery .thumbnail-item").first.click()
    photograph(page, "names-chosen-1440-light")
    page.click("#chosen-caption")
    expect_tab(page, "Caption")
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)

    show_tab(page, "Search")
    (odd / f"{LATIN}.jpg").rename(tmp_path / "away.jpg")  # while the page runs
    search(page, "a rocket on its pad")
    expect(page.locator("#search-status")).to_contain_text(r"caf\xe9.jpg matched too but was")
    photograph(page, "names-gone-1440-light")
    (tmp_path / "away.jpg").rename(odd / f"{LATIN}.jpg")


def test_uploads_of_odd_names(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit()
    show_tab(page, "Search")
    unfold(page, "search-add")
    names = ["<i>\u202esea 100%\U0001f389.jpg", f"{DECOMPOSED} #1?.jpg", "z" * 251 + ".jpg"]
    for number, name in enumerate(names):
        if number:
            shutil.copy(PHOTOS / ("retina.jpg", "rocket.jpg")[number - 1], tmp_path / name)
        else:
            (tmp_path / name).write_text("no picture")
    page.set_input_files("#search-files input[type=file]", [tmp_path / name for name in names])
    expect(page.locator("#search-gallery")).to_contain_text(f"{COMPOSED}-1.jpg", timeout=ANSWER)
    report = page.locator("#search-report")
    expect(report).to_contain_text("2 photos added. 1 was refused", timeout=ANSWER)
    expect(report).to_contain_text("The given photo is not in a format")
    assert report.locator("i").count() == 0
    photograph(page, "names-added-1440-light")
    tiff = tmp_path / f"{'y' * 250}.tiff"
    with Image.open(PHOTOS / "coffee.png") as coffee:
        coffee.convert("RGB").save(tiff)
    page.set_input_files("#photo input[type=file]", tiff)
    shown = page.locator("#photo img")
    expect(shown).to_have_attribute("src", re.compile("y-shown.jpg"), timeout=ANSWER)
    expect(shown).to_have_js_property("naturalWidth", 600)
    expect(page.locator("#photo-notice")).to_be_hidden()
