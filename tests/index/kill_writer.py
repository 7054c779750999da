"""Run as a program: makes one change to an index, killed wherever the files have changed.

Usage: kill_writer.py {create,add,remove} INDEX PHOTOS OUT. In OUT/0, a copy of INDEX, the change is
made and watched: it notes before which lines of the writing modules the folder is not as it was one
line before. Then for each of these lines the change is made in a fresh copy OUT/<number>, by a
process that gets SIGKILL before it executes the line.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch  # noqa: F401  imported once, before the processes part

import index.segment_store  # noqa: F401
from index import PhotoIndex, folder
from tests.index.fake_retriever import FakeRetriever

WRITING = tuple(
    str(Path(folder.__file__).with_name(f"{name}.py"))
    for name in ("folder", "library", "locking", "manifest", "segment", "segment_store")
)


def before_each_line(act: Callable[[int], None]) -> None:
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if event == "call":
            return trace if frame.f_code.co_filename in WRITING else None
        if event == "line":
            lines += 1
            act(lines)
        return trace

    sys.settrace(trace)


def change(what: str, index: Path, photos: Path, act: Callable[[int], None]) -> None:
    retriever = FakeRetriever()
    if what == "create":
        before_each_line(act)
        PhotoIndex.create(index, retriever)
        return
    opened = PhotoIndex.open(index, retriever)
    before_each_line(act)
    if what == "add":
        opened.add([photos])
    else:
        opened.remove([photos])


def look(index: Path) -> list[tuple[str, int, int, int]]:
    if not index.exists():
        return []
    entries = [(entry.name, entry.stat()) for entry in os.scandir(index)]
    return sorted((name, s.st_ino, s.st_mtime_ns, s.st_size) for name, s in entries)


def watch(what: str, index: Path, photos: Path) -> list[int]:
    seen = look(index)
    points = []

    def note(line: int) -> None:
        nonlocal seen
        if (now := look(index)) != seen:
            seen = now
            points.append(line)

    change(what, index, photos, note)
    sys.settrace(None)
    return points


def kill(what: str, index: Path, photos: Path, number: int) -> None:
    def die(line: int) -> None:
        if line == number:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            change(what, index, photos, die)
        finally:
            os._exit(1)
    _, ended = os.waitpid(child, 0)
    if not os.WIFSIGNALED(ended) or os.WTERMSIG(ended) != signal.SIGKILL:
        sys.exit(f"the process of line {number} was not killed")


def main() -> None:
    what, index, photos, out = sys.argv[1], *map(Path, sys.argv[2:])

    def copy(name: int) -> Path:
        if what != "create":
            shutil.copytree(index, out / str(name))
        return out / str(name)

    for number in watch(what, copy(0), photos):
        kill(what, copy(number), photos, number)


if __name__ == "__main__":
    main()
