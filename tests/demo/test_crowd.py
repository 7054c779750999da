"""Fifty visitors at once, on the real mini: nobody waits for ever, and no text goes astray."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

ROOT = Path(__file__).parents[2]
PHOTOS = Path(find_spec("skimage").submodule_search_locations[0], "data")
SAMPLES = [PHOTOS / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
INSTRUCTIONS = ("", "Describe this photo.", "What does this photo show?")
VISITORS = 50
START = 300  # seconds that the page may take to start on a busy machine


class Visitor:
    """A program that uses the page; finds its parameters by what they are called there."""

    def __init__(self, address: str) -> None:
        self.client = Client(address, verbose=False)
        self.endpoints = self.client.view_api(print_info=False, return_format="dict")[
            "named_endpoints"
        ]

    def caption(self, photo: Path, instruction: str) -> str:
        parameters = self.endpoints["/caption"]["parameters"]
        names = {given["label"]: given["parameter_name"] for given in parameters}
        values = {
            names["Photo"]: handle_file(photo),
            names["Instruction"]: instruction,
            names["Maximum length"]: 12,
        }
        result = self.client.predict(**values, api_name="/caption")
        kinds = [given["component"] for given in self.endpoints["/caption"]["returns"]]
        return result[kinds.index("Textbox")]

    def ask(self, photo: Path, question: str) -> str:
        names = [given["parameter_name"] for given in self.endpoints["/ask"]["parameters"]]
        values = {names[0]: handle_file(photo), names[1]: question}
        messages = next(
            part
            for part in self.client.predict(**values, api_name="/ask")
            if isinstance(part, list)
        )
        said = [message["content"] for message in messages]
        asked, answer = (text if isinstance(text, str) else text[0]["text"] for text in said)
        assert asked == question, "the conversation is somebody else's"
        return answer


class Memory:
    """Watches how much memory a process and its children take."""

    def __init__(self, process: int) -> None:
        self.process = process
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def now(self) -> int:
        """Return kilobytes."""
        left, total = [self.process], 0
        while left:
            home = Path("/proc", str(left.pop()))
            try:
                total += int(re.search(r"VmRSS:\s+(\d+)", (home / "status").read_text())[1])
                left += [
                    int(child)
                    for child in (home / "task" / home.name / "children").read_text().split()
                ]
            except (OSError, TypeError):  # ended meanwhile
                continue
        return total

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, int]]:
    """The page as users start it: its address and its process."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    log = tmp_path / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--index", str(tmp_path / "index")]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START
        while f"Open http://127.0.0.1:{port}" not in log.read_text():
            assert process.poll() is None, f"app.py ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"app.py does not start: {log.read_text()}"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process.pid
        assert process.poll() is None, f"app.py ended: {log.read_text()}"
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=90)


def own_copy(photo: Path, folder: Path, number: int) -> Path:
    """Return the same picture in other bytes: no text about it can have been kept from before."""
    copy = folder / f"{number}-{photo.name}"
    copy.write_bytes(photo.read_bytes() + f"copy {number}".encode())
    return copy


def told_busy(attempt: Callable[[], str]) -> str | None:
    """Return what an attempt gives; None where the visitor is told that the page is busy."""
    try:
        return attempt()
    except QueueError:  # as gradio_client reads 503: "Queue is full! Please try again."
        return None
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 429, error.response.text
        assert "waiting already" in error.response.text or "uploads" in error.response.text
        return None
    except AppError as error:
        assert "busy" in str(error) or "full" in str(error), error
        return None


def test_fifty_visitors_at_once(server, tmp_path):
    address, process = server
    lone = Visitor(address)
    wishes = [(photo, instruction) for photo in SAMPLES for instruction in INSTRUCTIONS]
    alone = {wish: lone.caption(*wish) for wish in wishes[:1]}  # this also warms the server up
    with ThreadPoolExecutor(8) as pool:
        visitors = list(pool.map(lambda _: Visitor(address), range(VISITORS)))
    memory = Memory(process)
    warm = memory.now()
    together = threading.Barrier(VISITORS)

    def visit(number: int) -> tuple[str | None, str | None]:
        photo, instruction = wishes[number % len(wishes)]
        photo = own_copy(photo, tmp_path, number)
        together.wait(60)
        text = told_busy(lambda: visitors[number].caption(photo, instruction))
        if number % 2:
            return text, ""
        question = f"What is in photo number {number}?"
        return text, told_busy(lambda: visitors[number].ask(photo, question))

    start = time.monotonic()
    with memory, ThreadPoolExecutor(VISITORS) as pool:
        answers = list(pool.map(visit, range(VISITORS)))
    took = time.monotonic() - start
    print(f"{took:.1f} s; {warm / 1e3:.0f} MB warm, {memory.peak / 1e3:.0f} MB at most")

    assert memory.peak <= 1.5 * warm
    alone |= {wish: lone.caption(*wish) for wish in wishes[1:]}
    assert len(set(alone.values())) >= len(SAMPLES), "all texts are the same, so nothing is tested"
    served = 0
    for number, (text, answer) in enumerate(answers):
        if text is not None:
            assert text == alone[wishes[number % len(wishes)]], f"visitor {number} reads {text}"
            served += 1
        assert answer is None or number % 2 or answer.strip(" ."), f"visitor {number}: no answer"
    assert served >= VISITORS * 0.9
