"""Indexing photos: embedding beside the bare model, and a build of an unchanged folder.

`python -m tests.benchmarks.build [--photos 256] [--width 640]` writes photos cut from the sample
photos, and times, turn by turn, the model on batches of pixels that are decoded already and
`PhotoIndex.add` on the files: reading, hashing, decoding, embedding and committing. Then it makes
an index of 10,000 files with a stand-in for the model and times `python -m index build` on it
again, as a user runs it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

UNCHANGED = 10_000  # files


def write_photos(folder: Path, count: int, width: int) -> list[Path]:
    """Photos of 4:3, none equal to another."""
    from demo.library import sample_photos

    samples = [Image.open(path).convert("RGB") for path in sample_photos()]
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        photo = samples[number % len(samples)]
        across = min(photo.width, photo.height * 4 // 3) * draw.uniform(0.6, 1.0)
        left = draw.uniform(0, photo.width - across)
        top = draw.uniform(0, photo.height - across * 3 / 4)
        box = (int(left), int(top), int(left + across), int(top + across * 3 / 4))
        path = folder / f"{number:05}.jpg"
        photo.crop(box).resize((width, width * 3 // 4)).save(path, quality=90)
        paths.append(path)
    return paths


def throughput(count: int, width: int, rounds: int, retriever_name: str) -> None:
    """Print photos a second, of the model alone and of an index that grows."""
    import torch

    from blip2 import Blip2Retriever
    from index import PhotoIndex
    from index.embed import BATCH_SIZE

    retriever = Blip2Retriever.from_pretrained(retriever_name)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        paths = write_photos(folder / "photos", count, width)
        batches = [
            torch.stack([retriever.preprocess(path) for path in paths[start : start + BATCH_SIZE]])
            for start in range(0, count, BATCH_SIZE)
        ]
        bare, whole = [], []
        for number in range(rounds + 1):
            start = time.perf_counter()
            for pixels in batches:
                retriever.embed_pixels(pixels)
            bare.append(time.perf_counter() - start)
            index = PhotoIndex.create(folder / f"index-{number}", retriever)
            start = time.perf_counter()
            assert index.add([folder / "photos"]).added == count
            whole.append(time.perf_counter() - start)
    ratios = [alone / both for alone, both in zip(bare[1:], whole[1:], strict=True)]
    print(f"photos                       {count} of {width} x {width * 3 // 4}")
    print(f"the model alone              {count / statistics.median(bare[1:]):.1f} photos/s")
    print(f"index, files to commit       {count / statistics.median(whole[1:]):.1f} photos/s")
    print(
        f"index / model                {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)"
    )


def unchanged(rounds: int) -> None:
    """Print what a build takes that finds nothing new."""
    from index import PhotoIndex
    from tests.index.fake_retriever import FakeRetriever

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(UNCHANGED):
            path = folder / "photos" / f"{number % 100:02}" / f"{number:05}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (number % 256, number // 256, 0)).save(path)
        index = PhotoIndex.create(folder / "index", FakeRetriever())
        assert index.add([folder / "photos"]).added == UNCHANGED
        times = []
        command = [sys.executable, "-m", "index", "build", str(folder / "photos")]
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(
                [*command, "--out", str(folder / "index")], check=True, capture_output=True
            )
            times.append(time.perf_counter() - start)
    print(f"build again, {UNCHANGED:,} files    {statistics.median(times):.2f} s, as a command")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=256, help="(256)")
    parser.add_argument("--width", type=int, default=640, help="of a photo, in pixels (640)")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--retriever", default="mini-itm", help="(mini-itm)")
    options = parser.parse_args()
    throughput(options.photos, options.width, options.rounds, options.retriever)
    unchanged(options.rounds)


if __name__ == "__main__":
    main()
