"""Image encoders behind one small interface: pixels in, features ``[B, N, C]`` out.

They are frozen in both stages of pre-training; only fine-tuning trains them, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from blip2.errors import UserError
from blip2.transforms import PhotoTransform, TrainTransform

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

    def lay_out(self, weights: Tensor) -> Tensor:  # [..., N] -> [..., rows, columns]
        """Weights of the features on the photo; what stands before the grid is left out."""
        return weights[..., self.num_ahead :].unflatten(-1, self.grid)

    def adopt(self, positions: Tensor) -> Tensor:  # [M, C] -> [N, C], or as they are
        """Learned positions of another encoder's features for these, where a subclass can."""
        return positions

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
    # Both register their encoders.
    import blip2.efficientnet
    import blip2.vision_transformers  # noqa: F401

    if name not in IMAGE_ENCODERS:
        raise UserError(
            f"There is no image encoder {name!r}; choose one of {', '.join(sorted(IMAGE_ENCODERS))}"
            " or register it with blip2.vision.register_image_encoder."
        )
    return registry.get(name, IMAGE_ENCODERS[name])
