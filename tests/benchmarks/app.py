"""Measure the running app: `python -m tests.benchmarks.app`.

Starts ``app.py`` as a user does and prints how long the page takes to answer, how long a greedy
caption and its first word take through the page's own endpoint (medians over the sample photos),
a search, and the memory of all its processes after that.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
from gradio_client import Client, handle_file

from demo.decoding import GREEDY, OPTIONS
from demo.library import sample_photos

ROOT = Path(__file__).parents[2]
ROUNDS = 3


def main() -> None:
    """Run the app and print one line for each figure."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as index:
        command = [sys.executable, "app.py", "--port", str(port), "--index", f"{index}/index"]
        started = time.monotonic()
        app = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            wait_for_page(app, address)
            print(f"page answers after            {time.monotonic() - started:6.1f} s")
            measure(Client(address, verbose=False))
            print(f"memory of the running app     {memory(app.pid):6.2f} GB")
        finally:
            app.terminate()
            app.wait()


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


def measure(client: Client) -> None:
    """Time captions and searches."""
    options = [GREEDY, *(option.default for option in OPTIONS.values())]
    first, whole = [], []
    for number, photo in enumerate(sample_photos() * ROUNDS):
        began = time.monotonic()
        job = client.submit(handle_file(str(photo)), "", *options, api_name="/caption")
        words = None
        for text, _ in job:
            if text and words is None:
                words = time.monotonic() - began
        if number:  # the first request of all warms up
            first.append(words)
            whole.append(time.monotonic() - began)
    print(f"caption, greedy, whole        {statistics.median(whole):6.2f} s a photo (median)")
    print(f"caption, greedy, first word   {statistics.median(first):6.2f} s (median)")
    spent = []
    for query in ("a dog on the grass", "a woman smiling", "a rocket") * ROUNDS:
        began = time.monotonic()
        client.predict(query, 9, False, api_name="/search")
        spent.append(time.monotonic() - began)
    print(f"search, sample photos         {statistics.median(spent):6.2f} s (median)")
    print(f"on {os.cpu_count()} cores")


def memory(pid: int) -> float:
    """Resident memory of a process and its children, in GB."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_info().rss for member in family) / 1e9


if __name__ == "__main__":
    main()
