"""Commits by time, segments merged at the end of a build, and a database that is busy."""

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from index import IndexFileError, PhotoIndex
from index.__main__ import main
from index.manifest import IndexBusyError, Manifest
from index.progress import progress_bar
from tests.index.fake_retriever import FakeRetriever, paint


class Slow(FakeRetriever):
    """Takes a tenth of a second for each photo, and stops after some."""

    stops_at = 10**9

    def embed_pixels(self, pixels):
        if self.embedded >= self.stops_at:
            raise KeyboardInterrupt
        time.sleep(0.1 * len(pixels))
        return super().embed_pixels(pixels)


@pytest.fixture
def many(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8), (number * 6, 255 - number * 6, 90)).save(
            folder / f"{number:02}.png"
        )
    return folder


@pytest.fixture
def small_batches(monkeypatch):
    """A batch of four photos, and a commit after half a second."""
    monkeypatch.setattr("index.grow.BATCH_SIZE", 4)
    monkeypatch.setattr("index.grow.COMMIT_SECONDS", 0.5)


def segments(index: PhotoIndex) -> list[int]:
    return [len(segment) for segment in index.folder.state().store.segments]


def test_commits_by_time_and_one_segment_at_the_end(many, tmp_path, small_batches):
    index = PhotoIndex.create(tmp_path / "index", Slow())
    paint(tmp_path / "first.png", "red")
    index.add([tmp_path / "first.png"])
    assert index.update([many]).added == 40
    assert index.info()["generation"] >= 4, "several commits"
    assert segments(index) == [1, 40], "merged, and what was there before is left alone"
    assert Manifest.read(tmp_path / "index").build_began is None
    assert index.verify() == []


def test_a_broken_off_build_keeps_what_was_committed_and_the_next_merges_it(
    many, tmp_path, small_batches
):
    retriever = Slow()
    retriever.stops_at = 30
    index = PhotoIndex.create(tmp_path / "index", retriever)
    with pytest.raises(KeyboardInterrupt):
        index.update([many])
    kept = len(PhotoIndex.open(tmp_path / "index", retriever))
    assert 12 <= kept < 40 and len(segments(index)) > 1
    fast = FakeRetriever()
    index = PhotoIndex.open(tmp_path / "index", fast)
    assert index.update([many]).added == fast.embedded == 40 - kept
    assert segments(index) == [40] and index.verify() == []
    for number in range(40):
        assert index.similar(many / f"{number:02}.png", k=39)


def test_nothing_new_still_merges_what_a_killed_build_left(many, tmp_path, small_batches):
    index = PhotoIndex.create(tmp_path / "index", Slow())
    for half in ("0*.png", "1*.png"):
        index.add(sorted(many.glob(half)))
    assert segments(index) == [10, 10]
    index.folder.begin_build(1)
    index.update([many / "00.png"])
    assert segments(index) == [20]


@pytest.fixture
def locked(tmp_path, photos, retriever):
    """Gives an index whose database another process can hold for some seconds."""
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.add([photos / "red.png"])
    connection = sqlite3.connect(tmp_path / "index" / "library.sqlite", check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    yield index, connection
    connection.close()


def test_a_build_waits_for_a_busy_database_and_keeps_its_batch(locked, photos, retriever):
    index, connection = locked
    before = retriever.embedded
    timer = threading.Timer(1.5, connection.rollback)
    timer.start()
    assert index.add([photos]).added == 2
    assert retriever.embedded == before + 2, "no photo was embedded twice"
    timer.join()


def test_a_database_that_stays_busy_is_not_called_damaged(locked, photos, monkeypatch):
    index, connection = locked
    monkeypatch.setattr("index.manifest.BUSY_TIMEOUT", 0.3)
    with pytest.raises(IndexBusyError, match=r"is busy: .* try again when it has finished") as told:
        index.add([photos])
    assert "copy" not in str(told.value) and "damaged" not in str(told.value)
    with pytest.raises(IndexFileError, match="busy"):
        index.search("red")
    connection.rollback()
    assert index.add([photos]).added == 2


def test_waits_for_a_minute():
    from index import manifest

    assert manifest.BUSY_TIMEOUT == 60


def test_lines_of_progress_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setattr("index.progress.EVERY", 0.05)
    with progress_bar() as progress:
        for done in range(30):
            time.sleep(0.01)
            progress(done, 30)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6
    assert all(re.fullmatch(r"\d+ of 30 photos, \d+\.\d a second, .* left", line) for line in lines)


def test_lines_come_often_enough():
    from index import embed, progress

    assert progress.EVERY + embed.SLOW <= 30


def test_options_that_change_a_build(photos, tmp_path, capsys):
    def build(*options):
        arguments = ["build", photos, "--out", tmp_path / "index", "--json", *options]
        assert main([str(a) for a in arguments], lambda name: FakeRetriever(name)) == 0
        return json.loads(capsys.readouterr().out)

    assert build("--exclude", "sea")["added"] == 2
    assert build()["known"] == 2, "patterns are kept"
    told = build("--exclude", "")
    assert (told["added"], told["known"]) == (1, 2)
    assert build("--check")["known"] == 3


def test_help_tells_of_them():
    told = subprocess.run(
        [sys.executable, "-m", "index", "build", "--help"], capture_output=True, text=True
    ).stdout
    assert all(option in told for option in ("--exclude", "--forget", "--check"))
