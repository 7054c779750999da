"""A retriever that sees colours: stands in for `blip2.Blip2Retriever`, the neighbour of `index`.

A photo's four embeddings are the mean colours of its quarters; a text is the name of a colour. So a
photo with one red quarter is as similar to "red" as an all red one, while `match` looks at the
whole photo and tells them apart.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blip2.processing import open_photo
from blip2.read_text import ReadText, UnreadableTextError

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
}


class FakeRetriever:
    num_queries = 4
    photo_side = 2
    temperature = 0.5

    def __init__(self, name: str = "colours", fingerprint: str = "c0ffee", dim: int = 8) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.dim = dim
        self.embedded = 0  # photos that went through embed_pixels
        self.matched: list[Path] = []

    def preprocess(self, photo) -> torch.Tensor:
        image = open_photo(photo).resize((2, 2), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[1:] == (3, 2, 2)
        self.embedded += len(pixels)
        return self._unit(pixels.flatten(2).transpose(1, 2))

    def embed_images(self, photos: list) -> torch.Tensor:
        return self.embed_pixels(torch.stack([self.preprocess(photo) for photo in photos]))

    def read_text(self, text: str) -> ReadText:
        """Every word is known that is of ASCII letters and digits."""
        words = text.split()
        unknown = tuple(word for word in words if not (word.isascii() and word.isalnum()))
        if len(unknown) == len(words):
            raise UnreadableTextError(f"{self.name} knows no word of this; it reads English.")
        return ReadText(text, len(words), len(words), len(words) - len(unknown), unknown)

    def embed_texts(self, texts: list[str], batch_size: int = 64) -> torch.Tensor:
        return self._unit(torch.tensor([colour_of(text) for text in texts]) / 255)

    def match(self, photos: list, texts: list[str], batch_size: int = 32) -> torch.Tensor:
        self.matched += photos
        means = torch.stack([self.preprocess(photo).mean((1, 2)) for photo in photos])
        wanted = torch.tensor([colour_of(text) for text in texts]) / 255
        return 1 - (means - wanted).abs().mean(1)

    def _unit(self, colours: torch.Tensor) -> torch.Tensor:
        vectors = torch.zeros(*colours.shape[:-1], self.dim)
        vectors[..., :3] = colours
        vectors[..., 3] = 0.25  # black, too, has a direction
        return torch.nn.functional.normalize(vectors, dim=-1)


def colour_of(text: str) -> tuple[int, int, int]:
    """The colour that a text names, whatever else is in it."""
    return next(COLOURS[word] for word in text.split() if word in COLOURS)


def paint(path: Path, *quarters: str, size: int = 16) -> Path:
    """Write a photo of one colour, or of four: upper left, upper right, lower left, lower right."""
    quarters = quarters * 4 if len(quarters) == 1 else quarters
    image = Image.new("RGB", (size, size))
    half = size // 2
    for quarter, corner in zip(quarters, [(0, 0), (half, 0), (0, half), (half, half)], strict=True):
        image.paste(COLOURS[quarter], (*corner, corner[0] + half, corner[1] + half))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path
