"""The Search tab in a real browser, on the real mini-itm."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    ANSWER,
    PHOTOS,
    expect_tab,
    photograph,
    pick_sample,
    show_tab,
    unfold,
    words_of,
)


def found(page: Page) -> list[str]:
    """Names of the photos found, best first."""
    captions = page.locator("#search-gallery .caption-label").all_inner_texts()
    return [caption.split(" · ")[1] for caption in captions]


def search(page: Page, text: str) -> list[str]:
    page.fill("#search-text textarea", text)
    page.click("#search-run")
    expect(page.locator("#search-status")).to_contain_text(f"for “{text}”", timeout=ANSWER)
    return found(page)


def test_photos_are_found_by_words(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Search")
    expect(page.locator("#search-status")).to_contain_text("photos in the library")
    photograph(page, "search-empty-1440-light")
    assert search(page, "a red motorcycle")[0] == "motorcycle_left.png"
    assert "astronaut.png" in search(page, "a smiling woman in an orange suit")[:3]
    shown = page.locator("#search-gallery img").first
    assert shown.evaluate("photo => photo.complete && photo.naturalWidth > 100")
    photograph(page, "search-1440-light")

    page.fill("#search-text textarea", "a cup of coffee")
    page.keyboard.press("Enter")
    expect(page.locator("#search-status")).to_contain_text("for “a cup of coffee”", timeout=ANSWER)
    assert found(page)[0] == "coffee.png"
    page.get_by_role("button", name="a wild animal", exact=True).click()
    expect(page.locator("#search-status")).to_contain_text("for “a wild animal”", timeout=ANSWER)
    assert set(found(page)[:3]) == {"lion.jpg", "cheetah.jpg", "cheetah1.jpg"}
    assert "chelsea.png" in search(page, "a cat")[:2]  # beside a cheetah

    box = page.locator("#search-k input[type=number]")
    box.fill("3")
    box.press("Tab")
    assert len(search(page, "a yellow tower")) == 3
    page.get_by_label("Re-rank").check()
    assert "motorcycle_left.png" in search(page, "a motorbike")
    captions = page.locator("#search-gallery .caption-label").all_inner_texts()
    assert all("% match" in caption for caption in captions), captions
    photograph(page, "search-reranked-1440-light")
    search(page, "a spreadsheet on a screen")
    expect(page.locator("#search-status")).to_contain_text("No good match")
    photograph(page, "search-no-match-1440-light")


def test_what_was_not_read_is_said(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Search")
    status = page.locator("#search-status")
    assert search(page, "a cat")
    for text in ("狗", "🐶", "...!"):
        page.fill("#search-text textarea", text)
        page.click("#search-run")
        expect(status).to_have_text("mini-itm knows no word of this; it reads English.")
        expect(page.locator("#search-gallery .caption-label")).to_have_count(0)
        search(page, "a cat")
    photograph(page, "search-before-unread-1440-light")
    page.fill("#search-text textarea", "狗")
    page.click("#search-run")
    expect(status).to_contain_text("it reads English")
    photograph(page, "search-unread-1440-light")
    search(page, "a cat 狗")
    expect(status).to_contain_text("The model does not know “狗”.")
    photograph(page, "search-partly-read-1440-light")
    page.fill("#search-text textarea", "a cat " + "and another cat " * 9)
    page.click("#search-run")
    expect(status).to_contain_text("Only the first 22 of 29 words were read.", timeout=ANSWER)

    pick_sample(page, 4)
    unfold(page, "search-words")
    page.fill("#words-lines textarea", "a dog on the beach\na red motorcycle 狗")
    page.click("#words-run")
    ranked = page.locator("#words-ranked")
    expect(ranked).to_contain_text("The model does not know “狗”.", timeout=ANSWER)
    expect(ranked.locator("li")).to_have_count(2)
    photograph(page, "search-words-partly-read-1440-light")
    page.fill("#words-lines textarea", "a dog on the beach\n狗")
    page.click("#words-run")
    refusal = "“狗” cannot be compared: mini-itm knows no word of this; it reads English."
    expect(ranked.get_by_text(refusal)).to_be_visible(timeout=ANSWER)
    expect(ranked.locator("li")).to_have_count(0)
    photograph(page, "search-words-unread-1440-light")


def test_filters(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Search")
    unfold(page, "search-filters")
    page.get_by_label("File name").fill("c*")
    assert set(search(page, "a cat")) >= {"chelsea.png", "coffee.png"}
    assert all(name.startswith("c") for name in found(page))
    photograph(page, "search-filters-1440-light")
    page.get_by_role("textbox", name="From").fill("2100-01-01")
    page.click("#search-run")
    expect(page.locator("#search-status")).to_contain_text("No photo passes the filters")
    photograph(page, "search-nothing-1440-light")
    page.get_by_role("textbox", name="From").fill("yesterday")
    page.click("#search-run")
    expect(page.get_by_text("yesterday").last).to_be_visible()


def test_a_result_is_captioned_chatted_about_and_searched_with(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Search")
    first = search(page, "a wild animal")[0]
    page.locator("#search-gallery .thumbnail-item").first.click()
    expect(page.locator("#search-chosen-name")).to_have_text(first)
    photograph(page, "search-chosen-1440-light")
    page.click("#chosen-similar")
    expect(page.locator("#search-status")).to_contain_text("like this one", timeout=ANSWER)
    assert first not in found(page) and len(found(page)) >= 8
    expect(page.locator("#chosen-caption")).to_be_hidden()  # it is of the search before

    search(page, "a red motorcycle")
    page.locator("#search-gallery .thumbnail-item").first.click()
    page.click("#chosen-caption")
    expect_tab(page, "Caption")
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)
    assert words_of(page.locator("#caption-text textarea").input_value())
    shown = page.locator("#photo img").get_attribute("src")

    show_tab(page, "Search")
    search(page, "a wild animal")
    page.locator("#search-gallery .thumbnail-item").first.click()
    page.click("#chosen-chat")
    expect_tab(page, "Chat")
    expect(page.locator("#chat-question textarea")).to_be_focused()
    assert page.locator("#photo img").get_attribute("src") != shown
    page.get_by_role("button", name="What is in this photo?").click()
    expect(page.locator("#chat-history .bot.message")).to_have_count(1, timeout=ANSWER)


def test_words_that_fit_the_photo(visit: Callable[..., Page]) -> None:
    page = visit()
    show_tab(page, "Search")
    pick_sample(page, 4)
    unfold(page, "search-words")
    page.fill("#words-lines textarea", "a dog on the beach\na red motorcycle\nfood on a plate")
    page.click("#words-run")
    rows = page.locator("#words-ranked li")
    expect(rows).to_have_count(3, timeout=ANSWER)
    assert rows.locator(".text").all_inner_texts()[0] == "a red motorcycle"
    assert rows.locator(".score").all_inner_texts()[0].endswith("%")
    photograph(page, "search-words-1440-light")
    page.click("#words-write")
    expect(page.locator("#words-lines textarea")).not_to_have_value(
        "a dog on the beach\na red motorcycle\nfood on a plate", timeout=ANSWER
    )
    lines = page.locator("#words-lines textarea").input_value().splitlines()
    expect(rows).to_have_count(len(lines), timeout=ANSWER)


def test_photos_are_added_and_near_duplicates_folded(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    page = visit()
    show_tab(page, "Search")
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with Image.open(PHOTOS / "coffee.png") as coffee:
        coffee.save(tmp_path / "espresso.jpg", quality=60)
    unfold(page, "search-add")
    page.set_input_files(
        "#search-files input[type=file]", [PHOTOS / "retina.jpg", bad, tmp_path / "espresso.jpg"]
    )
    report = page.locator("#search-report")
    expect(report).to_contain_text("2 photos added. 1 was refused", timeout=ANSWER)
    expect(report).to_contain_text("bad.jpg The given photo is not in a format")
    expect(page.locator("#search-status")).to_contain_text("11 photos in the library")
    expect(page.locator("#search-gallery .caption-label")).to_have_count(11)
    photograph(page, "search-added-1440-light")
    assert len(search(page, "a cup of coffee")) == 10
    expect(page.locator("#search-gallery")).to_contain_text(", 1 more like it")
    photograph(page, "search-folded-1440-light")
    unfold(page, "search-filters")
    page.get_by_label("Fold near-duplicates").uncheck()
    assert len(search(page, "a cup of espresso")) == 11
