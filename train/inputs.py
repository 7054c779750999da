"""What a recipe reads: photos from where it names them, through cached features or as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip2.config import Blip2Config
from blip2.devices import fast_dtype
from blip2.errors import UserError
from blip2.representation import ImageReader
from blip2.vision import ImageEncoder, build_image_encoder
from train.config import Recipe
from train.data import CaptionedPhotos
from train.shards import Place
from train.stream import StreamedPhotos


def frozen_precision(recipe: Recipe) -> torch.dtype:
    """Of frozen parts: the recipe's on a GPU, the processor's fast one elsewhere."""
    if not torch.cuda.is_available():
        return fast_dtype(torch.device("cpu"))
    asked = {"fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}
    return asked[recipe.precision]


def attach_encoder(recipe: Recipe, config: Blip2Config, reader: ImageReader) -> str | ImageEncoder:
    """Have a model of either stage read pixels, where its recipe has no cache of features.

    Returns
    -------
    str or ImageEncoder
        What :class:`train.data.CaptionedPhotos` takes.
    """
    if recipe.cache:
        return config.image_encoder
    reader.encoder = build_image_encoder(config.image_encoder).to(frozen_precision(recipe))
    return reader.encoder


def training_photos(
    recipe: Recipe, encoder: str | ImageEncoder
) -> CaptionedPhotos | StreamedPhotos:
    """What a recipe trains on; what was left out as broken is said.

    Parameters
    ----------
    recipe : Recipe
        Its ``data``, ``cache``, ``views``, ``texts``, ``pool``, ``resample`` and ``seed``.
    encoder : str or ImageEncoder
        As for :class:`CaptionedPhotos`.

    Raises
    ------
    UserError
        Streamed photos are to be cached, or resampled ones not to be streamed.
    """
    views, seed = recipe.views, recipe.seed
    if recipe.resample and not recipe.pool:
        raise UserError("resample: true needs pool: N, the number of shards at hand at once.")
    if recipe.pool:
        if isinstance(encoder, str):
            raise UserError("Streamed photos have no cache of features; set cache: ''.")
        return StreamedPhotos(
            recipe.data, encoder, recipe.pool, recipe.resample, views, seed, **told_of(recipe)
        )
    photos = CaptionedPhotos(recipe.data, encoder, recipe.cache, views, seed, **told_of(recipe))
    print(photos.report.describe())
    return photos


def told_of(recipe: Recipe) -> dict[str, Any]:
    """What of a photo's texts a recipe draws, for :class:`CaptionedPhotos`."""
    return {
        "texts": recipe.texts,
        "at_once": recipe.captions_at_once,
        "turns": recipe.turns,
        "typical": recipe.typical,
    }


def dev_photos(
    recipe: Recipe,
    encoder: str | ImageEncoder,
    trained_on: CaptionedPhotos | StreamedPhotos,
) -> CaptionedPhotos:
    """What a recipe is watched on, in one view.

    Raises
    ------
    UserError
        Photos of it are trained on, too, so that no figure of it would mean anything.
    """
    photos = CaptionedPhotos(recipe.dev_data, encoder, recipe.cache, texts=recipe.texts)
    if not isinstance(trained_on, CaptionedPhotos):
        return photos  # nobody knows all of them
    # By name and size: reading all photos to compare them would take hours.
    known = {
        _identity(*photo) for photo in zip(trained_on.image_ids, trained_on.places, strict=True)
    }
    shared = [
        name
        for name, place in zip(photos.image_ids, photos.places, strict=True)
        if _identity(name, place) in known
    ]
    if shared:
        raise UserError(
            f"{len(shared)} photos of dev_data are in data, too ({shared[0]} is the first); "
            "validate on photos that are not trained on."
        )
    return photos


def kept_tokens(
    recipe: Recipe, photos: CaptionedPhotos | StreamedPhotos, batch: int, device: torch.device
) -> Tensor | None:
    """Features that a step reads of each photo, None for all; see :func:`draw_tokens`."""
    if recipe.token_keep == 1:
        return None
    return draw_tokens(batch, photos.features.num_tokens, recipe.token_keep).to(device)


def draw_tokens(batch: int, tokens: int, share: float) -> Tensor:
    """Draw which of a photo's features a step reads, from torch's random state.

    Parameters
    ----------
    batch, tokens : int
        Photos, and features of each.
    share : float
        At least one feature is kept.

    Returns
    -------
    Tensor
        ``[B, K]`` positions, ascending, another draw for each photo.
    """
    number = max(1, round(tokens * share))
    return torch.rand(batch, tokens).topk(number).indices.sort(1).values


def hide_pieces(ids: Tensor, mask: Tensor, share: float, mask_token_id: int | None) -> Tensor:
    """Captions with some pieces behind ``[MASK]``, drawn from torch's random state.

    Parameters
    ----------
    ids, mask : Tensor
        ``[B, T]``, ``[CLS] ... [SEP]`` and padding, which are never hidden.
    share : float
        Probability of a piece to be hidden; 0 draws nothing.
    mask_token_id : int or None
        Of ``[MASK]``; None where nothing is hidden.

    Returns
    -------
    Tensor
        ``[B, T]``
    """
    if not share:
        return ids
    inside = mask.bool().clone()
    inside[:, 0] = False
    inside[torch.arange(len(ids)), mask.sum(1) - 1] = False  # [SEP]
    return ids.masked_fill(inside & (torch.rand(ids.shape) < share), mask_token_id)


def watched_rows(rows: int, most: int) -> np.ndarray:
    """Rows of a dev set to measure, spread evenly over it.

    Parameters
    ----------
    rows : int
        How many there are.
    most : int
        How many to measure at most; the processes that don't measure wait.
    """
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).round().astype(int))


def _identity(image_id: str, place: Place) -> tuple[str, int]:
    return image_id.rpartition("/")[2], place.size  # before it stands the number of the source
