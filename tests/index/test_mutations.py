"""Ten thousand damaged index files: a sentence or the true answer, never a crash or another one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from index import PhotoIndex
from tests.index.fake_retriever import COLOURS, FakeRetriever, paint

ROOT = Path(__file__).parents[2]


def test_ten_thousand_damaged_files(tmp_path):
    draw = np.random.default_rng(2)
    colours = list(COLOURS)
    for number in draw.choice(5**4, 270, replace=False):
        four = [colours[number // 5**place % 5] for place in range(4)]
        paint(tmp_path / "photos" / f"{number}.png", *four)
    index = PhotoIndex.create(tmp_path / "index", FakeRetriever(), search="candidates")
    index.add([tmp_path / "photos"])
    one, other = sorted((tmp_path / "photos").iterdir())[:2]
    index.remove([one])
    shutil.copy(other, tmp_path / "copy.png")
    index.add([tmp_path / "copy.png", paint(tmp_path / "later.png", "red", size=8)])
    files = {path.name.partition("-")[0] for path in (tmp_path / "index").iterdir()}
    assert files > {"candidates", "embeddings", "rows", "library.sqlite", "manifest.json"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.index.mutate_files", tmp_path / "index", "10000"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    seen = json.loads(ended.stdout)
    assert sum(seen.values()) == 10_000
    for name in ("candidates", "embeddings", "rows", "manifest.json"):
        # All of these is covered by checksums, and nearly every mutation changes something.
        assert seen[f"{name} refused"] > 20 * seen.get(f"{name} harmless", 0), seen
    assert seen["library.sqlite refused"] > 300 and seen["journal harmless"] > 500
