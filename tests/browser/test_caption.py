"""The Caption tab in a real browser, on the real mini."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    ANSWER,
    PHOTOS,
    photograph,
    pick_sample,
    send_photo,
    unfold,
    words_of,
)

PEOPLE = {"man", "woman", "person", "girl", "boy", "people", "child", "lady", "guy"}


def read_caption(page: Page) -> str:
    """Wait for the caption that is being written, to its end."""
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)
    expect(page.locator("#caption-timing")).not_to_contain_text("Writing", timeout=ANSWER)
    return page.locator("#caption-text textarea").input_value()


def choose(page: Page, strategy: str) -> None:
    unfold(page, "caption-decoding")
    page.get_by_label(strategy).check()
    page.wait_for_timeout(400)


def set_option(page: Page, name: str, value: int) -> None:
    box = page.locator(f"#decoding-{name} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def test_a_photo_is_described_word_by_word(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit()
    photograph(page, "caption-empty-1440-light")
    page.click("#caption-run")
    expect(page.get_by_text("There is no photo yet; choose one first.")).to_be_visible()
    expect(page.locator("#caption-stop")).to_be_disabled()
    photograph(page, "caption-no-photo-1440-light")

    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    page.set_input_files("#photo input[type=file]", bad)
    # The first photo of all starts the process that decodes it, beside the samples' captions.
    expect(page.locator("#photo-notice")).to_contain_text("read here; use JPEG", timeout=ANSWER)
    photograph(page, "photo-refused-1440-light")
    send_photo(page, PHOTOS / "astronaut.png")
    expect(page.locator("#photo-notice")).to_be_hidden()

    page.evaluate("""() => {
      window.seen = [];
      const box = () => document.querySelector('#caption-text textarea').value;
      setInterval(() => { if (window.seen.at(-1) !== box()) window.seen.push(box()); }, 10);
    }""")
    page.click("#caption-run")
    caption = read_caption(page)
    assert len(caption.split()) >= 3 and words_of(caption) & PEOPLE, caption
    seen = [text for text in page.evaluate("window.seen") if text]
    assert len(seen) > 3 and all(later.startswith(text) for text, later in pairwise(seen)), seen
    expect(page.locator("#caption-stop")).to_be_disabled()
    photograph(page, "caption-1440-light")

    page.locator("#caption-text").get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == caption
    page.click("#caption-run")  # again: the text is there at once
    expect(page.locator("#caption-timing")).to_contain_text("written before")


def test_chips_fill_in_instructions(visit: Callable[..., Page]) -> None:
    page = visit()
    pick_sample(page, 1)
    box = page.locator("#caption-instruction textarea")
    for label, instruction in (
        ("Short caption", "Write a short caption."),
        ("In detail", "Describe this photo in detail."),
        ("A question", "What is in this photo?"),
        ("Continue a sentence", "Complete: this is a photo of"),
    ):
        page.get_by_role("button", name=label, exact=True).click()
        expect(box).to_have_value(instruction)
    box.press("Enter")
    assert words_of(read_caption(page))


def test_options_that_do_not_apply_are_disabled(visit: Callable[..., Page]) -> None:
    page = visit()
    pick_sample(page, 1)
    unfold(page, "caption-decoding")
    names = ("candidates", "num-beams", "temperature", "top-p", "length-penalty")
    names += ("min-new-tokens", "max-new-tokens", "repetition-penalty")
    always = set(names[5:])
    for strategy, own in (
        ("Greedy", set()),
        ("Beam search", {"candidates", "num-beams", "length-penalty"}),
        ("Nucleus sampling", {"candidates", "temperature", "top-p"}),
    ):
        choose(page, strategy)
        alive = {
            name
            for name in names
            if page.locator(f"#decoding-{name} input[type=number]").is_enabled()
        }
        assert alive == always | own, strategy
        photograph(page, f"caption-{strategy.split()[0].lower()}-1440-light")


def test_several_candidates_with_scores(visit: Callable[..., Page]) -> None:
    page = visit()
    pick_sample(page, 1)
    choose(page, "Beam search")
    set_option(page, "candidates", 3)
    page.click("#caption-run")
    rows = page.locator("#caption-candidates li")
    expect(rows).to_have_count(3, timeout=ANSWER)
    texts = rows.locator(".text").all_inner_texts()
    assert len(set(texts)) == 3 and words_of(texts[0]) & PEOPLE, texts
    scores = [float(score) for score in rows.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0
    expect(page.locator("#caption-text textarea")).to_have_value(texts[0])
    photograph(page, "caption-candidates-1440-light")
    set_option(page, "num-beams", 2)
    page.click("#caption-run")
    expect(page.get_by_text("3 candidates need at least as many beams")).to_be_visible()


def test_stopping_keeps_the_words_so_far(visit: Callable[..., Page]) -> None:
    page = visit()
    pick_sample(page, 4)
    unfold(page, "caption-decoding")
    set_option(page, "max-new-tokens", 120)
    set_option(page, "min-new-tokens", 60)
    text = page.locator("#caption-text textarea")
    page.click("#caption-run")
    expect(text).not_to_have_value("", timeout=ANSWER)
    expect(page.locator("#caption-stop")).to_be_enabled()
    photograph(page, "caption-writing-1440-light")
    page.click("#caption-stop")
    expect(page.locator("#caption-stop")).to_be_disabled()
    page.wait_for_timeout(500)
    stopped = text.input_value()
    page.wait_for_timeout(1500)
    assert text.input_value() == stopped and len(stopped.split()) < 60
    # Beams show nothing until they end, and can be stopped all the same.
    choose(page, "Beam search")
    page.click("#caption-run")
    page.wait_for_timeout(700)
    page.click("#caption-stop")
    expect(page.locator("#caption-timing")).to_have_text("Stopped.")
    page.wait_for_timeout(1000)
    page.get_by_label("Greedy").check()
    set_option(page, "min-new-tokens", 1)
    page.click("#caption-run")
    assert words_of(read_caption(page))


def test_where_it_looked(visit: Callable[..., Page]) -> None:
    page = visit()
    pick_sample(page, 6)
    unfold(page, "caption-looked")
    page.click("#caption-look")
    pictures = page.locator("#caption-heat img")
    expect(pictures.first).to_be_visible(timeout=ANSWER)
    assert "All 16 queries" in page.locator("#caption-heat").inner_text()
    page.wait_for_function(
        "[...document.querySelectorAll('#caption-heat img')]"
        ".every(picture => picture.complete && picture.naturalWidth > 200)"
    )
    photograph(page, "caption-heat-1440-light")
    pick_sample(page, 0)  # the pictures are of the photo before
    expect(pictures).to_have_count(0)


def test_a_second_visitor_sees_their_place_in_the_queue(visit: Callable[..., Page]) -> None:
    first, second = visit(), visit()
    for page, sample in ((first, 5), (second, 7)):
        pick_sample(page, sample)
    unfold(first, "caption-decoding")
    set_option(first, "max-new-tokens", 120)
    set_option(first, "min-new-tokens", 60)
    first.click("#caption-run")
    expect(first.locator("#caption-text textarea")).not_to_have_value("", timeout=ANSWER)
    second.click("#caption-run")
    expect(second.locator("#caption-text")).to_contain_text("queue: 1/1", timeout=5000)
    photograph(second, "caption-queue-1440-light")
    first.click("#caption-stop")
    assert words_of(read_caption(second))
