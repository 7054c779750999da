"""From shards to batches: which photo, which of its captions, which view, at which step.

Everything is decided by the seed and the step alone, so a run that is resumed at step *n* sees
exactly what an uninterrupted run sees there.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blip2.display import one_line
from blip2.errors import UserError
from blip2.vision import ImageEncoder
from train.features import FeatureCache, Pixels
from train.parts import Part
from train.rows import Row, Talk, rows_of, with_typical
from train.shards import Place, ShardReport
from train.sources import find_sources


@dataclass
class Batch:
    """Photos with one text each.

    Attributes
    ----------
    features : Tensor
        ``[B, N, C]``, half precision; pixels ``[B, 3, S, S]`` where the encoder is trained.
    captions : list of str
        One a photo; an answer where something is asked.
    questions : list of str
        What is asked of each photo; "" where it is to be described.
    told : list of list of Talk
        All that is learned of each photo: conversations of (question, answer), of which caption
        and question are the first; see ``at_once`` and ``turns`` of :class:`CaptionedPhotos`.
    references : list of list of str
        All captions of each photo that is to be described, else none.
    image_ids : Tensor
        ``[B]`` integers, equal for equal ``image_id`` strings.
    keys : list of random.Random
        One a photo, for what else is drawn (an instruction).
    """

    features: Tensor
    captions: list[str]
    questions: list[str]
    told: list[list[Talk]]
    references: list[list[str]]
    image_ids: Tensor
    keys: list[random.Random]


_NAMED = {"captions": "captions", "qa": "answered questions"}


class CaptionedPhotos:
    """Photos of shards with their captions, or with questions and answers.

    Parameters
    ----------
    source : str
        Shards, folders and annotations, see :mod:`train.sources`; a weight says how often a pass
        sees each row of a source.
    encoder : str or ImageEncoder
        A registered image encoder, whose features are read from the cache; or an encoder in the
        model, for which pixels are read.
    cache : str or Path
        Folder of cached features.
    views : int
        Cached views of each photo; 1 is the whole photo alone, also without a cache.
    seed : int
        Decides order, captions and views.
    texts : str
        ``"captions"``: a row for each photo with captions; ``"qa"``: a row for each question with
        answers; ``"both"``.
    at_once : int
        Captions of a photo that are learned in one step, as far as it has them.
    turns : int
        Most questions of one conversation. With several, a row is a photo with all its questions,
        of which each pass draws others.
    typical : int
        Draw only so many captions of a photo, see :func:`train.rows.with_typical`; 0 draws all.

    Attributes
    ----------
    digest : str
        Of photos and texts: the same wherever the shards lie.

    Raises
    ------
    UserError
        No photo has such a text.
    """

    def __init__(
        self,
        source: str,
        encoder: str | ImageEncoder,
        cache: str | Path,
        views: int = 1,
        seed: int = 0,
        texts: str = "captions",
        at_once: int = 1,
        turns: int = 1,
        typical: int = 0,
    ) -> None:
        self.report = ShardReport()
        self.at_once, self.turns = at_once, turns
        self.rows: list[Row] = []
        self.image_ids: list[str] = []
        self.places: list[Place] = []
        self.weights: list[tuple[int, float]] = []
        for part in find_sources(source):
            before = len(self.rows)
            for sample in part.samples(self.report, with_image=False):
                found = rows_of(sample, texts, len(self.image_ids), turns)
                if found:
                    self.rows += found
                    self.image_ids.append(sample.image_id)
                    self.places.append(sample.place)
            self.weights.append((len(self.rows) - before, part.weight))
        if not self.rows:
            what = _NAMED.get(texts, "texts")
            raise UserError(f"No photo in {source} has {what}; training needs them.")
        if typical:
            self.rows = with_typical(self.rows, typical)
        self.seed, self.source = seed, source
        self._photos = {row.photo for row in self.rows}
        if not isinstance(encoder, str):
            self.features = Pixels(encoder, self.image_ids, self.places, whole=views == 1)
        else:
            assert cache, "features need a cache; give an encoder to read pixels"
            self.features = FeatureCache(Path(cache), encoder, self.image_ids, self.places, views)
            for number, why in self.features.broken.items():
                self.report.leave_out(self.image_ids[number], why)
        rows = [(row.name, row.texts, *row.asked, *row.typical) for row in self.rows]
        said = json.dumps([rows, self.weights]).encode()
        self.digest = hashlib.sha256(self.features.digest.encode() + said).hexdigest()
        self._epoch: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None
        self._ahead = Ahead()

    def only(self, texts: str) -> CaptionedPhotos:
        """The same photos with a part of what is said of them, drawn by itself.

        Parameters
        ----------
        texts : str
            ``"captions"`` or ``"qa"``.

        Raises
        ------
        UserError
            There is none.
        """
        part = copy(self)
        part.rows, part.weights, start = [], [], 0
        for count, weight in self.weights:
            rows = self.rows[start : start + count]
            wanted = [row for row in rows if row.described == (texts == "captions")]
            part.rows += wanted
            part.weights.append((len(wanted), weight))
            start += count
        if not part.rows:
            raise UserError(f"No photo in {self.source} has {_NAMED[texts]}; it needs some.")
        part._photos = {row.photo for row in part.rows}
        part._epoch, part._ahead = None, Ahead()
        return part

    def __len__(self) -> int:
        """Count the rows: photos with captions, and questions."""
        return len(self.rows)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches of one pass.

        Raises
        ------
        UserError
            There are fewer photos than one batch needs.
        """
        length = sum(round(count * weight) for count, weight in self.weights)
        if length < batch_size:
            raise UserError(
                f"There are {length} photos or questions, fewer than one batch of {batch_size}; "
                "choose a smaller batch_size."
            )
        return length // batch_size

    def batch_at(self, step: int, batch_size: int, part: Part | None = None) -> Batch:
        """The batch of a step, counted from 0 over all passes, or a part of it."""
        rows, turns = self._drawn(step, batch_size)
        chosen = (part or Part()).rows(batch_size)
        return self.batch(rows[chosen], turns[chosen])

    def batches_at(self, step: int, batch_size: int, part: Part) -> list[Batch]:
        """All parts of a step that this process computes, in the order of their turns.

        Where photos have to be opened for it, those of the next step are opened meanwhile.
        """

        def load(step: int) -> list[Batch]:
            turns = [part.of_turn(turn) for turn in range(part.turns)]
            return [self.batch_at(step, batch_size, turn) for turn in turns]

        if isinstance(self.features, FeatureCache):
            return load(step)
        return self._ahead.take(step, (batch_size, part), load)

    def describe(self, step: int, batch_size: int, part: Part | None = None) -> dict[str, Any]:
        """A step's batch for a reader: all of it, for a part's ITC reads the others, too."""
        rows, turns = self._drawn(step, batch_size)
        return {"step": step, "pairs": self.named(self._usable(rows), turns)}

    def named(self, rows: np.ndarray, turns: np.ndarray) -> list[dict[str, str]]:
        """Rows for a reader: their photos' names with the texts drawn; parameters as below."""
        return [
            {"image_id": self.image_ids[row.photo], "caption": talk[0][1]}
            | ({"question": talk[0][0]} if talk[0][0] else {})
            for row, turn in zip(self._rows(rows), turns, strict=True)
            for talk in self._told(row, turn)[:1]
        ]

    def _drawn(self, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = divmod(step, self.steps_per_epoch(batch_size))
        rows, turns = self._order(epoch)
        chosen = slice(position * batch_size, (position + 1) * batch_size)
        return rows[chosen], turns[chosen]

    def batch(self, rows: np.ndarray, turns: np.ndarray | int = 0) -> Batch:
        """Photos by row; in place of one that can't be opened the next one that can.

        Parameters
        ----------
        rows : ndarray
            ``[B]``.
        turns : ndarray or int
            ``[B]``, how often each photo was drawn before; its captions take turns.

        Raises
        ------
        UserError
            No photo can be opened.
        """
        turns = np.broadcast_to(turns, rows.shape)
        rows = self._usable(rows)
        while True:
            chosen = self._rows(rows)
            names = [f"{self.seed}/{t}/{row.name}" for row, t in zip(chosen, turns, strict=True)]
            known = len(self.features.broken)
            photos = [row.photo for row in chosen]
            features = self.features.read(photos, [random.Random(name) for name in names])
            if len(self.features.broken) == known:
                break
            for number in list(self.features.broken)[known:]:
                name, why = self.image_ids[number], self.features.broken[number]
                self.report.leave_out(name, why)
                tqdm.write(one_line(f"left out {name}: {why}"))
            rows = self._usable(rows)
        told = [self._told(row, turn) for row, turn in zip(chosen, turns, strict=True)]
        return Batch(
            features,
            [talks[0][0][1] for talks in told],
            [talks[0][0][0] for talks in told],
            told,
            [row.texts if row.described else [] for row in chosen],
            torch.tensor([zlib.crc32(self.image_ids[row.photo].encode()) for row in chosen]),
            [random.Random(f"{name}/words") for name in names],
        )

    def _usable(self, rows: np.ndarray) -> np.ndarray:
        """The rows, those of broken photos moved on to the next."""
        broken = self.features.broken
        if self._photos <= broken.keys():
            raise UserError("No photo of the data can be opened; look at the files.")
        moved = rows.copy()
        for number in range(len(moved)):
            while self.rows[moved[number]].photo in broken:
                moved[number] = (moved[number] + 1) % len(self.rows)
        return moved

    def _rows(self, numbers: np.ndarray) -> list[Row]:
        return [self.rows[number] for number in numbers]

    def _told(self, row: Row, turn: int) -> list[Talk]:
        return row.told(turn, self.seed, self.at_once, self.turns)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a pass, each with how often it was drawn before."""
        known = self._epoch  # the next step's may be drawn in another thread meanwhile
        if known is None or known[0] != epoch:
            draw = np.random.default_rng((self.seed, epoch))
            rows, turns, start = [], [], 0
            for count, weight in self.weights:
                whole, times = np.arange(start, start + count), int(weight)
                some = draw.permutation(whole)[: round(count * weight) - count * times]
                # What is drawn besides reads the caption after those of this pass.
                extra = epoch * times + times if times else epoch
                for turn in range(epoch * times, epoch * times + times):
                    rows.append(whole)
                    turns.append(np.full(count, turn))
                rows.append(some)
                turns.append(np.full(len(some), extra))
                start += count
            mixed = draw.permutation(sum(map(len, rows)))
            known = self._epoch = (
                epoch,
                (np.concatenate(rows)[mixed], np.concatenate(turns)[mixed]),
            )
        return known[1]


class Ahead:
    """Loads what the next step needs while this one is computed."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1)
        self._expected: tuple | None = None
        self._future: Future | None = None

    def take(self, step: int, how: tuple, load: Callable[[int], list[Batch]]) -> list[Batch]:
        """What ``load(step)`` gives, and have the next begun.

        Parameters
        ----------
        step : int
            Of the run.
        how : tuple
            What else decides it.
        load : callable
            Depends on nothing but its argument and ``how``.
        """
        found = self._future.result() if self._expected == (step, how) else load(step)
        self._expected, self._future = (step + 1, how), self._worker.submit(load, step + 1)
        return found
