"""The page in a real browser, on the real mini: caption, conversation and search of real photos.

Needs Debian's Chromium (``apt-get install chromium``). With BLIP2_DEMO_URL set to the address of a
running page, that one is looked at. Screenshots of each tab are left in tests/browser/shots.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
SHOTS = Path(__file__).parent / "shots"
PHOTOS = Path(find_spec("skimage").submodule_search_locations[0], "data")
START = 300  # seconds that the page may take to start, with whatever must be fetched
ANSWER = 60_000  # milliseconds that an answer may take
PEOPLE = {"man", "woman", "person", "girl", "boy", "people", "child", "lady", "guy"}


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Where the page is: one already running, or one started as its users start it."""
    if running := os.environ.get("BLIP2_DEMO_URL"):
        yield running.rstrip("/")
        return
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    place = tmp_path_factory.mktemp("page")
    log = place / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--index", str(place / "index")]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START
        while f"Open http://127.0.0.1:{port}" not in log.read_text():
            assert server.poll() is None, f"app.py ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"app.py does not start: {log.read_text()}"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        server.terminate()
        server.wait(timeout=90)  # a busy machine takes its time


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "There is no Chromium; install it with `apt-get install chromium`."
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


def open_page(browser: Browser, address: str, width: int, theme: str) -> tuple[Page, list[str]]:
    """Open the page; returns also a list that fills with what must not happen in it."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:"))
            else wrong.append(f"request to {request.url}")
        ),
    )
    page.goto(f"{address}/?__theme={theme}")
    expect(page.locator("#caption-run")).to_be_visible(timeout=ANSWER)
    return page, wrong


def show_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


def send_photo(page: Page, tab: str, photo: Path) -> None:
    page.set_input_files(f"#{tab}-photo input[type=file]", photo)
    expect(page.locator(f"#{tab}-photo img")).to_be_visible()


def photograph(page: Page, name: str) -> None:
    page.wait_for_timeout(500)  # for what fades in
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def read_caption(page: Page) -> str:
    timing = page.locator("#caption-timing")
    expect(timing).not_to_contain_text("words")  # those of the photo before
    page.click("#caption-run")
    expect(timing).to_contain_text("words", timeout=ANSWER)
    return page.locator("#caption-text textarea").input_value()


def ask(page: Page, question: str, turn: int) -> str:
    """Ask, and wait until the answer stands still."""
    page.fill("#chat-question textarea", question)
    page.click("#chat-send")
    answers = page.locator("#chat-history .bot.message")
    expect(answers).to_have_count(turn, timeout=ANSWER)
    before = ""
    for _ in range(ANSWER // 1000):
        page.wait_for_timeout(1000)
        answer = answers.last.inner_text()
        if answer == before and answer.strip(" .\n"):
            return answer
        before = answer
    raise AssertionError(f"the answer does not end: {before}")


def search(page: Page, text: str) -> list[str]:
    """Search; returns the names of the photos found, best first."""
    page.fill("#search-text textarea", text)
    page.click("#search-run")
    expect(page.locator("#search-status")).to_contain_text(f"for “{text}”", timeout=ANSWER)
    captions = page.locator("#search-gallery .caption-label").all_inner_texts()
    return [caption.split(" · ")[1] for caption in captions]


def test_a_visit(browser: Browser, address: str, tmp_path: Path) -> None:
    SHOTS.mkdir(exist_ok=True)
    page, wrong = open_page(browser, address, 1440, "light")

    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    page.set_input_files("#caption-photo input[type=file]", bad)
    expect(page.locator("#caption-notice")).to_contain_text("not a picture; use JPEG")
    send_photo(page, "caption", PHOTOS / "astronaut.png")
    expect(page.locator("#caption-notice")).to_be_hidden()
    caption = read_caption(page)
    assert len(caption.split()) >= 3 and words_of(caption) & PEOPLE, caption
    page.locator("#caption-samples button").nth(1).click()  # the astronaut, too
    page.get_by_role("button", name="Write a short caption.").click()
    assert words_of(read_caption(page)) & PEOPLE
    photograph(page, "caption-1440-light")

    show_tab(page, "Chat")
    send_photo(page, "chat", PHOTOS / "astronaut.png")
    assert words_of(ask(page, "Who is in this photo?", 1)), "the answer has no words"
    assert words_of(ask(page, "What colour is the suit?", 2)), "the answer has no words"
    photograph(page, "chat-1440-light")
    page.locator("#chat-samples button").first.click()  # another photo, another conversation
    expect(page.locator("#chat-history .bot.message")).to_have_count(0)

    show_tab(page, "Search")
    assert "motorcycle_left.png" in search(page, "a red motorcycle")[:3]
    assert "astronaut.png" in search(page, "a smiling woman in an orange suit")[:3]
    shown = page.locator("#search-gallery img").first
    assert shown.evaluate("photo => photo.complete && photo.naturalWidth > 100")
    page.get_by_text("Add photos").click()
    page.set_input_files("#search-files input[type=file]", [PHOTOS / "retina.jpg", bad])
    report = page.locator("#search-report")
    expect(report).to_contain_text("1 was refused", timeout=ANSWER)
    expect(report).to_contain_text("bad.jpg")
    expect(page.locator("#search-status")).to_contain_text("photos in the library")
    photograph(page, "search-1440-light")
    assert wrong == []
    page.close()


@pytest.mark.parametrize(
    ("width", "theme"), [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")]
)
def test_nothing_reaches_over_the_edge(
    browser: Browser, address: str, width: int, theme: str
) -> None:
    page, wrong = open_page(browser, address, width, theme)
    for tab in ("Caption", "Chat", "Search"):
        show_tab(page, tab)
        photograph(page, f"{tab.lower()}-empty-{width}-{theme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []
    page.close()
