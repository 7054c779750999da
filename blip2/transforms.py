"""Photos turned into the pixels that an image encoder expects, whole or through a random crop."""

import math
import random
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch


class PhotoTransform:
    """Turn a photo into the pixels that an image encoder expects.

    The whole photo is squeezed to the square, so nothing at its borders is lost.

    Parameters
    ----------
    size : int
        Side of the square, in pixels.
    mean, std : tuple of 3 floats
        Of the red, green and blue channel, in 0..255 units.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.size = size
        self.mean = np.asarray(mean, dtype=np.float32)
        self.std = np.asarray(std, dtype=np.float32)

    def __call__(self, image: Image.Image) -> "torch.FloatTensor":
        """Return the normalised pixels of an RGB photo.

        Parameters
        ----------
        image : PIL.Image.Image
            As `open_photo` returns it.

        Returns
        -------
        torch.FloatTensor
            Shape [3, size, size].
        """
        return self._normalise(image.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def _normalise(self, image: Image.Image) -> "torch.FloatTensor":
        import torch  # late: opening a photo needs no torch

        pixels = (np.asarray(image, dtype=np.float32) - self.mean) / self.std  # [S, S, 3]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # [3, S, S]


class TrainTransform(PhotoTransform):
    """The same, through a random crop and a random mirror image.

    The crop covers `SCALE` of the area and has a ratio of width to height within `RATIO`.
    """

    SCALE = (0.5, 1.0)
    RATIO = (3 / 4, 4 / 3)

    def __call__(self, image: Image.Image, rng: random.Random) -> "torch.FloatTensor":
        """Return the normalised pixels of a random view of an RGB photo.

        Parameters
        ----------
        image : PIL.Image.Image
            As `open_photo` returns it.
        rng : random.Random
            Decides the view; the same state gives the same view.

        Returns
        -------
        torch.FloatTensor
            Shape [3, size, size].
        """
        side = (self.size, self.size)
        box = self.crop_box(image.width, image.height, rng)
        view = image.resize(side, Image.Resampling.BICUBIC, box=box)
        if rng.random() < 0.5:
            view = ImageOps.mirror(view)
        return self._normalise(view)

    def crop_box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Draw a crop as (left, top, right, bottom), in pixels.

        A photo too long or too high for the drawn crops gives, after ten tries, its largest
        central crop of a permitted ratio.
        """
        for _ in range(10):
            area = width * height * rng.uniform(*self.SCALE)
            ratio = math.exp(rng.uniform(math.log(self.RATIO[0]), math.log(self.RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.randint(0, width - w), rng.randint(0, height - h)
                return left, top, left + w, top + h
        w = min(width, max(1, round(height * self.RATIO[1])))
        h = min(height, max(1, round(width / self.RATIO[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
