"""The page asks nobody outside: every connection of a whole visit is watched."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

import app

ROOT = Path(__file__).parents[2]
PHOTO = Path(find_spec("skimage").submodule_search_locations[0], "data", "coffee.png")
START = 300  # seconds that the page may take to start on a busy machine
# Runs before anything else in every Python process of the server, and notes where it turns to.
WATCH = """
import os, sys

INSIDE = ("", "localhost", "::1", "::", "0.0.0.0", "::ffff:127.0.0.1")


def watch(event, given):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = given[1]
        if not isinstance(address, tuple):  # a socket in the file system, or one connected before
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = given[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host or ""
    if host not in INSIDE and not host.startswith("127."):
        line = f"{event} {host} by {' '.join(sys.argv)}\\n"
        with open(os.environ["WATCH_RECORD"], "a") as record:
            record.write(line)


sys.addaudithook(watch)
with open(os.environ["WATCH_RECORD"] + ".started", "a") as started:
    started.write("watched\\n")
"""


def watched(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which every Python process is watched."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join([str(tmp_path / "watch"), os.environ.get("PYTHONPATH", "")])
    surroundings = {**os.environ, "PYTHONPATH": path, "WATCH_RECORD": str(tmp_path / "record")}
    surroundings.pop("GRADIO_ANALYTICS_ENABLED", None)  # as it is with users
    return surroundings


def test_the_watch_sees_a_connection(tmp_path):
    code = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    subprocess.run([sys.executable, "-c", code], env=watched(tmp_path), capture_output=True)
    assert "socket.connect 192.0.2.1" in (tmp_path / "record").read_text()


def test_a_visit_asks_nobody_outside(tmp_path):
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    log = tmp_path / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--index", str(tmp_path / "index")]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=watched(tmp_path), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START
        while f"Open http://127.0.0.1:{port}" not in log.read_text():
            assert server.poll() is None, f"app.py ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"app.py does not start: {log.read_text()}"
            time.sleep(0.2)
        visitor = Client(f"http://127.0.0.1:{port}", verbose=False)
        endpoints = visitor.view_api(print_info=False, return_format="dict")["named_endpoints"]

        def call(name: str, *values) -> str:
            names = [given["parameter_name"] for given in endpoints[name]["parameters"]]
            return str(visitor.predict(**dict(zip(names, values, strict=False)), api_name=name))

        assert call("/caption", handle_file(PHOTO), "").strip()
        assert "What is this?" in call("/ask", handle_file(PHOTO), "What is this?")
        assert "coffee" in call("/search", "a cup of coffee")
        time.sleep(2)  # for whatever is sent in the background
    finally:
        server.terminate()
        server.wait(timeout=90)
    assert (tmp_path / "record.started").exists(), "nothing was watched"
    record = tmp_path / "record"
    assert not record.exists(), record.read_text()


@pytest.mark.parametrize(("given", "kept"), [(None, "False"), ("True", "True"), ("1", "1")])
def test_analytics_are_sent_only_when_asked_for(monkeypatch, given, kept):
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    if given is not None:
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", given)
    seen = []
    monkeypatch.setattr(
        app, "launch", lambda *_: seen.append(os.environ["GRADIO_ANALYTICS_ENABLED"])
    )
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    before = signal.getsignal(signal.SIGTERM)
    try:
        app.serve(app.parse(["--port", str(port)]))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [kept]
