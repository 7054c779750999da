"""Shards that are read a few at a time, from a disk or by URL, for data that no one list holds.

A *window* is ``pool`` shards at once: their photos are shuffled together, trained on for as many
steps as they fill, and given up for those of the next window, which are fetched meanwhile. Which
shards a window holds, and which photo is drawn at a step, is decided by the seed and the step, so
that a run goes on exactly where it was. Each part of a batch reads shards of its own.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from blip2.errors import UserError
from blip2.vision import ImageEncoder
from train.data import Ahead, Batch, CaptionedPhotos
from train.parts import Part
from train.shards import ShardError, expand_braces, find_shards, split_outside_braces
from train.sources import find_sources

TRIES = 3  # of a download


class StreamedPhotos:
    """Photos of shards with their texts, of which only a window is at hand.

    Parameters
    ----------
    source : str
        Shards, see :mod:`train.sources`; also by ``http://`` or ``https://``.
    encoder : ImageEncoder
        In the model; pixels are read.
    pool : int
        Shards of a window, over all parts of a batch.
    resample : bool
        Draw shards anew for each window, in proportion to their sources' weights; else all of
        them take turns, in another order in each pass.
    views, seed, texts
        As for :class:`train.data.CaptionedPhotos`.

    Raises
    ------
    UserError
        There are fewer shards than a window needs, a source is no set of shards, or weights are
        given without ``resample``.
    """

    def __init__(
        self,
        source: str,
        encoder: ImageEncoder,
        pool: int,
        resample: bool = False,
        views: int = 2,
        seed: int = 0,
        texts: str = "captions",
        at_once: int = 1,
        turns: int = 1,
        typical: int = 0,
    ) -> None:
        self.encoder, self.pool, self.resample = encoder, pool, resample
        self.options = {"views": views, "seed": seed, "texts": texts}
        self.options |= {"at_once": at_once, "turns": turns, "typical": typical}
        self.shards, self.weights = _named(source)
        if not resample and len(set(self.weights)) > 1:
            raise UserError("Weights of sources need resample: true, where shards are drawn.")
        if not resample and len(self.shards) < pool:
            raise UserError(
                f"There are {len(self.shards)} shards, fewer than a pool of {pool}; choose a "
                "smaller pool, or resample: true."
            )
        names = [name.rpartition("/")[2] for name in self.shards]
        said = json.dumps([names, self.weights, pool, resample])
        self.digest = hashlib.sha256(said.encode()).hexdigest()
        self._folder = tempfile.TemporaryDirectory(prefix="blip2-shards-")
        self._windows: dict[tuple[int, int, int], Future] = {}
        self._worker = ThreadPoolExecutor(4)
        # Nobody waits at the end for what the next window would have needed.
        weakref.finalize(self, self._worker.shutdown, wait=False, cancel_futures=True)
        self._ahead = Ahead()
        first = self._load([self.shards[0]])
        self.features, self.per_shard = first.features, len(first)

    def __len__(self) -> int:
        """About how many rows there are: those of the first shard, times the shards."""
        return self.per_shard * len(self.shards)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps in which as many photos are drawn as there are; errors as below."""
        self.steps_per_window(batch_size)
        return max(1, len(self) // batch_size)

    def steps_per_window(self, batch_size: int) -> int:
        """Batches of a window.

        Raises
        ------
        UserError
            A window is smaller than a batch.
        """
        steps = self.pool * self.per_shard // batch_size
        if not steps:
            raise UserError(
                f"A pool of {self.pool} shards has about {self.pool * self.per_shard} photos, "
                f"fewer than one batch of {batch_size}; choose a larger pool."
            )
        return steps

    def batches_at(self, step: int, batch_size: int, part: Part) -> list[Batch]:
        """See :meth:`train.data.CaptionedPhotos.batches_at`."""

        def load(step: int) -> list[Batch]:
            turns = [part.of_turn(turn) for turn in range(part.turns)]
            return [self.batch_at(step, batch_size, turn) for turn in turns]

        return self._ahead.take(step, (batch_size, part), load)

    def batch_at(self, step: int, batch_size: int, part: Part | None = None) -> Batch:
        """The batch of a step, counted from 0, or a part of it."""
        photos, rows, turns = self._drawn(step, batch_size, part or Part())
        return photos.batch(rows, turns)

    def describe(self, step: int, batch_size: int, part: Part | None = None) -> dict[str, Any]:
        """A step's batch, or a part of it, for a reader."""
        photos, rows, turns = self._drawn(step, batch_size, part or Part())
        return {"step": step, "pairs": photos.named(photos._usable(rows), turns)}

    def _drawn(
        self, step: int, batch_size: int, part: Part
    ) -> tuple[CaptionedPhotos, np.ndarray, np.ndarray]:
        """A part's photos at a step: the window that holds them, and which of its rows."""
        if self.pool % part.count:
            raise UserError(
                f"A pool of {self.pool} shards can't be shared by {part.count} parts of a batch; "
                "choose a multiple."
            )
        steps = self.steps_per_window(batch_size)
        window, position = divmod(step, steps)
        photos = self._window(window, part)
        size = batch_size // part.count
        draw = np.random.default_rng((self.options["seed"], window, part.number))
        order = draw.permutation(len(photos))
        # Shards differ in size: where a window lacks photos, some come again.
        places = np.arange(position * size, (position + 1) * size)
        return photos, order[places % len(order)], window + places // len(order)

    def _window(self, window: int, part: Part) -> CaptionedPhotos:
        """A part's photos of a window; those of the next are fetched meanwhile."""
        for number in (window, window + 1):
            key = (number, part.number, part.count)
            if key not in self._windows:
                names = self._shards_of(number, part)
                self._windows[key] = self._worker.submit(self._load, names)
        for old in [key for key in self._windows if key[0] < window - 1]:
            del self._windows[old]
        return self._windows[window, part.number, part.count].result()

    def _shards_of(self, window: int, part: Part) -> list[str]:
        share = self.pool // part.count
        first = window * self.pool + part.number * share
        return [self._shard(position) for position in range(first, first + share)]

    def _shard(self, position: int) -> str:
        """The shard at a place of the endless row of all of them."""
        seed = self.options["seed"]
        if self.resample:
            draw = random.Random(f"{seed}/{position}")
            return draw.choices(self.shards, self.weights)[0]
        turn, place = divmod(position, len(self.shards))
        return self.shards[np.random.default_rng((seed, turn)).permutation(len(self.shards))[place]]

    def _load(self, names: list[str]) -> CaptionedPhotos:
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        paths = [
            str(fetch(name, folder / f"{number}.tar"))
            for number, name in enumerate(dict.fromkeys(names))  # one may be drawn twice
        ]
        try:
            photos = CaptionedPhotos(",".join(paths), self.encoder, "", **self.options)
        except ShardError as error:
            raise UserError(
                f"Of the shards {', '.join(names)} one can't be used: {error}"
            ) from error
        # What was downloaded goes when nobody holds the photos any more.
        weakref.finalize(photos, shutil.rmtree, folder, ignore_errors=True)
        if photos.report.broken:
            tqdm.write(f"{', '.join(names)}: {photos.report.describe()}")
        return photos


def fetch(name: str, to: Path) -> Path:
    """A shard as a file: itself, or downloaded.

    Raises
    ------
    UserError
        It can't be had, also after some tries.
    """
    if "://" not in name:
        return Path(name)
    import httpx

    for number in range(TRIES):
        try:
            with httpx.stream("GET", name, follow_redirects=True, timeout=60) as answer:
                answer.raise_for_status()
                with to.open("wb") as file:
                    for chunk in answer.iter_bytes(1 << 20):
                        file.write(chunk)
            return to
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            problem = error
            if number + 1 < TRIES:
                time.sleep(2**number)
    raise UserError(
        f"The shard {name} can't be fetched ({problem}); see that it can be reached and that "
        f"{to.parent} has room, and the same command goes on."
    ) from problem


def _named(source: str) -> tuple[list[str], list[float]]:
    """All shards of a source, and the weight of each."""
    names: list[str] = []
    weights: list[float] = []
    for part in find_sources(source):
        if not part.of_shards:
            raise UserError(f"{part.text} is no set of shards; make some with train.prepare.")
        for text in split_outside_braces(part.text):
            found = expand_braces(text.strip())
            if "://" not in text:
                found = [str(path) for path in find_shards(text.strip())]
            names += found
            weights += [part.weight] * len(found)
    return names, weights
