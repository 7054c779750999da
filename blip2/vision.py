"""Frozen image encoders behind one small interface: pixels in, features ``[B, N, C]`` out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from blip2.errors import UserError
from blip2.processing import PhotoTransform, TrainTransform

IMAGE_ENCODERS: dict[str, Callable[[], ImageEncoder]] = {}


class ImageEncoder(nn.Module):
    """A frozen image encoder (section 3.1): no gradients, eval mode even after ``.train()``.

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
    """

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

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, N, C]
        """Compute the features; a subclass says how."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, N, C]
        """Features of normalised pixels, without gradients."""
        parameter = next(self.parameters())
        return self.features(pixels.to(parameter.device, parameter.dtype))

    def freeze(self) -> ImageEncoder:
        """Switch gradients off for good and return self."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in eval mode whatever is asked: statistics of a frozen part never move."""
        return super().train(False)


def register_image_encoder(name: str) -> Callable:
    """Make the decorated builder available as ``image_encoder: name`` in a configuration."""

    def register(builder: Callable[[], ImageEncoder]) -> Callable[[], ImageEncoder]:
        IMAGE_ENCODERS[name] = builder
        return builder

    return register


def build_image_encoder(name: str) -> ImageEncoder:
    """Build a registered encoder with its published weights, frozen.

    Raises
    ------
    UserError
        No encoder is registered under this name.
    """
    import blip2.vision_transformers  # noqa: F401  (registers its encoders)

    if name not in IMAGE_ENCODERS:
        raise UserError(
            f"There is no image encoder {name!r}; choose one of {', '.join(sorted(IMAGE_ENCODERS))}"
            " or register it with blip2.vision.register_image_encoder."
        )
    return IMAGE_ENCODERS[name]().freeze()


class EfficientNetLite(ImageEncoder):
    """EfficientNet-Lite2 (ImageNet), the map after its head convolution, 9 x 9 x 1280."""

    def __init__(self) -> None:
        super().__init__(1280, 81, 260, mean=(127.0,) * 3, std=(128.0,) * 3)
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite2")
        del self.net._fc, self.net._dropout, self.net._avg_pooling

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, 260, 260] -> [B, 81, 1280]
        """Cells of the last map, row by row."""
        maps = self.net.extract_features(pixels)  # [B, 1280, 9, 9]
        return maps.flatten(2).transpose(1, 2)


@register_image_encoder("efficientnet-lite2")
def efficientnet_lite2() -> ImageEncoder:
    """EfficientNet-Lite2 from its package's weights, converted once to safetensors."""
    from safetensors.torch import load_file

    from blip2.assets import efficientnet_weights

    encoder = EfficientNetLite()
    state = load_file(efficientnet_weights())
    state = {name: value for name, value in state.items() if not name.startswith("_fc.")}
    encoder.net.load_state_dict(state, strict=True)
    return encoder.to(memory_format=torch.channels_last)
