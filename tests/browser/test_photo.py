"""One photo for all tabs, from wherever it comes."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    ANSWER,
    PHOTOS,
    expect_tab,
    photograph,
    pick_sample,
    send_photo,
    show_tab,
)
from tests.helpers.photos import oriented, quarters

PASTE = """async (address) => {
  const picture = await (await fetch(address)).blob();
  await navigator.clipboard.write([new ClipboardItem({'image/png': picture})]);
}"""


def caption_in_one_click(page: Page) -> None:
    page.click("#photo-caption")
    expect_tab(page, "Caption")
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)


def test_an_uploaded_photo_is_carried_between_tabs(visit: Callable[..., Page]) -> None:
    page = visit()
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if "/upload" in r.url else None)
    send_photo(page, PHOTOS / "astronaut.png")
    page.click("#photo-similar")
    expect_tab(page, "Search")
    expect(page.locator("#search-status")).to_contain_text("like this one", timeout=ANSWER)
    first = page.locator("#search-gallery .caption-label").first.inner_text()
    assert first.split(" · ")[1] == "astronaut.png", "the photo is not most like itself"
    photograph(page, "search-similar-1440-light")
    page.click("#photo-chat")
    expect_tab(page, "Chat")
    expect(page.locator("#chat-question textarea")).to_be_focused()
    page.keyboard.type("Who is this?")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-history .bot.message")).to_have_count(1, timeout=ANSWER)
    caption_in_one_click(page)
    assert len([url for url in sent if "upload_progress" not in url]) == 1, "sent more than once"


def test_an_svg_is_refused_with_a_reason(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit()
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>")
    page.set_input_files("#photo input[type=file]", tmp_path / "a.svg")
    expect(page.locator("#photo-notice")).to_contain_text("is an SVG drawing; save it as JPEG")
    expect(page.locator("#photo img")).to_have_count(0)


def test_a_pasted_photo(visit: Callable[..., Page]) -> None:
    page = visit()
    pick_sample(page, 0)
    page.evaluate(PASTE, page.locator("#photo img").get_attribute("src"))
    page.locator("#photo").get_by_role("button", name="Remove Image").click()
    expect(page.locator("#photo img")).to_have_count(0)
    page.locator("#photo").get_by_role("button", name="Paste from clipboard").click()
    expect(page.locator("#photo img")).to_be_visible(timeout=ANSWER)
    caption_in_one_click(page)


def test_a_photo_from_the_camera(visit: Callable[..., Page]) -> None:
    page = visit()
    page.locator("#photo").get_by_role("button", name="Capture from camera").click()
    page.locator("#photo").get_by_text("Click to Access Webcam").click()
    page.wait_for_timeout(1500)
    photograph(page, "photo-camera-1440-light")
    page.locator("#photo").get_by_role("button", name="capture photo").click()
    expect(page.locator("#photo img")).to_be_visible(timeout=ANSWER)
    page.wait_for_timeout(500)
    caption_in_one_click(page)


def test_another_photo_clears_what_was_said_about_the_one_before(
    visit: Callable[..., Page],
) -> None:
    page = visit()
    pick_sample(page, 0)
    caption_in_one_click(page)
    pick_sample(page, 3)
    expect(page.locator("#caption-text textarea")).to_have_value("")
    show_tab(page, "Chat")
    page.get_by_role("button", name="What is in this photo?").click()
    pick_sample(page, 4)  # in the middle of the answer
    expect(page.locator("#chat-history .bot.message")).to_have_count(0)
    page.wait_for_timeout(1500)
    expect(page.locator("#chat-history .bot.message")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "form"),
    [("IMG_0001.HEIC", "HEIF"), ("canon.hif", "HEIF"), ("a.avif", "AVIF"), ("scan.tif", "TIFF")],
)
def test_formats_that_browsers_cannot_show(
    name: str, form: str, visit: Callable[..., Page], tmp_path: Path
) -> None:
    """Offered by the dialog for files, taken by Gradio's own check, and shown as a copy."""
    with Image.open(PHOTOS / "chelsea.png") as cat:
        turned = cat.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    (tmp_path / name).write_bytes(oriented(turned, form, 6))
    page = visit()
    with page.expect_file_chooser() as opened:
        page.locator("#photo").get_by_text("click to choose one").click()
    accepted = opened.value.element.get_attribute("accept").split(",")
    assert "image/*" in accepted and Path(name).suffix.lower() in accepted
    opened.value.set_files(tmp_path / name)
    picture = page.locator("#photo img")
    expect(picture).to_have_js_property("naturalWidth", 451, timeout=ANSWER)
    expect(picture).to_have_js_property("naturalHeight", 300)
    expect(page.get_by_text("Only image")).to_have_count(0)
    expect(page.locator("#photo-notice")).to_be_hidden()
    caption_in_one_click(page)
    expect(page.locator("#caption-text textarea")).to_have_value(re.compile("cat|kitten"))
    photograph(page, f"photo-{form.lower()}-1440-light")


DROP = """([target, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  document.querySelector(target).dispatchEvent(
    new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def test_a_heic_that_is_dropped_without_a_type(visit: Callable[..., Page]) -> None:
    """As browsers hand it over that know no such format; what is no photo is refused by Gradio."""
    page = visit()
    heic = base64.b64encode(oriented(quarters(), "HEIF", 1)).decode()
    page.evaluate(DROP, ["#photo .upload-container", "IMG_0002.heic", heic])
    expect(page.locator("#photo img")).to_have_js_property("naturalWidth", 48, timeout=ANSWER)
    page.locator("#photo").get_by_role("button", name="Remove Image").click()
    page.evaluate(DROP, ["#photo .upload-container", "notes.doc", "aGVsbG8="])
    page.wait_for_timeout(1000)
    expect(page.locator("#photo img")).to_have_count(0)
