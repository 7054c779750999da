"""Vision transformers: EVA ViT-g, which the published checkpoints use, and CLIP ViT-L."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blip2.checkpoint_files import find_checkpoint
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

    num_ahead = 1  # the class token

    def __init__(self, model: Any, image_size: int | None = None) -> None:
        config = model.config
        size = image_size or config.image_size
        if size % config.patch_size:
            raise UserError(
                f"The image size {size} is no multiple of the patch, {config.patch_size} pixels; "
                f"choose {size // config.patch_size * config.patch_size or config.patch_size}."
            )
        tokens = self.num_ahead + (size // config.patch_size) ** 2
        super().__init__(config.hidden_size, tokens, size, MEAN, STD)
        self.model = model
        self.num_layers = len(model.encoder.layers)

    def layer_of(self, name: str) -> int:
        """0 for patches, class token and positions, then the layers."""
        parts = name.split(".")
        return int(parts[parts.index("layers") + 1]) + 1 if "layers" in parts else 0

    def unfreeze(self, checkpointing: bool = False) -> VisionTransformer:
        """See :meth:`blip2.vision.ImageEncoder.unfreeze`."""
        if checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        return super().unfreeze()

    def train(self, mode: bool = True) -> VisionTransformer:
        """Stay in eval mode; a layer that is computed again must take itself to be in training."""
        super().train(False)
        for layer in self.model.encoder.layers:
            layer.training = mode and getattr(layer, "gradient_checkpointing", False)
        return self


class WithoutKeyBias(torch.nn.Linear):
    """A projection to queries, keys and values, of which the keys' bias is not trained.

    Parameters
    ----------
    whole : nn.Linear
        Whose tensors are taken.
    """

    def __init__(self, whole: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.weight, self.bias = whole.weight, whole.bias

    def forward(self, hidden: Tensor) -> Tensor:  # [B, N, C] -> [B, N, 3C]
        """As the whole; no gradient reaches the keys' bias."""
        queries, keys, values = self.bias.chunk(3)
        return F.linear(hidden, self.weight, torch.cat([queries, keys.detach(), values]))


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

    def unfreeze(self, checkpointing: bool = False) -> EvaViT:
        """See :meth:`blip2.vision.ImageEncoder.unfreeze`; keys stay without bias.

        Transformers holds one of zeros, which attention can't feel: it adds the same to all of a
        query's scores. Adam would move it by the noise of its gradient.
        """
        super().unfreeze(checkpointing)
        for layer in self.model.encoder.layers:
            layer.self_attn.qkv = WithoutKeyBias(layer.self_attn.qkv)
        self.num_held = self.num_layers * self.width
        return self

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


def resized(encoder: ImageEncoder, image_size: int) -> ImageEncoder:
    """The same encoder with positions of its own for another image size, as fine-tuning has it.

    Parameters
    ----------
    encoder : ImageEncoder
        Is taken apart.
    image_size : int
        Side in pixels, 0 for the encoder's own.

    Raises
    ------
    UserError
        As :func:`at_size`.
    """
    if image_size in (0, encoder.image_size):
        return encoder
    larger = at_size(encoder, image_size)
    embeddings = larger.model.embeddings
    table = embeddings.position_embedding
    weights = table.weight if isinstance(table, torch.nn.Embedding) else table
    photo = weights.new_empty(1, larger.num_tokens, larger.width)  # only its shape is read
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(photo, image_size, image_size)
    if isinstance(table, torch.nn.Embedding):
        embeddings.position_embedding = torch.nn.Embedding.from_pretrained(positions[0])
        ids = torch.arange(larger.num_tokens, device=positions.device)
        embeddings.position_ids = ids.expand(1, -1)
    else:
        embeddings.position_embedding = torch.nn.Parameter(positions)
    larger.model.config = copy.deepcopy(larger.model.config)  # others may hold the same
    embeddings.image_size = larger.model.config.image_size = image_size
    embeddings.num_patches, embeddings.num_positions = larger.num_tokens - 1, larger.num_tokens
    return larger


def eva_architecture() -> EvaViT:
    """EVA ViT-g with random weights."""
    from transformers import Blip2VisionConfig, Blip2VisionModel

    return EvaViT(Blip2VisionModel(Blip2VisionConfig()))


def clip_architecture() -> ClipViT:
    """CLIP ViT-L/14 with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    )
    return ClipViT(CLIPVisionModel(config))


@register_image_encoder("eva-vit-g", eva_architecture)
def eva_vit_g() -> ImageEncoder:
    """EVA ViT-g at 224 pixels, from the published stage-1 checkpoint on the Hugging Face Hub."""
    from blip2.huggingface import Published  # late: it imports this file

    folder = find_checkpoint("Salesforce/blip2-itm-vit-g")
    return Published(folder, stage=1).image_encoder(torch.float16)


@register_image_encoder("clip-vit-l", clip_architecture)
def clip_vit_l() -> ImageEncoder:
    """CLIP ViT-L/14 at 224 pixels, from the Hugging Face Hub."""
    from transformers import CLIPVisionModel

    folder = find_checkpoint("openai/clip-vit-large-patch14")
    return ClipViT(CLIPVisionModel.from_pretrained(folder, dtype=torch.float16))
