import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).parent


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def test_help_shows_every_flag_and_an_example():
    shown = run("--help")
    assert shown.returncode == 0
    flags = "--model --retriever --photos --index --host --port --share --auth --device --quantize"
    assert set(flags.split(" ")) <= set(shown.stdout.split())
    assert "python app.py --photos" in shown.stdout


def test_reading_the_flags_imports_nothing_heavy():
    code = (
        "import sys, app; app.parse([]);"
        "print(*({'torch', 'gradio', 'transformers', 'faiss', 'PIL'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (shown.stdout.strip(), shown.stderr) == ("", "")


def test_a_busy_port_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = run("--port", str(port))
    assert shown.returncode == 2
    assert shown.stderr == (
        f"error: Port {port} of 127.0.0.1 is in use already; choose another with --port.\n"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--auth", "ann"], "--auth needs a name and a password"),
        (["--auth", ":secret"], "--auth needs a name and a password"),
        (["--photos", "/no/such/folder"], "The folder /no/such/folder does not exist"),
        (["--port", "70000"], "There is no port 70000"),
        (["--mcp"], "run pip install 'gradio[mcp]' first"),
        (["--host", "host.invalid"], "The address host.invalid:"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, sentence):
    shown = run("--port", str(free_port()), *flags)
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: ") and sentence in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_it_listens_on_this_computer_alone_except_on_spaces(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert (app.parse([]).host, app.parse([]).port) == ("127.0.0.1", 7860)
    monkeypatch.setenv("SPACE_ID", "someone/blip2")
    assert app.parse([]).host == "0.0.0.0"
    assert app.parse(["--host", "127.0.0.1"]).host == "127.0.0.1"


def test_a_password_may_hold_a_colon():
    assert app.read_login("ann:a:b") == ("ann", "a:b")
    assert app.read_login(None) is None
