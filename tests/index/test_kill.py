"""A writer killed at any step of its work leaves the old state or the new one, whole."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from index import IndexFileError, PhotoIndex
from tests.index.fake_retriever import COLOURS, paint

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"library\.sqlite|manifest\.json|(embeddings|rows)-\d+\.npy|write\.lock")


def killed_at_every_step(what: str, index: Path, photos: Path, out: Path) -> list[Path]:
    """Return the folder of a run that was not killed, then those of the killed ones, in order."""
    out.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.index.kill_writer", what, index, photos, out],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return [out / name for name in sorted(os.listdir(out), key=int)]


def contents(index: PhotoIndex) -> list[tuple[str, float]]:
    return [(hit.path.name, round(hit.score, 3)) for hit in index.search("red", k=99)]


def by_score(item: tuple[str, float]) -> float:
    return -item[1]


@pytest.mark.parametrize("what", ["add", "remove"])
def test_killed_while_changing(library, photos, retriever, tmp_path, what):
    paint(photos / "more" / "white.png", "white")
    paint(photos / "more" / "rose.png", "red", "white", "white", "white")
    paint(photos / "more" / "copy.png", "red")
    paint(photos / "more" / "green.png", "green")
    if what == "remove":
        library.add([photos / "more"])
    other = paint(tmp_path / "yellow.png", "yellow")
    old = contents(library)
    folders = killed_at_every_step(what, tmp_path / "index", photos / "more", tmp_path / "runs")
    new = contents(PhotoIndex.open(folders[0], retriever))
    assert len(new) - len(old) == {"add": 3, "remove": -3}[what]

    states = []
    for folder in folders[1:]:
        index = PhotoIndex.open(folder, retriever)
        assert index.verify() == []
        states.append(contents(index))
        assert states[-1] in (old, new)
        # The next writer, at other work, takes nothing over from the dead one.
        index.add([other])
        assert contents(index) == sorted([*states[-1], ("yellow.png", 0.718)], key=by_score)
        assert PhotoIndex.open(folder, retriever).verify() == []
        assert index.remove([other]) == 1
        # A third finishes what the first began.
        if what == "add":
            index.add([photos / "more"])
        else:
            index.remove([photos / "more"])
        again = PhotoIndex.open(folder, retriever)
        assert contents(again) == new
        assert again.verify() == []
        # Two additions are two segments; one from which most was removed is written anew.
        assert len(list(folder.glob("embeddings-*"))) <= 3
        assert all(OURS.fullmatch(name) for name in os.listdir(folder))
    committed = states.index(new)
    assert states == [old] * committed + [new] * (len(states) - committed)
    assert committed >= 6, "journal, rows, vectors aside and in place, manifest aside"
    assert len(states) > committed, "manifest in place"


def test_killed_while_creating(photos, retriever, tmp_path):
    folders = killed_at_every_step("create", tmp_path / "none", photos, tmp_path / "runs")
    absent = 0
    for folder in folders:
        try:
            index = PhotoIndex.open(folder, retriever)
        except IndexFileError as error:
            assert "There is no index in" in str(error)
            absent += 1
            index = PhotoIndex.create(folder, retriever)
        assert index.add([photos]).added == 3
        assert index.verify() == []
        assert index.search("red")[0].path.name == "half.png"
    assert 6 <= absent < len(folders) - 1


def test_two_hundred_kills_at_random_moments(tmp_path, retriever):
    """Adding, removing and building: nothing committed is missing, nothing is doubled."""
    draw = np.random.default_rng(1)
    for name in ("photos", "hidden"):
        (tmp_path / name).mkdir()
    colours = list(COLOURS)
    for number in range(24):
        # Of different contents: the colours are the digits of the number.
        four = [colours[number // 5**place % 5] for place in range(3)]
        path = paint(tmp_path / "photos" / f"{number}.png", *four, colours[draw.integers(5)])
        if number % 6 == 0:
            shutil.copy(path, path.with_name(f"{number}-copy.png"))
    PhotoIndex.create(tmp_path / "index", retriever)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.index.random_kills", tmp_path, "200"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert sum(seen[what] for what in ("add", "remove", "build")) >= 150, "died at work"
    assert min(seen["add"], seen["remove"], seen["build"], seen["new"], seen["between"]) >= 3
