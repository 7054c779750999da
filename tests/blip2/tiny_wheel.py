"""Real wheels of a few bytes, and a package index on this machine to fetch them from with pip."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blip2.wheels import Wheel


def write_wheel(folder: Path, project: str, members: dict[str, bytes]) -> Wheel:
    """Write a valid wheel and return its description.

    Parameters
    ----------
    folder : Path
        Where the wheel is written.
    project : str
        Its name; the version is 1.0.
    members : dict of str to bytes
        Content by path inside the wheel.
    """
    name = project.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    notes = {
        "METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        for note, text in notes.items():
            archive.writestr(f"{name}-1.0.dist-info/{note}", text)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return Wheel(project, "1.0", len(data), digest, tuple(members))


def pip_reads(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """Let pip know these settings alone, none of this machine's.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        Takes them back after the test.
    settings : str
        Such as `no_index="1"`.
    """
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name.upper()}", value)


@contextmanager
def package_index(
    wheel: Wheel, answers: list[tuple[bytes, int]]
) -> Iterator[tuple[str, list, list]]:
    """Serve a package index over HTTP.

    Parameters
    ----------
    wheel : Wheel
        The only package.
    answers : list of (bytes, int)
        For each download of it, what is sent and the length that is promised; the last one is
        repeated.

    Yields
    ------
    tuple of (str, list, list)
        The URL for pip, the number of bytes sent at each download so far, and the paths of the
        other pages asked for.
    """
    sent: list[int] = []
    pages: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".whl"):
                body, promised = answers[min(len(sent), len(answers) - 1)]
                sent.append(len(body))
                self._answer(body, promised, "application/octet-stream")
            else:
                pages.append(self.path)
                link = f'<a href="/files/{wheel.filename}">{wheel.filename}</a>'.encode()
                self._answer(link, len(link), "text/html")

        def _answer(self, body: bytes, promised: int, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple", sent, pages
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
