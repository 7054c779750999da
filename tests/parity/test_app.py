"""The app on tiny folders in the published layout, as a user starts it."""

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from demo.decoding import GREEDY, OPTIONS
from demo.library import sample_photos
from tests.parity.published import tokenizer, write

ROOT = Path(__file__).parents[2]
START = 120  # seconds


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("t5", "itm")}
    for kind, folder in folders.items():
        write(kind, folder)
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    place = tmp_path_factory.mktemp("page")
    command = [sys.executable, "app.py", "--port", str(port), "--index", str(place / "index")]
    command += ["--model", str(folders["t5"]), "--retriever", str(folders["itm"])]
    command += ["--quantize", "8bit", "--device", "cpu"]
    log = place / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START
        while f"Open {address}" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200
        yield Client(address, verbose=False)
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_a_published_model_captions_and_a_published_retriever_finds(page):
    options = [GREEDY, *(option.default for option in OPTIONS.values())]
    photo = sample_photos()[0]
    caption = page.predict(handle_file(str(photo)), "", *options, api_name="/caption")[0]
    assert len(caption.split()) > 3
    assert set(caption.split()) <= set(tokenizer("t5").get_vocab())
    asked = page.predict(handle_file(str(photo)), "what is this ?", api_name="/ask")
    assert "what is this ?" in str(asked)
    gallery = page.predict("a photo of the dog", 3, False, api_name="/search")[0]
    assert len(gallery) == 3 and all(Path(shown["image"]).is_file() for shown in gallery)
