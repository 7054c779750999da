"""The colours of a photo by name, cell by cell: what a network for classes keeps little of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The eleven basic colour terms (Berlin and Kay, 1969) at a typical value, sRGB.
COLOURS = {
    "black": (15, 15, 15), "white": (245, 245, 245), "gray": (128, 128, 128),
    "red": (200, 30, 40), "green": (50, 120, 50), "blue": (40, 80, 180),
    "yellow": (235, 215, 50), "orange": (235, 130, 40), "brown": (110, 70, 40),
    "pink": (235, 150, 180), "purple": (110, 50, 140),
}  # fmt: skip


def colour_shares(pixels: Tensor, sides: tuple[int, ...]) -> Tensor:
    """How much of each cell has each of the basic colours (as van de Weijer et al., 2009).

    Parameters
    ----------
    pixels : Tensor
        ``[B, 3, S, S]``, sRGB in 0..255, fp32.
    sides : tuple of int
        Rows of each grid of cells, as many as columns.

    Returns
    -------
    Tensor
        ``[B, N, 11]``, the cells of all grids one after the other: square roots of the shares,
        moved and stretched to be about as large as a normalised feature.
    """
    typical = torch.tensor(list(COLOURS.values()), device=pixels.device).float()  # [11, 3]
    typical = _lab(typical.T[None, :, :, None])[0, :, :, 0].T  # [11, 3]
    lab = _lab(F.interpolate(pixels.clamp(0, 255), (130, 130), mode="area"))  # [B, 3, 130, 130]
    apart = torch.cdist(lab.flatten(2).transpose(1, 2), typical[None])  # [B, 16900, 11]
    likely = (-(apart**2) / (2 * 12.0**2)).softmax(-1)  # 12: an easily seen difference in Lab
    maps = likely.transpose(1, 2).unflatten(-1, lab.shape[-2:])  # [B, 11, 130, 130]
    cells = [F.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2) for side in sides]
    return (torch.cat(cells, dim=1).sqrt() - 0.2) * 4


def _lab(rgb: Tensor) -> Tensor:  # [B, 3, H, W] in 0..255 -> [B, 3, H, W]
    """CIE Lab (D65) of sRGB: distances in it are about as people see them."""
    share = rgb / 255
    linear = torch.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    to_xyz = linear.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
         [0.019334, 0.119193, 0.950227]]
    )  # fmt: skip
    xyz = torch.einsum("ij,bjhw->bihw", to_xyz, linear)
    xyz = xyz / xyz.new_tensor([0.95047, 1.0, 1.08883])[None, :, None, None]
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
