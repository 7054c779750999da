"""Features of the frozen image encoder, computed once and kept on disk.

The encoder never changes, so its features of a photo don't either. Several *views* of each photo
are kept: view 0 is the whole photo as at inference, each further view a random resized crop with
a random flip, drawn from the photo's name and the view's number. Training draws one view a step.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from blip2.devices import fast_dtype
from blip2.errors import UserError
from blip2.processing import PhotoError, open_photo
from blip2.vision import build_image_encoder


class FeatureCache:
    """Memory-mapped half-precision features ``[V, P, N, C]`` of ``P`` photos in ``V`` views.

    Parameters
    ----------
    folder : Path
        Where caches are kept; each set of photos, encoder and views has a file of its own.
    encoder : str
        A registered image encoder.
    image_ids : sequence of str
        The photos' names, in the order in which they are stored.
    images : sequence of bytes
        The photos' files, in the same order.
    views : int
        Views of each photo, at least 1.
    batch_size : int
        Photos that the encoder sees at once.
    """

    def __init__(
        self,
        folder: Path,
        encoder: str,
        image_ids: Sequence[str],
        images: Sequence[bytes],
        views: int = 1,
        batch_size: int = 32,
    ) -> None:
        digest = hashlib.sha256(encoder.encode())
        for image_id, image in zip(image_ids, images, strict=True):
            digest.update(image_id.encode() + hashlib.sha256(image).digest())
        self.path = folder / f"features-{digest.hexdigest()[:16]}.npy"
        self.encoder, self.image_ids, self.images = encoder, image_ids, images
        self.batch_size = batch_size
        folder.mkdir(parents=True, exist_ok=True)
        self._views = [self._view(view) for view in range(views)]

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        """Features ``[N, C]`` (float16) of photo ``key[1]`` in view ``key[0]``."""
        view, photo = key
        return self._views[view][photo]

    def _view(self, view: int) -> np.ndarray:  # [P, N, C]
        path = self.path.with_suffix(f".view{view}.npy")
        with FileLock(f"{path}.lock"):  # two runs may share a cache
            if not path.exists():
                self._compute(view, path)
        return np.load(path, mmap_mode="r")

    def _compute(self, view: int, path: Path) -> None:
        encoder = build_image_encoder(self.encoder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        encoder.to(device, fast_dtype(torch.device(device)))
        shape = (len(self.images), encoder.num_tokens, encoder.width)
        partial = path.with_suffix(".partial")
        done = _progress(partial) if partial.exists() else 0
        mode = "r+" if done else "w+"
        out = np.lib.format.open_memmap(partial, mode=mode, dtype=np.float16, shape=shape)
        starts = range(done, len(self.images), self.batch_size)
        for start in tqdm(starts, desc=f"features, view {view}", unit="batch"):
            rows = range(start, min(start + self.batch_size, len(self.images)))
            pixels = torch.stack([self._pixels(encoder, view, row) for row in rows])
            features = encoder(pixels.contiguous(memory_format=torch.channels_last))
            out[rows.start : rows.stop] = features.float().cpu().numpy()
            if (start // self.batch_size) % 20 == 19:
                out.flush()
                record = partial.with_suffix(".json")
                aside = record.with_suffix(".tmp")
                aside.write_text(json.dumps({"done": rows.stop}))
                aside.replace(record)
        out.flush()
        del out
        os.replace(partial, path)
        partial.with_suffix(".json").unlink(missing_ok=True)

    def _pixels(self, encoder: torch.nn.Module, view: int, row: int) -> torch.Tensor:
        try:
            image = open_photo(io.BytesIO(self.images[row]))
        except PhotoError as error:
            raise UserError(f"Photo {self.image_ids[row]} can't be used: {error}") from error
        if view == 0:
            return encoder.transform(image)
        return encoder.train_transform(image, random.Random(f"{self.image_ids[row]}/{view}"))


def _progress(partial: Path) -> int:
    record = partial.with_suffix(".json")
    return json.loads(record.read_text())["done"] if record.exists() else 0
