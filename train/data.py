"""From shards to batches: which photo, which of its captions, which view, at which step.

Everything is decided by the seed and the step alone, so a run that is resumed at step *n* sees
exactly what an uninterrupted run sees there.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip2.errors import UserError
from train.features import FeatureCache, LiveFeatures
from train.parts import Part
from train.shards import ShardReport
from train.sources import find_sources


@dataclass
class Batch:
    """Photos with one caption each.

    Attributes
    ----------
    features : Tensor
        ``[B, N, C]``, half precision.
    captions : list of str
        One a photo.
    image_ids : Tensor
        ``[B]`` integers, equal for equal ``image_id`` strings.
    keys : list of random.Random
        One a photo, for what else is drawn (an instruction).
    """

    features: Tensor
    captions: list[str]
    image_ids: Tensor
    keys: list[random.Random]


class CaptionedPhotos:
    """Captioned photos of shards with their cached features.

    Parameters
    ----------
    source : str
        Shards, folders and annotations, see :mod:`train.sources`; a weight says how often a pass
        sees each photo of a source.
    encoder : str
        A registered image encoder.
    cache : str or Path
        Folder of cached features; "" computes them when they are needed.
    views : int
        Cached views of each photo; 1 is the whole photo alone, also without a cache.
    seed : int
        Decides order, captions and views.

    Attributes
    ----------
    digest : str
        Of photos and captions: the same wherever the shards lie.

    Raises
    ------
    UserError
        No photo has a caption.
    """

    def __init__(
        self, source: str, encoder: str, cache: str | Path, views: int = 1, seed: int = 0
    ) -> None:
        self.report = ShardReport()
        samples, weights = [], []
        for part in find_sources(source):
            found = part.samples(self.report, with_image=False)
            captioned = [sample for sample in found if sample.captions]
            samples += captioned
            weights.append((len(captioned), part.weight))
        if not samples:
            raise UserError(f"No photo in {source} has captions; stages 1 and 2 need them.")
        self.image_ids = [sample.image_id for sample in samples]
        self.captions = [[clean_caption(c) for c in sample.captions] for sample in samples]
        self.views, self.seed, self.weights = views, seed, weights
        places = [sample.place for sample in samples]
        if cache:
            self.features = FeatureCache(Path(cache), encoder, self.image_ids, places, views)
        else:
            self.features = LiveFeatures(encoder, self.image_ids, places, whole=views == 1)
        texts = json.dumps([self.image_ids, self.captions, weights]).encode()
        self.digest = hashlib.sha256(self.features.digest.encode() + texts).hexdigest()
        self._epoch: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None

    def __len__(self) -> int:
        """Count the photos."""
        return len(self.image_ids)

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
                f"There are {length} photos, fewer than one batch of {batch_size}; "
                "choose a smaller batch_size."
            )
        return length // batch_size

    def batch_at(self, step: int, batch_size: int, part: Part | None = None) -> Batch:
        """The batch of a step, counted from 0 over all passes, or a part of it."""
        rows, turns = self._drawn(step, batch_size)
        chosen = (part or Part()).rows(batch_size)
        return self.batch(rows[chosen], turns[chosen])

    def texts_at(self, step: int, batch_size: int) -> Batch:
        """A step's whole batch without its photos: ``features`` is empty."""
        return self.batch(*self._drawn(step, batch_size), with_features=False)

    def describe(self, step: int, batch_size: int) -> dict[str, Any]:
        """A step's batch for a reader: its photos' names with the captions drawn."""
        rows, turns = self._drawn(step, batch_size)
        names, captions = [self.image_ids[row] for row in rows], self._captions(rows, turns)
        pairs = [{"image_id": n, "caption": c} for n, c in zip(names, captions, strict=True)]
        return {"step": step, "pairs": pairs}

    def _drawn(self, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = divmod(step, self.steps_per_epoch(batch_size))
        rows, turns = self._order(epoch)
        chosen = slice(position * batch_size, (position + 1) * batch_size)
        return rows[chosen], turns[chosen]

    def batch(
        self, rows: np.ndarray, turns: np.ndarray | int = 0, with_features: bool = True
    ) -> Batch:
        """Photos by row.

        Parameters
        ----------
        rows : ndarray
            ``[B]``.
        turns : ndarray or int
            ``[B]``, how often each photo was drawn before; its captions take turns.
        with_features : bool
            False leaves them unread.
        """
        turns = np.broadcast_to(turns, rows.shape)
        keys = [
            random.Random(f"{self.seed}/{turn}/{self.image_ids[row]}")
            for row, turn in zip(rows, turns, strict=True)
        ]
        features = self.features.read(rows, keys) if with_features else torch.empty(0)
        keys = [random.Random(f"{self.seed}/{turn}/{self.image_ids[row]}/words")
                for row, turn in zip(rows, turns, strict=True)]  # fmt: skip
        return Batch(features, self._captions(rows, turns), self._ids(rows), keys)

    def _captions(self, rows: np.ndarray, turns: np.ndarray) -> list[str]:
        found = []
        for row, turn in zip(rows, turns, strict=True):
            texts = self.captions[row]
            choice = list(range(len(texts)))
            random.Random(f"{self.seed}/{self.image_ids[row]}").shuffle(choice)
            found.append(texts[choice[turn % len(choice)]])
        return found

    def _ids(self, rows: np.ndarray) -> Tensor:
        return torch.tensor([zlib.crc32(self.image_ids[row].encode()) for row in rows])

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a pass, each with how often it was drawn before."""
        if self._epoch is None or self._epoch[0] != epoch:
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
            self._epoch = (epoch, (np.concatenate(rows)[mixed], np.concatenate(turns)[mixed]))
        return self._epoch[1]


def clean_caption(text: str) -> str:
    """Drop what a tokenised corpus adds: spaces before punctuation, the closing full stop."""
    words = text.strip().rstrip(".").strip()
    for mark in (",", ";", ":", "'s", "!", "?"):
        words = words.replace(f" {mark}", mark)
    return " ".join(words.split())
