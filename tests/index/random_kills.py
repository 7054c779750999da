"""Run as a program: a writer is killed at a random moment, again and again.

Usage: random_kills.py FOLDER KILLS. A child adds, removes and builds in FOLDER/index with the
photos of FOLDER/photos, telling over a pipe what it begins and what it has finished; after each
SIGKILL the parent opens the index and compares it with what it was told. Prints what it saw.
"""

import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

import index.segment_store  # noqa: F401  imported once, before the processes part
from index import PhotoIndex, grow
from tests.index.fake_retriever import FakeRetriever

torch.set_num_threads(1)
grow.COMMITTED_AT_ONCE = 3


def work(folder: Path, seed: int, told: int) -> None:
    """Change the index without end."""
    draw = random.Random(seed)
    opened = PhotoIndex.open(folder / "index", FakeRetriever())
    shown, hidden = folder / "photos", folder / "hidden"

    def tell(*words: str) -> None:
        os.write(told, (" ".join(words) + "\n").encode())

    while True:
        here = sorted(os.listdir(shown))
        what = draw.choice(["add", "remove", "build"])
        if what == "build":
            for path in draw.sample(here, min(3, len(here))):
                os.rename(shown / path, hidden / path)
            away = sorted(os.listdir(hidden))
            for path in draw.sample(away, min(3, len(away))):
                os.rename(hidden / path, shown / path)
            tell("build", *sorted(os.listdir(shown)))
            opened.update([shown])
        else:
            some = draw.sample(here, min(draw.randint(1, 8), len(here)))
            tell(what, *some)
            getattr(opened, what)([shown / name for name in some])
        time.sleep(0.003)  # on any machine some die after a commit, before they tell of it
        tell("done")


def run(folder: Path, seed: int, delay: float) -> list[list[str]]:
    """Kill a child so many seconds after it has begun; what it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, seed, writing)
        finally:
            os._exit(1)
    os.close(writing)
    select.select([reading], [], [], 60)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL
    with os.fdopen(reading) as file:
        return [line.split() for line in file.read().splitlines()]


def follow(held: set[str], told: list[list[str]]) -> tuple[set[str], set[str], str]:
    """Files before and after the last thing that was begun, and what it was."""
    after, what = held, "nothing"
    for first, *names in told:
        if first == "done":
            held, what = after, "nothing"
            continue
        what = first
        after = {"add": held | set(names), "remove": held - set(names), "build": set(names)}[first]
    return held, after, what


def content(name: str) -> str:
    """Copies are named alike: 6.png and 6-copy.png."""
    return Path(name).stem.partition("-")[0]


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    draw = random.Random(7)
    held: set[str] = set()
    seen: Counter[str] = Counter()
    for number in range(kills):
        before, after, what = follow(held, run(folder, number, draw.uniform(0, 0.3)))
        opened = PhotoIndex.open(folder / "index", FakeRetriever())
        opened.verify()
        with opened._folder.reading() as library:
            names = [path.name for path, _ in library.files()]
        held = set(names)
        assert len(names) == len(held), f"{number}: doubled {sorted(names)}"
        assert before & after <= held, f"{number}: {what} lost {sorted(before & after - held)}"
        assert held <= before | after, f"{number}: {what} left {sorted(held - (before | after))}"
        if what == "remove":
            assert held in (before, after), f"{number}: half removed"
        contents = {content(name) for name in held}
        hits = opened.search("red", k=999)
        assert {content(hit.path.name) for hit in hits} == contents, f"{number}: not found"
        assert len(hits) == len(contents) == len(opened), f"{number}: a photo twice"
        seen[what] += 1
        seen["between"] += held not in (before, after)
        seen["new"] += what != "nothing" and held == after != before
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
