"""How the page looks and whom it lets in: widths, themes, keyboard, contrast and labels."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    ANSWER,
    expect_tab,
    photograph,
    pick_sample,
    show_tab,
    unfold,
)

LOOKS = [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")]
SERIOUS = {"serious", "critical"}
FOLDS = {
    "Caption": ("caption-decoding", "caption-looked"),
    "Search": ("search-filters", "search-words", "search-add"),
}


def serious(page: Page) -> list[str]:
    """What axe-core finds to be serious or worse, a line each."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['html'][:160]}"
        for rule in found
        if rule["impact"] in SERIOUS
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("width", "theme"), LOOKS)
def test_every_tab_fits_and_can_be_read_by_all(
    visit: Callable[..., Page], width: int, theme: str
) -> None:
    page = visit(width, theme)
    photograph(page, f"empty-{width}-{theme}")
    problems = {"empty": serious(page)}
    pick_sample(page, 1)
    page.click("#photo-caption")
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)
    page.click("#photo-chat")
    page.get_by_role("button", name="What is in this photo?").click()
    expect(page.locator("#chat-history .bot.message")).to_have_count(1, timeout=ANSWER)
    expect(page.locator("#chat-stop")).to_be_disabled(timeout=ANSWER)
    page.click("#photo-similar")
    expect(page.locator("#search-status")).to_contain_text("like this one", timeout=ANSWER)
    page.locator("#search-gallery .thumbnail-item").first.click()
    expect(page.locator("#chosen-chat")).to_be_visible()
    for tab in ("Caption", "Chat", "Search"):
        show_tab(page, tab)
        photograph(page, f"{tab.lower()}-{width}-{theme}")
        for fold in FOLDS.get(tab, ()):
            unfold(page, fold)
        if tab in FOLDS:
            photograph(page, f"{tab.lower()}-unfolded-{width}-{theme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        problems[tab] = serious(page)
    assert not any(problems.values()), problems


def press_until(page: Page, selector: str, key: str = "Tab", most: int = 80) -> None:
    """Press a key until an element has the focus."""
    for _ in range(most):
        if page.evaluate("(s) => !!document.activeElement?.closest(s)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"the keyboard does not come to {selector}")


@pytest.mark.parametrize("width", [390, 1440])
def test_everything_can_be_done_by_keyboard(visit: Callable[..., Page], width: int) -> None:
    page = visit(width)
    press_until(page, "#photo-samples button")
    page.keyboard.press("Enter")
    expect(page.locator("#photo img")).to_be_visible()
    press_until(page, "#tab-caption-button")
    press_until(page, "#caption-instruction textarea")
    page.keyboard.type("Write a short caption.")
    press_until(page, "#caption-run")
    page.keyboard.press("Enter")
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)
    outline = page.evaluate(
        "() => { const s = getComputedStyle(document.activeElement);"
        " return s.outlineStyle !== 'none' || s.boxShadow !== 'none'; }"
    )
    assert outline, "the focus cannot be seen"
    press_until(page, "#tab-chat-button", "Shift+Tab")
    page.keyboard.press("Enter")
    expect_tab(page, "Chat")
    press_until(page, "#chat-question textarea")
    page.keyboard.type("What is this?")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-history .bot.message")).to_have_count(1, timeout=ANSWER)
    press_until(page, "#tab-search-button", "Shift+Tab")
    page.keyboard.press("Enter")
    expect_tab(page, "Search")
    press_until(page, "#search-text textarea")
    page.keyboard.type("a wild animal")
    page.keyboard.press("Enter")
    expect(page.locator("#search-status")).to_contain_text("for “a wild animal”", timeout=ANSWER)
    press_until(page, "#search-gallery .thumbnail-item")
    page.keyboard.press("Enter")
    expect(page.locator("#chosen-caption")).to_be_visible()
    press_until(page, "#chosen-caption", "Shift+Tab")
    page.keyboard.press("Enter")
    expect_tab(page, "Caption")
    expect(page.locator("#caption-timing")).to_contain_text("word", timeout=ANSWER)
