"""Image encoders behind one small interface: pixels in, features ``[B, N, C]`` out.

They are frozen in both stages of pre-training; only fine-tuning trains them, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.errors import UserError
from blip2.processing import PhotoTransform, TrainTransform

IMAGE_ENCODERS: dict[str, Callable[[], ImageEncoder]] = {}
ARCHITECTURES: dict[str, Callable[[], ImageEncoder]] = {}


class ImageEncoder(nn.Module):
    """An image encoder (section 3.1): frozen, and in eval mode even after ``.train()``.

    Parameters
    ----------
    width : int
        Channels ``C`` of a feature.
    num_tokens : int
        Features ``N`` of one photo at ``image_size``.
    image_size : int
        Side of the square that it reads, in pixels.
    mean, std : tuple of float
        Normalisation of each channel, in units of 0..255.

    Attributes
    ----------
    num_layers : int
        Layers that :meth:`layer_of` tells apart.
    trained : bool
        Whether gradients flow, see :meth:`unfreeze`.
    num_held : int
        Entries of trainable tensors that stay as they are all the same.
    num_ahead : int
        Features that stand before the grid of :attr:`grid`: 1 where there is a class token.
    """

    num_layers = 1
    trained = False
    num_held = 0
    num_ahead = 0

    def __init__(
        self,
        width: int,
        num_tokens: int,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.width, self.num_tokens, self.image_size = width, num_tokens, image_size
        self.transform = PhotoTransform(image_size, mean, std)
        self.train_transform = TrainTransform(image_size, mean, std)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns in which the features lie on the photo, row by row, from the top left.

        A photo is squeezed to the square, so the grid covers all of it, whatever its shape. A
        subclass whose features lie otherwise says how.

        Raises
        ------
        ValueError
            They make no square.
        """
        cells = self.num_tokens - self.num_ahead
        side = math.isqrt(cells)
        if side * side != cells:
            raise ValueError(
                f"{cells} features make no square grid; {type(self).__name__} must "
                "say how they lie."
            )
        return side, side

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, N, C]
        """Compute the features; a subclass says how."""
        raise NotImplementedError

    def layer_of(self, name: str) -> int:
        """Layer of a parameter: 0 for what embeds pixels, then 1 to ``num_layers``."""
        return self.num_layers

    def forward(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, N, C]
        """Features of normalised pixels; without gradients, unless it is trained."""
        parameter = next(self.parameters())
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return self.features(pixels.to(parameter.device, parameter.dtype))

    def freeze(self) -> ImageEncoder:
        """Switch gradients off for good and return self."""
        self.trained = False
        self.requires_grad_(False)
        return self.eval()

    def unfreeze(self, checkpointing: bool = False) -> ImageEncoder:
        """Make it trainable, in fp32, as fine-tuning does (section 4), and return self.

        Parameters
        ----------
        checkpointing : bool
            Compute activations again in the backward pass, where the encoder can: less memory
            for a third more time.
        """
        self.trained = True
        return self.float().requires_grad_(True).eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in eval mode whatever is asked: statistics of norms never move."""
        return super().train(False)


def register_image_encoder(
    name: str, architecture: Callable[[], ImageEncoder] | None = None
) -> Callable:
    """Make the decorated builder available as ``image_encoder: name`` in a configuration.

    Parameters
    ----------
    name : str
        In configurations.
    architecture : callable, optional
        Builds the encoder without weights, for checkpoints that bring their own.
    """

    def register(builder: Callable[[], ImageEncoder]) -> Callable[[], ImageEncoder]:
        IMAGE_ENCODERS[name] = builder
        ARCHITECTURES[name] = architecture or builder
        return builder

    return register


def build_image_encoder(name: str) -> ImageEncoder:
    """Build a registered encoder with its published weights, frozen.

    Raises
    ------
    UserError
        No encoder is registered under this name.
    """
    return _registered(name, IMAGE_ENCODERS)().freeze()


def build_architecture(name: str, image_size: int = 0) -> ImageEncoder:
    """Build a registered encoder for weights of one's own, frozen.

    Parameters
    ----------
    name : str
        As registered.
    image_size : int
        Side in pixels for which its positions are made, 0 for its own.

    Raises
    ------
    UserError
        No encoder is registered under this name, or it can't have this size.
    """
    from blip2.vision_transformers import resized

    return resized(_registered(name, ARCHITECTURES)(), image_size).freeze()


def _registered(name: str, registry: dict[str, Callable]) -> Callable[[], ImageEncoder]:
    import blip2.vision_transformers  # noqa: F401  (registers its encoders)

    if name not in IMAGE_ENCODERS:
        raise UserError(
            f"There is no image encoder {name!r}; choose one of {', '.join(sorted(IMAGE_ENCODERS))}"
            " or register it with blip2.vision.register_image_encoder."
        )
    return registry.get(name, IMAGE_ENCODERS[name])


class EfficientNetLite(ImageEncoder):
    """EfficientNet-Lite2 (ImageNet), the map after its head convolution, 9 x 9 x 1280."""

    def __init__(self) -> None:
        super().__init__(1280, 81, 260, mean=(127.0,) * 3, std=(128.0,) * 3)
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite2")
        del self.net._fc, self.net._dropout, self.net._avg_pooling
        self.num_layers = len(self.net._blocks) + 1  # with the head convolution

    def layer_of(self, name: str) -> int:
        """0 for the stem, then the blocks, then the head."""
        parts = name.split(".")
        if "_blocks" in parts:
            return int(parts[parts.index("_blocks") + 1]) + 1
        return 0 if {"_conv_stem", "_bn0"} & set(parts) else self.num_layers

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, 260, 260] -> [B, 81, 1280]
        """Cells of the last map, row by row."""
        maps = self.net.extract_features(pixels)  # [B, 1280, 9, 9]
        return maps.flatten(2).transpose(1, 2)


class EfficientNetLiteTwoScales(EfficientNetLite):
    """EfficientNet-Lite2, the last map and, cell by cell, the finer one before its last blocks.

    What tells classes apart is in the 1280 channels of the last map; the 120 of the map of stride
    16 still hold what a part of the photo looks like. Each is normalised by itself, since they
    differ in size.
    """

    FINER = 14  # the last block whose map is 17 x 17

    def __init__(self) -> None:
        super().__init__()
        self.width += self.net._blocks[self.FINER]._bn2.num_features

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, 260, 260] -> [B, 81, 1400]
        """Cells of both maps, row by row."""
        net = self.net
        maps = net._swish(net._bn0(net._conv_stem(pixels)))
        for number, block in enumerate(net._blocks):
            maps = block(maps)
            if number == self.FINER:
                finer = F.avg_pool2d(maps, 2, ceil_mode=True)  # [B, 120, 9, 9]
        last = net._swish(net._bn1(net._conv_head(maps)))  # [B, 1280, 9, 9]
        cells = [scale.flatten(2).transpose(1, 2).float() for scale in (last, finer)]
        normed = [F.layer_norm(scale, scale.shape[-1:]) for scale in cells]
        return torch.cat(normed, dim=-1).to(pixels.dtype)


@register_image_encoder("efficientnet-lite2", EfficientNetLite)
def efficientnet_lite2() -> ImageEncoder:
    """EfficientNet-Lite2 from its package's weights, converted once to safetensors."""
    return _with_published_weights(EfficientNetLite())


@register_image_encoder("efficientnet-lite2-two-scales", EfficientNetLiteTwoScales)
def efficientnet_lite2_two_scales() -> ImageEncoder:
    """The same network and weights, read at two scales."""
    return _with_published_weights(EfficientNetLiteTwoScales())


def _with_published_weights(encoder: EfficientNetLite) -> EfficientNetLite:
    from safetensors.torch import load_file

    from blip2.assets import efficientnet_weights

    state = load_file(efficientnet_weights())
    state = {name: value for name, value in state.items() if not name.startswith("_fc.")}
    encoder.net.load_state_dict(state, strict=True)
    return encoder.to(memory_format=torch.channels_last)
