"""EfficientNet-Lite as an image encoder: small convolutional networks for photos on a laptop.

Tan and Le: EfficientNet, ICML 2019; the Lite variants are made for phones.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from blip2.colours import COLOURS, colour_shares
from blip2.vision import ImageEncoder, register_image_encoder

MEAN, STD = (127.0,) * 3, (128.0,) * 3  # of each channel, in units of 0..255


class EfficientNetLite(ImageEncoder):
    """EfficientNet-Lite2 (ImageNet), the map after its head convolution, 9 x 9 x 1280."""

    VERSION = "efficientnet-lite2"
    SIZE = 260  # of the photo, in pixels
    SIDES = (9,)  # of each grid of cells

    def __init__(self) -> None:
        cells = sum(side**2 for side in self.SIDES)
        super().__init__(1280, cells, self.SIZE, mean=MEAN, std=STD)
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name(self.VERSION)
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

    def block_maps(self, pixels: Tensor) -> Iterator[Tensor]:
        """The map after each block, before the head convolution."""
        maps = self.net._swish(self.net._bn0(self.net._conv_stem(pixels)))
        for block in self.net._blocks:
            maps = block(maps)
            yield maps


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0, the map after its head convolution, 7 x 7 x 1280: half of the work."""

    VERSION, SIZE, SIDES = "efficientnet-lite0", 224, (7,)


class EfficientNetLiteBeforeHead(EfficientNetLite):
    """EfficientNet-Lite2, the map that its head convolution reads, 9 x 9 x 352."""

    def __init__(self) -> None:
        super().__init__()
        self.width = self.net._blocks[-1]._bn2.num_features
        del self.net._conv_head, self.net._bn1
        self.num_layers = len(self.net._blocks)

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, 260, 260] -> [B, 81, 352]
        """Cells of the map, row by row."""
        for maps in self.block_maps(pixels):  # noqa: B007  (the last is wanted)
            pass
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
        for number, maps in enumerate(self.block_maps(pixels)):
            if number == self.FINER:
                finer = F.avg_pool2d(maps, 2, ceil_mode=True)  # [B, 120, 9, 9]
        net = self.net
        last = net._swish(net._bn1(net._conv_head(maps)))  # [B, 1280, 9, 9]
        cells = [scale.flatten(2).transpose(1, 2).float() for scale in (last, finer)]
        normed = [F.layer_norm(scale, scale.shape[-1:]) for scale in cells]
        return torch.cat(normed, dim=-1).to(pixels.dtype)


class EfficientNetLiteTwoSizes(EfficientNetLiteTwoScales):
    """EfficientNet-Lite2 at two sizes: both scales of the photo at 260 pixels, and of its mirror
    image at 388, where what is small fills more cells; with the colours of each cell.

    What the network sees is less the same in a mirror than it should be, so the second look brings
    more than its size. Its cells lie where they are on the photo, not in the mirror. A network
    that was trained to tell classes keeps little of colours, so each cell also says how much of it
    has each of the basic colours.
    """

    SIZE, SIDES = 388, (9, 13)
    SMALL = EfficientNetLite.SIZE

    def __init__(self) -> None:
        super().__init__()
        self.width += len(COLOURS)

    @property
    def grid(self) -> tuple[int, int]:
        """Of the larger size; :meth:`lay_out` spreads the other's cells over it."""
        return self.SIDES[1], self.SIDES[1]

    def lay_out(self, weights: Tensor) -> Tensor:
        """See :meth:`ImageEncoder.lay_out`; what both sizes have of a place adds up."""
        small, large = weights.split([side**2 for side in self.SIDES], dim=-1)
        coarse, fine = self.SIDES
        edges = torch.arange(fine + 1) / fine
        starts = torch.arange(coarse) / coarse
        covered = (edges[:, None] - starts).clamp(0, 1 / coarse) * coarse  # [fine + 1, coarse]
        parts = covered.diff(dim=0).to(weights)  # [fine, coarse], of a coarse row in each fine one
        spread = parts @ small.unflatten(-1, (coarse, coarse)) @ parts.T
        return spread + large.unflatten(-1, self.grid)

    def features(self, pixels: Tensor) -> Tensor:  # [B, 3, 388, 388] -> [B, 250, 1411]
        """Cells of the photo at 260 pixels, row by row, then of the larger."""
        size = (self.SMALL, self.SMALL)
        small = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
        small = small.to(pixels.dtype).contiguous(memory_format=torch.channels_last)
        first = super().features(small)  # [B, 81, 1400]
        rows, columns = self.grid
        mirrored = super().features(pixels.flip(-1)).unflatten(1, (rows, columns))
        second = mirrored.flip(2).flatten(1, 2)  # [B, 169, 1400]
        named = colour_shares(pixels.float() * STD[0] + MEAN[0], self.SIDES)  # [B, 250, 11]
        return torch.cat([torch.cat([first, second], dim=1), named.to(pixels.dtype)], dim=-1)

    def adopt(self, positions: Tensor) -> Tensor:  # [81, C] -> [250, C]
        """Learned positions of the smaller size for both, to train on from a model of one."""
        coarse, fine = self.SIDES
        if len(positions) != coarse**2:
            return positions
        grid = positions.float().T.reshape(1, -1, coarse, coarse)
        larger = F.interpolate(grid, (fine, fine), mode="bicubic", align_corners=False)
        return torch.cat([positions, larger.flatten(2)[0].T.to(positions.dtype)])


def with_published_weights(kind: type[EfficientNetLite]) -> EfficientNetLite:
    """Build an encoder with its package's weights, converted once to safetensors."""
    from safetensors.torch import load_file

    from blip2.assets import efficientnet_weights

    encoder = kind()
    own = encoder.net.state_dict()
    published = load_file(efficientnet_weights(encoder.VERSION))
    # Its classifier has no place here, and not every encoder reads its head.
    state = {name: value for name, value in published.items() if name in own}
    encoder.net.load_state_dict(state, strict=True)
    return encoder.to(memory_format=torch.channels_last)


for _name, _kind in {
    "efficientnet-lite2": EfficientNetLite,
    "efficientnet-lite2-two-scales": EfficientNetLiteTwoScales,
    "efficientnet-lite2-two-sizes": EfficientNetLiteTwoSizes,
    "efficientnet-lite2-before-head": EfficientNetLiteBeforeHead,
    "efficientnet-lite0": EfficientNetLite0,
}.items():
    register_image_encoder(_name, _kind)(partial(with_published_weights, _kind))
