"""Search over synthetic photos: recall, time and memory beside an exhaustive FAISS flat search.

`python -m tests.benchmarks.search [--photos 1000 100000 1000000]` writes indexes of photos whose
embeddings lie as a retriever's do, asks them with vectors that lie as texts do, and prints a table,
one column a size. Not a test: pytest does not collect it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QUERIES, DIM = 32, 256
LATENT = 36  # dimensions in which an earlier mini-itm's photos differ (participation ratio)
PART = 4096  # photos that are made at once
FLAT = 100_000  # photos that FAISS holds in fp32 at once


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class World:
    """Photos and texts, made part by part from a seed.

    A photo belongs to one of the topics, lies around it in few of the dimensions, and its vectors
    lie around it: random photos have a cosine of about 0.05, the nearest of a thousand about 0.67,
    vectors of one photo 0.72, and a text and its photo 0.5 (as measured on 500 photos of Flickr8k
    with an earlier mini-itm, the spread within a photo with queries kept apart).
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
        centre = unit(own.astype(np.float32) @ self.basis + self.mean).astype(np.float32)  # [n, d]
        around = draw.standard_normal((count, QUERIES, DIM), dtype=np.float32)
        return unit(centre[:, None] + 0.62 * around / np.float32(DIM**0.5))

    def texts(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        """Queries ``[n, d]``, each near a vector of one of the photos."""
        draw = np.random.default_rng((self.seed, 1 << 40))
        photos = draw.integers(len(embeddings), size=count)
        near = embeddings[photos, draw.integers(QUERIES, size=count)].astype(np.float32)
        return unit(near + 1.5 * unit(draw.normal(size=(count, DIM)))).astype(np.float32)


class Made:
    """All photos of a world, made when a slice is taken; see `index.store.Embeddings`."""

    def __init__(self, world: World, photos: int) -> None:
        self.world, self.photos = world, photos
        self._start, self._part = -1, np.empty(0)

    def __len__(self) -> int:
        return self.photos

    def __getitem__(self, rows: slice) -> np.ndarray:
        start = rows.start // PART * PART
        if start != self._start:
            self._start, self._part = (
                start,
                self.world.photos(start, min(start + PART, self.photos)),
            )
        return self._part[rows.start - start : rows.stop - start]


def build(folder: Path, photos: int) -> float:
    """Write a store, all photos at once; the seconds it took, embeddings not made but written."""
    from index.segment_store import SegmentStore

    made = Made(World(), photos)
    start = time.perf_counter()
    store = SegmentStore(folder, QUERIES, DIM).changed(1, range(1, photos + 1), made, [])
    taken = time.perf_counter() - start
    (folder / "kept.json").write_text(json.dumps(store.manifest()))
    return taken


def ask(folder: Path) -> dict:
    """Open a store and ask it, in one thread: times in seconds, memory in bytes, photos found."""
    import faiss
    import torch

    from index.segment_store import SegmentStore

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    queries = np.load(folder / "queries.npy")
    torch.ones(8, 8) @ torch.ones(8, 8)  # what libraries take at their first use
    before = memory("VmRSS")
    start = time.perf_counter()
    store = SegmentStore.open(
        folder, QUERIES, DIM, json.loads((folder / "kept.json").read_text()), None
    )
    opened = time.perf_counter() - start
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append([photo for photo, _ in store.nearest(query, 10)])
        times.append(time.perf_counter() - start)
    similar = store.embeddings_of(found[0][0])
    start = time.perf_counter()
    store.nearest(similar, 10)
    return {
        "kind": store.kind,
        "opened": opened,
        "times": times,
        "found": found,
        "similar": time.perf_counter() - start,
        "grown": memory("VmHWM") - before,
        "process": memory("VmHWM"),
    }


def memory(what: str) -> float:
    """Of this process, mapped files included, in bytes."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{what}:")[2].split()[0]) * 1024


def exhaustive(stored: np.ndarray, queries: np.ndarray) -> tuple[float, list]:
    """Median seconds of FAISS's flat search in one thread, and the true best ten.

    What does not fit into memory in fp32 is searched in parts, whose times are added.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    times = np.zeros(len(queries))
    best: list[list[tuple[float, int]]] = [[] for _ in queries]
    for first in range(0, len(stored), FLAT):
        flat = faiss.IndexFlatIP(DIM)
        for start in range(first, min(first + FLAT, len(stored)), PART):
            stop = min(start + PART, first + FLAT, len(stored))
            flat.add(stored[start:stop].astype(np.float32).reshape(-1, DIM))
        for number, query in enumerate(queries):
            start = time.perf_counter()
            scores, vectors = flat.search(query[None], QUERIES * 9 + 1)  # exact for ten photos
            rows = vectors[0] // QUERIES
            _, places = np.unique(rows, return_index=True)
            times[number] += time.perf_counter() - start
            best[number] += [(-float(scores[0, p]), first + int(rows[p]) + 1) for p in places]
    return statistics.median(times), [[photo for _, photo in sorted(own)[:10]] for own in best]


def measure(folder: Path, photos: int, asked: int) -> dict[str, str]:
    """One column of the table."""
    built = build(folder, photos)
    stored = np.load(folder / "embeddings-1.npy", mmap_mode="r")
    queries = World().texts(stored, 2 * asked)
    np.save(folder / "queries.npy", queries)
    own = json.loads(
        subprocess.run(
            [sys.executable, "-c", _ALONE, str(folder)], capture_output=True, text=True, check=True
        ).stdout
    )
    truths = min(asked, 20 if photos > FLAT else 100)
    flat, best = exhaustive(stored, queries[asked : asked + truths])
    pairs = zip(best, own["found"][asked:], strict=False)
    recall = np.mean([len(set(truth) & set(found)) / 10 for truth, found in pairs])
    halves = photos * QUERIES * DIM * 2
    first, later = own["times"][20:asked], own["times"][asked:]
    return {
        "photos": f"{photos:,}",
        "how": "exhaustive" if "exhaustive" in own["kind"] else own["kind"].split(" ")[0],
        "building, without embedding": f"{built:.1f} s",
        "opening": f"{own['opened']:.2f} s",
        "recall@10": f"{recall:.4f}",
        "query, median": f"{statistics.median(later) * 1e3:.1f} ms",
        "query, p99": f"{np.quantile(later, 0.99) * 1e3:.1f} ms",
        f"the first {asked}, median": f"{statistics.median(first) * 1e3:.1f} ms",
        f"the first {asked}, p99": f"{np.quantile(first, 0.99) * 1e3:.1f} ms",
        "FAISS flat, median": f"{flat * 1e3:.1f} ms",
        "FAISS flat / query": f"{flat / statistics.median(later):.1f} x",
        "photo to photos": f"{own['similar'] * 1e3:.0f} ms",
        "files / half-precision": f"{sum(f.stat().st_size for f in folder.iterdir()) / halves:.3f}",
        "memory / half-precision": f"{own['grown'] / halves:.3f}",
        "the same, Python and libraries too": f"{own['process'] / halves:.3f}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--asked", type=int, default=200, help="queries, after as many (200)")
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    options = parser.parse_args()
    columns = []
    for photos in options.photos:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            columns.append(measure(Path(name), photos, options.asked))
    for row, key in enumerate(columns[0]):
        cells = " | ".join(column[key] for column in columns)
        print(f"| {'' if row == 0 else key} | {cells} |")
        if row == 0:
            print("|---" * (len(columns) + 1) + "|")


_ALONE = """
import json, sys
from pathlib import Path
from tests.benchmarks.search import ask
print(json.dumps(ask(Path(sys.argv[1]))))
"""


if __name__ == "__main__":
    main()
