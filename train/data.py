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

import numpy as np
import torch
from torch import Tensor

from blip2.errors import UserError
from train.features import FeatureCache
from train.shards import ShardReport, iter_samples


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
        Shards, see :func:`train.shards.find_shards`.
    encoder : str
        A registered image encoder.
    cache : str or Path
        Folder of cached features.
    views : int
        Views of each photo.
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
        samples = [s for s in iter_samples(source, report=self.report) if s.captions]
        if not samples:
            raise UserError(f"No photo in {source} has captions; stages 1 and 2 need them.")
        self.image_ids = [sample.image_id for sample in samples]
        self.captions = [[clean_caption(c) for c in sample.captions] for sample in samples]
        self.views, self.seed = views, seed
        images = [sample.image for sample in samples]
        self.features = FeatureCache(Path(cache), encoder, self.image_ids, images, views)
        texts = json.dumps([self.image_ids, self.captions]).encode()
        self.digest = hashlib.sha256(self.features.path.name.encode() + texts).hexdigest()
        self._epoch: tuple[int, np.ndarray] | None = None

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
        if len(self) < batch_size:
            raise UserError(
                f"There are {len(self)} photos, fewer than one batch of {batch_size}; "
                "choose a smaller batch_size."
            )
        return len(self) // batch_size

    def batch_at(self, step: int, batch_size: int) -> Batch:
        """The batch of a step, counted from 0 over all passes."""
        epoch, position = divmod(step, self.steps_per_epoch(batch_size))
        order = self._order(epoch)
        return self.batch(order[position * batch_size : (position + 1) * batch_size], epoch)

    def batch(self, rows: np.ndarray, epoch: int) -> Batch:
        """Photos by row; a photo's captions take turns from pass to pass."""
        keys = [random.Random(f"{self.seed}/{epoch}/{self.image_ids[row]}") for row in rows]
        captions = []
        for row in rows:
            choice = list(range(len(self.captions[row])))
            random.Random(f"{self.seed}/{self.image_ids[row]}").shuffle(choice)
            captions.append(self.captions[row][choice[epoch % len(choice)]])
        features = [
            self.features[key.randrange(self.views), row]
            for key, row in zip(keys, rows, strict=True)
        ]
        ids = [zlib.crc32(self.image_ids[row].encode()) for row in rows]
        return Batch(torch.from_numpy(np.stack(features)), captions, torch.tensor(ids), keys)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
            self._epoch = (epoch, order)
        return self._epoch[1]


def clean_caption(text: str) -> str:
    """Drop what a tokenised corpus adds: spaces before punctuation, the closing full stop."""
    words = text.strip().rstrip(".").strip()
    for mark in (",", ";", ":", "'s", "!", "?"):
        words = words.replace(f" {mark}", mark)
    return " ".join(words.split())
