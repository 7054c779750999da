"""Search over synthetic photos: recall, time and memory beside an exhaustive FAISS flat search.

`python -m tests.benchmarks.search [--photos 100000]` writes an index of photos whose embeddings lie
as a retriever's do, and asks it with vectors that lie as texts do. Not a test: pytest does not
collect it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

QUERIES, DIM = 32, 256
LATENT = 36  # dimensions in which mini-itm's photos really differ (participation ratio)
PART = 4096  # photos that are made at once


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class World:
    """Photos and texts, made part by part from a seed.

    A photo belongs to one of the topics, lies around it in few of the dimensions, and its vectors
    lie around it: random photos have a cosine of about 0.05, the nearest of a thousand about 0.67,
    vectors of one photo 0.72, and a text and its photo 0.5 (as measured on 500 photos of Flickr8k
    with mini-itm, the spread within a photo with queries kept apart).
    """

    def __init__(self, seed: int = 0, topics: int = 2000) -> None:
        draw = np.random.default_rng(seed)
        self.seed = seed
        self.basis = np.linalg.qr(draw.normal(size=(DIM, LATENT)))[0].T.astype(np.float32)
        self.topics = unit(draw.normal(size=(topics, LATENT))).astype(np.float32)
        self.mean = unit(draw.normal(size=DIM)).astype(np.float32) * 0.22

    def photos(self, start: int, stop: int) -> np.ndarray:
        """Embeddings of photos ``[n, Q, d]``, fp32."""
        draw = np.random.default_rng((self.seed, start))
        count = stop - start
        topic = self.topics[draw.integers(len(self.topics), size=count)]
        own = unit(topic + unit(draw.normal(size=(count, LATENT), scale=1)) * 0.8)
        centre = unit(own.astype(np.float32) @ self.basis + self.mean)  # [n, d]
        around = draw.standard_normal((count, QUERIES, DIM), dtype=np.float32)
        return unit(centre[:, None] + 0.62 * around / np.sqrt(DIM))

    def texts(self, count: int, photos: int) -> np.ndarray:
        """Queries ``[n, d]``, each near one of the photos."""
        draw = np.random.default_rng((self.seed, 1 << 40))
        found = []
        for photo in draw.integers(photos, size=count):
            start = photo // PART * PART
            part = self.photos(start, min(start + PART, photos))
            found.append(part[photo - start, draw.integers(QUERIES)].copy())
        away = unit(draw.normal(size=(count, DIM)))
        return unit(np.stack(found) + 1.5 * away).astype(np.float32)

    def parts(self, photos: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All photos with their numbers."""
        for start in range(0, photos, PART):
            stop = min(start + PART, photos)
            yield np.arange(start, stop), self.photos(start, stop)


def build(folder: Path, photos: int) -> tuple[dict, float]:
    """Write a store of one segment; its manifest and the seconds it took."""
    from index.store import CANDIDATES_FROM, SegmentStore

    store = SegmentStore(folder, QUERIES, DIM)
    start = time.perf_counter()
    segment = store._written(World().parts(photos), photos)
    taken = time.perf_counter() - start
    assert (segment.candidates is not None) == (photos >= CANDIDATES_FROM)
    return SegmentStore(folder, QUERIES, DIM, [segment]).manifest(), taken


def ask(folder: Path, kept: dict, queries: np.ndarray) -> tuple[float, list[float], list, float]:
    """Seconds to open, seconds of each query, what was found, and memory in bytes."""
    import faiss
    import torch

    from index.store import SegmentStore

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    start = time.perf_counter()
    store = SegmentStore.open(folder, QUERIES, DIM, kept, None)
    opened = time.perf_counter() - start
    for query in queries[:20]:
        store.nearest(query, 10)
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(store.nearest(query, 10))
        times.append(time.perf_counter() - start)
    return opened, times, found, peak_memory()


def peak_memory() -> float:
    """Most that this process had in memory, mapped files included, in bytes."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) * 1024


def exhaustive(folder: Path, photos: int, queries: np.ndarray) -> tuple[float, list]:
    """Median seconds of FAISS's flat search, and the true best ten."""
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(DIM)
    stored = np.load(folder / "embeddings-1.npy", mmap_mode="r")
    for start in range(0, photos, PART):
        flat.add(stored[start : start + PART].astype(np.float32).reshape(-1, DIM))
    times, best = [], []
    for query in queries:
        start = time.perf_counter()
        _, vectors = flat.search(query[None], QUERIES * 9 + 1)  # exact for ten photos
        rows = vectors[0] // QUERIES
        _, first = np.unique(rows, return_index=True)
        best.append(rows[np.sort(first)][:10].tolist())
        times.append(time.perf_counter() - start)
    return statistics.median(times), best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=100_000, help="(100000)")
    parser.add_argument("--asked", type=int, default=200, help="queries (200)")
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        kept, built = build(folder, options.photos)
        queries = World().texts(options.asked, options.photos)
        np.save(folder / "queries.npy", queries)
        opened, times, found, _ = ask(folder, kept, queries)
        flat, best = exhaustive(folder, options.photos, queries[:50])
        recall = np.mean([
            len(set(truth) & {photo for photo, _ in own}) / 10
            for truth, own in zip(best, found, strict=False)
        ])  # fmt: skip
        median = statistics.median(times)
        worst = float(np.quantile(times, 0.99))
        halves = options.photos * QUERIES * DIM * 2
        files = sum(path.stat().st_size for path in folder.glob("*-1.*"))
        print(f"photos                       {options.photos:,} x {QUERIES} x {DIM}")
        print(f"building                     {built:.0f} s")
        print(f"opening                      {opened:.2f} s")
        print(f"recall@10                    {recall:.4f} ({len(best)} queries)")
        print(f"query, median / p99          {median * 1e3:.1f} / {worst * 1e3:.1f} ms, one thread")
        print(f"FAISS flat, median           {flat * 1e3:.1f} ms, {flat / median:.1f} x as long")
        print(f"files / half-precision       {files / halves:.3f}")
        memory = subprocess.run(
            [sys.executable, "-c", _ALONE, str(folder), repr(kept)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        share = float(memory) / halves
        print(f"memory / half-precision      {share:.3f} after {len(queries)} queries")


_ALONE = """
import sys
from pathlib import Path
import numpy as np
from tests.benchmarks.search import ask
folder, kept = Path(sys.argv[1]), eval(sys.argv[2])
print(ask(folder, kept, np.load(folder / "queries.npy"))[3])
"""


if __name__ == "__main__":
    main()
