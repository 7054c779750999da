"""Commands of `index` and `blip2` whose output nobody reads any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blip2.closed_pipe import CLOSED, ends_quietly
from index import PhotoIndex
from tests.index.fake_retriever import FakeRetriever, paint

ROOT = Path(__file__).parents[2]
# The commands of `index` as they are, but for a model that loads at once.
WITH_A_MODEL = """
import sys
from index.__main__ import main
from tests.index.fake_retriever import FakeRetriever
sys.exit(main(sys.argv[1:], FakeRetriever))
"""


@pytest.fixture
def index(tmp_path: Path) -> Path:
    photo = paint(tmp_path / "photos" / "red.png", "red")
    PhotoIndex.create(tmp_path / "index", FakeRetriever()).add([photo])
    return tmp_path / "index"


def run_unread(
    arguments: list[str], closed: str = "stdout", unbuffered: bool = False
) -> tuple[int, str]:
    """Run Python with one of its streams closed; its status, and what the other stream has."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    getattr(process, closed).close()
    with process.stderr if closed == "stdout" else process.stdout as other:
        said = other.read()
    return process.wait(timeout=120), said


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "index", "info", "INDEX"],
        ["-m", "index", "verify", "INDEX", "--json"],
        ["-m", "index", "build", "PHOTOS", "--out", "INDEX"],  # nothing new: needs no model
        ["-m", "index", "remove", "INDEX", "PHOTOS"],
        ["-m", "index", "--help"],
        ["-c", WITH_A_MODEL, "search", "INDEX", "red"],
        ["-c", WITH_A_MODEL, "texts", "PHOTO", "red", "blue", "--json"],
        ["-m", "blip2", "ask", "--help"],
    ],
)
def test_they_end_without_a_word(index, arguments):
    photos = index.parent / "photos"
    places = {"INDEX": index, "PHOTOS": photos, "PHOTO": photos / "red.png"}
    arguments = [str(places.get(argument, argument)) for argument in arguments]
    assert run_unread(arguments) == (CLOSED, "")


def test_where_every_line_is_written_at_once(index):
    assert run_unread(["-m", "index", "info", str(index)], unbuffered=True) == (CLOSED, "")


def test_errors_are_still_told():
    status, said = run_unread(["-m", "blip2", "caption", "none.jpg", "--json"])
    assert (status, said) == (CLOSED, "error: The file none.jpg does not exist; check the path.\n")


def test_an_error_that_nobody_reads():
    assert run_unread(["-m", "index", "info", "/none"], closed="stderr") == (CLOSED, "")


def test_another_pipe_that_breaks_is_an_error(capsys):
    @ends_quietly
    def command() -> int:
        raise BrokenPipeError("the server has gone")

    with pytest.raises(BrokenPipeError, match="the server has gone"):
        command()
