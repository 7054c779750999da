"""The cache builds a folder once, whole or not at all, whatever happens in between."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blip2.cache import MARKER, cache_dir, cached_folder, sha256_of
from blip2.errors import AssetError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Writes two files and counts how often it was asked to."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        self.runs += 1
        (folder / "weights.bin").write_bytes(b"0123456789")
        (folder / "sub").mkdir()
        (folder / "sub" / "words.txt").write_text("hello")


def assert_built(folder: Path) -> None:
    assert (folder / "weights.bin").read_bytes() == b"0123456789"
    assert (folder / "sub" / "words.txt").read_text() == "hello"
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "sub", "weights.bin"]


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/shared")
    monkeypatch.setenv("BLIP2_CACHE", "/var/own")
    assert cache_dir() == Path("/var/own")
    monkeypatch.setenv("BLIP2_CACHE", "parts")
    assert cache_dir() == Path.cwd() / "parts"
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("BLIP2_CACHE", "~/parts")
    assert cache_dir() == Path("/home/someone/parts")
    monkeypatch.delenv("BLIP2_CACHE")
    assert cache_dir() == Path("/var/shared/blip2")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/someone/.cache/blip2")


def test_a_folder_is_built_once(cache: Path) -> None:
    build = Builder()
    folder = cached_folder("part", "v1", build)
    assert folder == cache / "part"
    assert_built(folder)
    assert cached_folder("part", "v1", build) == folder
    assert build.runs == 1
    assert sorted(path.name for path in cache.iterdir()) == ["part", "part.lock"]


def test_the_marker_names_every_file_with_its_hash() -> None:
    folder = cached_folder("part", "v1", Builder())
    record = json.loads((folder / MARKER).read_text())
    digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    assert sha256_of(folder / "weights.bin") == digest
    assert record["source"] == "v1"
    assert sorted(record["files"]) == ["sub/words.txt", "weights.bin"]
    assert record["files"]["weights.bin"] == {"size": 10, "sha256": digest}


def shorten(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"01234")
    os.utime(folder / "weights.bin", (0, 0))  # by its date it is older than the marker


def lose(folder: Path) -> None:
    (folder / "sub" / "words.txt").unlink()


def change_later(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"01234x6789")  # of the same size
    later = time.time() + 60
    os.utime(folder / "weights.bin", (later, later))


def lose_marker(folder: Path) -> None:
    (folder / MARKER).unlink()


def break_marker(folder: Path) -> None:
    (folder / MARKER).write_text('{"source": "v1"')


def empty_marker(folder: Path) -> None:
    (folder / MARKER).write_text("[]")


@pytest.mark.parametrize(
    "damage", [shorten, lose, change_later, lose_marker, break_marker, empty_marker]
)
def test_damage_is_noticed_and_mended(damage) -> None:
    build = Builder()
    folder = cached_folder("part", "v1", build)
    (folder / "left over").mkdir()
    damage(folder)
    cached_folder("part", "v1", build)
    assert build.runs == 2
    assert_built(folder)


def test_a_touched_but_equal_file_is_no_damage() -> None:
    build = Builder()
    folder = cached_folder("part", "v1", build)
    later = time.time() + 60
    os.utime(folder / "weights.bin", (later, later))
    cached_folder("part", "v1", build)
    assert build.runs == 1


def test_another_source_means_building_again() -> None:
    build = Builder()
    cached_folder("part", "v1", build)
    assert_built(cached_folder("part", "v2", build))
    assert build.runs == 2


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise AssetError("no luck")

    with pytest.raises(AssetError, match="no luck"):
        cached_folder("part", "v1", fail)
    assert [path.name for path in cache.iterdir()] == ["part.lock"]


def run_python(script: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", script, *arguments])


def test_a_killed_build_is_cleared_away_and_done_again(cache: Path) -> None:
    script = """
import os
from blip2.cache import cached_folder
def build(folder):
    (folder / "weights.bin").write_bytes(b"half")
    os._exit(9)
cached_folder("part", "v1", build)
"""
    assert run_python(script).wait() == 9
    assert len(list(cache.glob(".part-*/part/weights.bin"))) == 1
    assert_built(cached_folder("part", "v1", Builder()))
    assert sorted(path.name for path in cache.iterdir()) == ["part", "part.lock"]


def test_two_processes_build_it_once(tmp_path: Path) -> None:
    script = """
import os, sys, time
from blip2.cache import cached_folder
def build(folder):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.5)
    (folder / "weights.bin").write_bytes(b"0123456789")
folder = cached_folder("part", "v1", build)
assert (folder / "weights.bin").read_bytes() == b"0123456789"
"""
    log = tmp_path / "builds.txt"
    processes = [run_python(script, str(log)) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_a_cache_that_is_a_file_gives_advice(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(AssetError, match=r"cannot be used .*set BLIP2_CACHE to another folder"):
        cached_folder("part", "v1", Builder())


def test_a_full_disk_gives_advice() -> None:
    def fill(folder: Path) -> None:
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(b"one byte too many")

    with pytest.raises(AssetError, match=r"No space left on device.*make room or set BLIP2_CACHE"):
        cached_folder("part", "v1", fill)
