"""The app as its users start it, and a real browser before it.

Needs Debian's Chromium (``apt-get install chromium``). With BLIP2_DEMO_URL set to the address of a
running page, that one is looked at. Screenshots are left in tests/browser/shots.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
SHOTS = Path(__file__).parent / "shots"
PHOTOS = Path(find_spec("skimage").submodule_search_locations[0], "data")
START = 300  # seconds that the page may take to start, with whatever must be fetched
ANSWER = 60_000  # milliseconds that an answer may take
expect.set_options(timeout=20_000)  # a busy machine takes its time with what comes at once, too


@contextmanager
def serve(place: Path, *flags: str) -> Iterator[tuple[str, Path]]:
    """Start the page as its users start it; gives its address and the file of what it prints."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    log = place / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--index", str(place / "index")]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, *flags], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START
        while f"Open http://127.0.0.1:{port}" not in log.read_text():
            assert server.poll() is None, f"app.py ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"app.py does not start: {log.read_text()}"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", log
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        server.terminate()
        server.wait(timeout=90)  # a busy machine takes its time


@pytest.fixture(scope="session")
def address(tmp_path_factory) -> Iterator[str]:
    """Where the page is: one already running, or one started as its users start it."""
    if running := os.environ.get("BLIP2_DEMO_URL"):
        yield running.rstrip("/")
        return
    with serve(tmp_path_factory.mktemp("page")) as (started, _):
        yield started


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium with a camera that shows a moving test picture."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "There is no Chromium; install it with `apt-get install chromium`."
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    SHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens pages; errors in them and requests to anywhere else fail the test."""
    wrong: list[str] = []
    contexts = []

    def open_page(width: int = 1440, theme: str = "light") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            permissions=["camera", "clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: note_request(request.url))
        page.goto(f"{address}/?__theme={theme}")
        expect(page.locator("#caption-run")).to_be_visible(timeout=ANSWER)
        return page

    def note_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            wrong.append(f"request to {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def show_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect_tab(page, name)


def expect_tab(page: Page, name: str) -> None:
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


def send_photo(page: Page, photo: Path) -> None:
    page.set_input_files("#photo input[type=file]", photo)
    expect(page.locator("#photo img")).to_be_visible()


def pick_sample(page: Page, number: int) -> None:
    """Choose one of the sample photos, from 0: a cat, an astronaut, coffee, a rocket, ..."""
    page.locator("#photo-samples button").nth(number).click()
    expect(page.locator("#photo img")).to_be_visible()
    page.wait_for_timeout(300)  # until the page has said so to the server


def photograph(page: Page, name: str) -> None:
    page.wait_for_timeout(500)  # for what fades in
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def unfold(page: Page, name: str) -> None:
    """Open an accordion by its id, unless it is."""
    button = page.locator(f"#{name} > button")
    if "open" not in (button.get_attribute("class") or ""):
        button.click()
    page.wait_for_timeout(300)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))
