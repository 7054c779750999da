"""One photo for all tabs, from wherever it comes."""

from collections.abc import Callable
from pathlib import Path

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
