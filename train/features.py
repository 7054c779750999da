"""What a model reads of photos: cached features of the frozen encoder, or pixels.

A frozen encoder never changes, so its features of a photo don't either. Several *views* of each
photo are kept: view 0 is the whole photo as at inference, each further view a random resized crop
with a random flip, drawn from the photo's name and the view's number. Training draws one view a
step.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from blip2.devices import fast_dtype
from blip2.processing import PhotoError, open_photo
from blip2.vision import ImageEncoder, build_image_encoder
from train.shards import Place


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
    places : sequence of Place
        Their files, in the same order.
    views : int
        Views of each photo, at least 1.
    batch_size : int
        Photos that the encoder sees at once.

    Attributes
    ----------
    broken : dict
        Photos that can't be opened: number and reason.
    """

    def __init__(
        self,
        folder: Path,
        encoder: str,
        image_ids: Sequence[str],
        places: Sequence[Place],
        views: int = 1,
        batch_size: int = 32,
    ) -> None:
        digest = hashlib.sha256(encoder.encode())
        for image_id, place in zip(image_ids, places, strict=True):
            digest.update(image_id.encode() + hashlib.sha256(place.read()).digest())
        self.digest = digest.hexdigest()
        self.path = folder / f"features-{self.digest[:16]}.npy"
        self.encoder, self.image_ids, self.places = encoder, image_ids, places
        self.batch_size = batch_size
        folder.mkdir(parents=True, exist_ok=True)
        self._views = [self._view(view) for view in range(views)]
        self.num_tokens = self._views[0].shape[1]
        unusable = np.isnan(self._views[0][:, 0, 0])
        self.broken = {int(row): "it can't be opened" for row in unusable.nonzero()[0]}

    def read(self, rows: Sequence[int], draws: Sequence[random.Random]) -> torch.Tensor:
        """Features ``[B, N, C]`` (half precision) of photos, each in the view that it draws."""
        views = [draw.randrange(len(self._views)) for draw in draws]
        found = [self._views[view][row] for view, row in zip(views, rows, strict=True)]
        return torch.from_numpy(np.stack(found))

    def _view(self, view: int) -> np.ndarray:  # [P, N, C]
        path = self.path.with_suffix(f".view{view}.npy")
        with FileLock(f"{path}.lock"):  # two runs may share a cache
            if not path.exists():
                self._compute(view, path)
        return np.load(path, mmap_mode="r")

    def _compute(self, view: int, path: Path) -> None:
        encoder = _placed(self.encoder)
        shape = (len(self.places), encoder.num_tokens, encoder.width)
        partial = path.with_suffix(".partial")
        done = _progress(partial) if partial.exists() else 0
        mode = "r+" if done else "w+"
        out = np.lib.format.open_memmap(partial, mode=mode, dtype=np.float16, shape=shape)
        starts = range(done, len(self.places), self.batch_size)
        for start in tqdm(starts, desc=f"features, view {view}", unit="batch"):
            rows = range(start, min(start + self.batch_size, len(self.places)))
            draws = [
                random.Random(f"{self.image_ids[row]}/{view}") if view else None for row in rows
            ]
            pixels, broken = load_pixels(encoder, [self.places[row] for row in rows], draws)
            out[rows.start : rows.stop] = encoder(pixels).float().cpu().numpy()
            # Features of what can't be opened are marked, and never drawn.
            out[[rows[number] for number in broken]] = np.nan
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


class Pixels:
    """Photos themselves, each time in another random view, for an encoder in the model.

    Parameters
    ----------
    encoder : ImageEncoder
        Whose transforms are used.
    image_ids : sequence of str
        The photos' names.
    places : sequence of Place
        Their files, in the same order.
    whole : bool
        Read the whole photo, as at inference, and no random view.

    Attributes
    ----------
    broken : dict
        Photos that turned out not to open: number and reason.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        image_ids: Sequence[str],
        places: Sequence[Place],
        whole: bool = False,
    ) -> None:
        self.encoder, self.image_ids, self.places = encoder, image_ids, places
        self.whole, self.broken = whole, {}
        self.num_tokens = encoder.num_tokens
        self.digest = names_digest(f"{encoder.image_size} pixels", image_ids, places)

    def read(self, rows: Sequence[int], draws: Sequence[random.Random]) -> torch.Tensor:
        """Pixels ``[B, 3, S, S]`` of photos, normalised, each in a view of its own."""
        places = [self.places[row] for row in rows]
        views = [None] * len(draws) if self.whole else list(draws)
        pixels, broken = load_pixels(self.encoder, places, views)
        self.broken |= {rows[number]: why for number, why in broken.items()}
        return pixels


def names_digest(kind: str, image_ids: Sequence[str], places: Sequence[Place]) -> str:
    """Hex digest of photos by name and size, for where reading them all would take hours."""
    digest = hashlib.sha256(kind.encode())
    for image_id, place in zip(image_ids, places, strict=True):
        digest.update(f"{image_id}/{place.size}/".encode())
    return digest.hexdigest()


def load_pixels(
    encoder: ImageEncoder, places: Sequence[Place], draws: Sequence[random.Random | None]
) -> tuple[torch.Tensor, dict[int, str]]:
    """Photos as an encoder reads them: a random view where something is drawn, else the whole.

    Parameters
    ----------
    encoder : ImageEncoder
        Whose transforms are used.
    places : sequence of Place
        ``B`` files.
    draws : sequence
        One a photo, or None.

    Returns
    -------
    Tensor
        ``[B, 3, S, S]``; zeros for photos that can't be opened.
    dict
        Which those are, and why.
    """
    broken: dict[int, str] = {}

    def pixels(number: int) -> torch.Tensor:
        try:
            image = open_photo(places[number].read())
        except PhotoError as error:
            broken[number] = str(error)
            return torch.zeros(3, encoder.image_size, encoder.image_size)
        draw = draws[number]
        return encoder.transform(image) if draw is None else encoder.train_transform(image, draw)

    # Pillow lets other threads work while it decodes and scales.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = torch.stack(list(pool.map(pixels, range(len(places)))))
    return photos.contiguous(memory_format=torch.channels_last), broken


def _placed(name: str) -> ImageEncoder:
    """A frozen encoder where training runs, in its fast precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build_image_encoder(name).to(device, fast_dtype(device))


def _progress(partial: Path) -> int:
    record = partial.with_suffix(".json")
    return json.loads(record.read_text())["done"] if record.exists() else 0
