"""Start stage 1 from a model that read less of a photo than the new one will.

Channels that the start did not know come last and count for nothing at first, and its learned
positions are spread over the new cells, where the image encoder knows how
(:meth:`blip2.vision.ImageEncoder.adopt`). What it has learned about photos serves at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from blip2.config import Blip2Config


def grown(tensors: Mapping[str, Tensor], config: Blip2Config) -> dict[str, Tensor]:
    """Weights of a stage-1 model for another with more channels or more cells.

    Parameters
    ----------
    tensors : mapping
        Of the start; a new mapping is given.
    config : Blip2Config
        Of the model to be filled. What it shares with the start stays as it is, and so does what
        can't be fitted, which :func:`blip2.checkpoints.fill` then refuses.
    """
    grown_ones = dict(tensors)
    norm = grown_ones.get("image_reader.norm.weight")
    more = config.qformer.encoder_width - len(norm) if norm is not None else 0
    positions = grown_ones.get("image_reader.positions")
    if positions is not None and len(positions) != config.image_positions:
        grown_ones["image_reader.positions"] = _spread(positions, config)
    if more > 0:
        for name, value in grown_ones.items():
            if name == "image_reader.norm.weight":
                grown_ones[name] = F.pad(value, (0, more), value=1.0)
            elif name.startswith("image_reader.") or _reads_photo(name):
                grown_ones[name] = F.pad(value, (0, more))
    return grown_ones


def _reads_photo(name: str) -> bool:
    """Whether a weight's columns are channels of the features."""
    return ".cross_attention." in name and name.endswith((".key.weight", ".value.weight"))


def _spread(positions: Tensor, config: Blip2Config) -> Tensor:
    from blip2.vision import build_architecture

    with torch.no_grad():
        return build_architecture(config.image_encoder).adopt(positions)
