"""Measure the running app: `python -m tests.benchmarks.app`.

Starts ``app.py`` as a user does and prints how long the page takes to answer, what a visitor waits
for in Chromium, how long captions and searches take for a program, and the memory of all processes
after that. With ``--photos 10000`` the library is that large: small pictures of noise, whose
embeddings are drawn at random instead of computed, so that it is made in a minute.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import torch
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from blip2 import Blip2Retriever
from demo.library import sample_photos
from index import PhotoIndex

ROOT = Path(__file__).parents[2]
ROUNDS = 3
QUERIES = ("a dog on the grass", "a woman smiling", "a rocket")
# In the browser: milliseconds from a click until an element shows something new.
WAITED = """([button, shown]) => new Promise((resolve) => {
  const read = () => {
    const element = document.querySelector(shown);
    return element?.value ?? [...(element?.querySelectorAll('img') ?? [])]
      .map((image) => image.complete && image.naturalWidth ? image.src : '').join();
  };
  const before = read(), start = performance.now();
  const look = () => {
    const now = read();
    if (now && now !== before && !now.split(',').includes('')) {
      resolve(performance.now() - start);
    } else requestAnimationFrame(look);
  };
  document.querySelector(button).click();
  requestAnimationFrame(look);
})"""


def main() -> None:
    """Run the app and print one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, metavar="N", help="of the library (samples)")
    photos = parser.parse_args().photos
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "app.py", "--port", str(port), "--index", f"{place}/index"]
        if photos:
            make_library(Path(place), photos)
            command += ["--photos", f"{place}/photos"]
        started = time.monotonic()
        app = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            wait_for_page(app, address)
            print(f"page answers after               {time.monotonic() - started:6.1f} s")
            measure_program(Client(address, verbose=False))
            measure_page(address)
            print(f"memory of the running app        {memory(app.pid):6.2f} GB")
        finally:
            app.terminate()
            app.wait()
    print(f"on {os.cpu_count()} cores")


def make_library(place: Path, count: int) -> None:
    """Make photos and their index, with random embeddings under the retriever's name."""
    folder = place / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        pixels = draw.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(folder / f"{number:06}.jpg", quality=70)
    real = Blip2Retriever.from_pretrained("mini-itm", device="cpu")

    class Drawn:
        """Stands in for the retriever while the index is built."""

        name, fingerprint, dim = real.name, real.fingerprint, real.dim
        num_queries, photo_side = real.num_queries, real.photo_side

        def preprocess(self, photo: Path) -> torch.Tensor:
            return torch.zeros(1)

        def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
            vectors = torch.randn(len(pixels), self.num_queries, self.dim)
            return torch.nn.functional.normalize(vectors, dim=-1)

    PhotoIndex.create(place / "index", Drawn()).add([folder])


def wait_for_page(app: subprocess.Popen, address: str) -> None:
    """Return once the page is served.

    Raises
    ------
    RuntimeError
        The app ended before that.
    """
    while app.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"app.py ended with status {app.returncode}")


def measure_program(client: Client) -> None:
    """Time captions and searches of a program."""
    first, whole = [], []
    for number, photo in enumerate(sample_photos() * ROUNDS):
        began = time.monotonic()
        # Each with another length, which is not reached: a text written before comes at once.
        length = 30 + number // len(sample_photos())
        job = client.submit(handle_file(str(photo)), max_new_tokens=length, api_name="/caption")
        words = None
        for text, *_ in job:
            if text and words is None:
                words = time.monotonic() - began
        if number:  # the first request of all warms up
            first.append(words)
            whole.append(time.monotonic() - began)
    show("caption, greedy, whole", whole)
    show("caption, greedy, first word", first)
    for name, rerank in (("search", False), ("search, 32 re-ranked", True)):
        spent = []
        for query in QUERIES * ROUNDS:
            began = time.monotonic()
            client.predict(query, 12, rerank, api_name="/search")
            spent.append(time.monotonic() - began)
        show(name, spent[len(QUERIES) :])  # the first of each make thumbnails


def measure_page(address: str) -> None:
    """Time what a visitor waits for, in Chromium."""
    painted, words, found = [], [], []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for turn in range(ROUNDS):
            page = chromium.new_context().new_page()  # nothing is cached
            page.goto(address)
            page.wait_for_selector("#caption-run")
            painted.append(
                page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            words += [first_word(page, sample, f"Describe photo {turn}.") for sample in (1, 4, 6)]
            page.get_by_role("tab", name="Search").click()
            page.wait_for_timeout(1000)
            for query in QUERIES:
                page.fill("#search-text textarea", f"{query} {turn}")
                found.append(page.evaluate(WAITED, ["#search-run", "#search-gallery"]))
                page.wait_for_timeout(500)
        chromium.close()
    show("first contentful paint", [spent / 1000 for spent in painted])
    show("first word in the page", [spent / 1000 for spent in words])
    show("search, photos in the gallery", [spent / 1000 for spent in found])


def first_word(page: Page, sample: int, instruction: str) -> float:
    """Milliseconds from the click to the first word of a caption."""
    page.locator("#photo-samples button").nth(sample).click()
    page.fill("#caption-instruction textarea", instruction)
    page.wait_for_timeout(500)
    waited = page.evaluate(WAITED, ["#caption-run", "#caption-text textarea"])
    page.wait_for_function("/\\d words/.test(document.querySelector('#caption-timing').innerText)")
    return waited


def show(name: str, seconds: list[float]) -> None:
    """Print the median of some times, and the longest."""
    print(f"{name:32} {statistics.median(seconds):6.2f} s (median; {max(seconds):.2f} at most)")


def memory(pid: int) -> float:
    """Resident memory of a process and its children, in GB."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_info().rss for member in family) / 1e9


if __name__ == "__main__":
    main()
