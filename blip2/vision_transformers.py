"""Frozen vision transformers: EVA ViT-g, which the published checkpoints use, and CLIP ViT-L."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip2.checkpoints import find_checkpoint
from blip2.errors import UserError
from blip2.vision import ImageEncoder, register_image_encoder

# CLIP's normalisation, which EVA shares, in units of 0..255.
MEAN = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)
STD = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)


class VisionTransformer(ImageEncoder):
    """A vision transformer of transformers; positions are interpolated to any size.

    Parameters
    ----------
    model : PreTrainedModel
        With ``embeddings`` that interpolate.
    image_size : int, optional
        Side of the square that it reads, a multiple of the patch.

    Raises
    ------
    UserError
        The size is no multiple of the patch.
    """

    def __init__(self, model: Any, image_size: int | None = None) -> None:
        config = model.config
        size = image_size or config.image_size
        if size % config.patch_size:
            raise UserError(
                f"The image size {size} is no multiple of the patch, {config.patch_size} pixels; "
                f"choose {size // config.patch_size * config.patch_size or config.patch_size}."
            )
        tokens = (size // config.patch_size) ** 2 + 1
        super().__init__(config.hidden_size, tokens, size, MEAN, STD)
        self.model = model


class EvaViT(VisionTransformer):
    """EVA ViT, without a final norm (section 3.1: the last layer is dropped, 39 remain).

    The norm that the published checkpoints hold after it is trained with the Q-Former, so it
    belongs to :class:`blip2.representation.ImageReader`.

    Parameters
    ----------
    model : transformers.Blip2VisionModel
        Its transformer; its ``post_layernorm`` is taken off.
    image_size : int, optional
        See :class:`VisionTransformer`.
    """

    def __init__(self, model: Any, image_size: int | None = None) -> None:
        super().__init__(model, image_size)
        self.model.post_layernorm = torch.nn.Identity()

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, N, C]
        """Tokens of the last layer, the class token first."""
        embedded = self.model.embeddings(pixels, interpolate_pos_encoding=True)
        return self.model.encoder(inputs_embeds=embedded).last_hidden_state


class ClipViT(VisionTransformer):
    """CLIP ViT, read before its last layer (section 3.1: the second last layer's features).

    Parameters
    ----------
    model : transformers.CLIPVisionModel
        Its transformer; the last layer is taken off.
    image_size : int, optional
        See :class:`VisionTransformer`.
    """

    def __init__(self, model: Any, image_size: int | None = None) -> None:
        super().__init__(model, image_size)
        kept = model.config.num_hidden_layers - 1
        self.model.encoder.layers = self.model.encoder.layers[:kept]
        self.model.post_layernorm = torch.nn.Identity()

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, N, C]
        """Tokens of the last layer but one, the class token first."""
        return self.model(pixels, interpolate_pos_encoding=True).last_hidden_state


def at_size(encoder: ImageEncoder, image_size: int | None) -> ImageEncoder:
    """The same encoder for another image size.

    Raises
    ------
    UserError
        It is no vision transformer, so that its size is fixed.
    """
    if image_size in (None, encoder.image_size):
        return encoder
    if not isinstance(encoder, VisionTransformer):
        raise UserError(
            f"This image encoder reads {encoder.image_size} pixels and no other size; leave the "
            "image size out."
        )
    return type(encoder)(encoder.model, image_size).freeze()


@register_image_encoder("eva-vit-g")
def eva_vit_g() -> ImageEncoder:
    """EVA ViT-g at 224 pixels, from the published stage-1 checkpoint on the Hugging Face Hub."""
    from blip2.huggingface import Published  # late: it imports this file

    folder = find_checkpoint("Salesforce/blip2-itm-vit-g")
    return Published(folder, stage=1).image_encoder(torch.float16)


@register_image_encoder("clip-vit-l")
def clip_vit_l() -> ImageEncoder:
    """CLIP ViT-L/14 at 224 pixels, from the Hugging Face Hub."""
    from transformers import CLIPVisionModel

    folder = find_checkpoint("openai/clip-vit-large-patch14")
    return ClipViT(CLIPVisionModel.from_pretrained(folder, dtype=torch.float16))
