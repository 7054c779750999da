"""Photos and words on their way into the model: opened safely, then turned into tensors."""

import io
import math
import random
import struct
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from blip2.errors import UserError

if TYPE_CHECKING:
    import torch

# The allow-list given to Pillow; MPO, the JPEG of two-lens cameras, comes with JPEG.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000  # checked before decoding; decoded, such a photo takes 300 MB
MAX_TEXT_CHARS = 2000
BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol that show nothing

_READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# What Pillow's decoders raise on damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, struct.error)
_UPRIGHT = {  # by the value of the EXIF tag Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(UserError):
    """A photo that cannot be used, and why."""


def open_photo(source: str | Path | bytes | BinaryIO | Image.Image, enough: int = 0) -> Image.Image:
    """Open a photo from anywhere as an upright, 8-bit RGB picture.

    The size is checked from the header, before any pixel is decoded. Of an animation the first
    frame is taken, transparency is laid on white, 16-bit and float pictures are scaled to 8 bits.

    Parameters
    ----------
    source : str, Path, bytes, binary file or PIL image
        Where the photo is. A binary file is read from where it stands to its end; the pixels of a
        PIL image are not changed.
    enough : int
        A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides have so many
        pixels, which takes a fraction of the time; 0 for the whole.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", fully decoded, independent of the source. Where it was decoded at less than its
        size, ``info["full_size"]`` is the width and the height of the whole.

    Raises
    ------
    PhotoError
        If it is missing, not a picture of a known format, damaged, or too large.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "The given image")
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise PhotoError(f"The file {path} does not exist; check the path.") from None
        except IsADirectoryError:
            raise PhotoError(f"{path} is a folder; give a photo in it instead.") from None
        except OSError as error:
            raise PhotoError(
                f"The file {path} cannot be opened ({error.strerror}); check the path."
            ) from error
        with file:
            return _read(file, f"The file {path}", enough)
    data = source if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
    return _read(io.BytesIO(data), "The given photo", enough)


def clean_text(text: str, what: str, default: str | None = None) -> str:
    """Strip a text from a user and refuse what the model cannot use.

    Parameters
    ----------
    text : str
        What the user wrote.
    what : str
        How the text is called in an error, such as "question".
    default : str, optional
        Stands in for an empty text.

    Returns
    -------
    str
        The text without surrounding white space, 1 to `MAX_TEXT_CHARS` characters, or `default`.

    Raises
    ------
    UserError
        If the text is empty and there is no default, or if it is too long. A text is empty, too, if
        nothing of it can be seen, such as zero-width spaces.
    """
    # Half a surrogate pair, as a broken paste has it, is no text that a tokenizer takes.
    text = text.encode("utf-8", "replace").decode("utf-8").strip()
    if len(text) > MAX_TEXT_CHARS:
        raise UserError(
            f"The {what} has {len(text):,} characters; shorten it to at most {MAX_TEXT_CHARS:,}."
        )
    if any(_visible(character) for character in text):
        return text
    if default is None:
        raise UserError(f"The {what} is empty; write a few words.")
    return default


def _visible(character: str) -> bool:
    """Whether a character shows something by itself: a letter, number, sign or symbol."""
    return unicodedata.category(character)[0] in "LNPS" and character not in BLANK


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


def _read(file: BinaryIO, name: str, enough: int = 0) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own limit is higher and comes first
        raise PhotoError(
            f"{name} has more than the permitted {MAX_PIXELS:,} pixels; make it smaller first."
        ) from None
    except UnidentifiedImageError:
        if file.seek(0) == 0 and not file.read(1):
            raise PhotoError(f"{name} is empty; choose another photo.") from None
        raise PhotoError(f"{name} is not a picture; use {_READABLE}.") from None
    except DAMAGE as error:
        raise PhotoError(f"{name} is damaged or incomplete; choose another photo.") from error
    with image:
        return _decode(image, name, enough)


def _decode(image: Image.Image, name: str, enough: int = 0) -> Image.Image:
    width, height = full = image.size
    if not width or not height:
        raise PhotoError(f"{name} has no pixels; choose another photo.")
    if width * height > MAX_PIXELS:
        raise PhotoError(
            f"{name} has {width:,} x {height:,} pixels, more than the permitted {MAX_PIXELS:,}; "
            "make it smaller first."
        )
    try:
        if enough:
            image.draft(None, (enough, enough))  # does nothing but to a JPEG
        image.load()
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise PhotoError(f"{name} is damaged or incomplete; choose another photo.") from error
    try:
        picture = _to_rgb(image)
    except ValueError as error:  # such as Lab, which Pillow reads but does not convert
        raise PhotoError(f"{name} has unusual colours ({image.mode}); save it as JPEG.") from error
    orientation = _orientation(image)
    turn = _UPRIGHT.get(orientation)
    upright = picture if turn is None else picture.transpose(turn)
    upright.info.pop("full_size", None)  # a PNG may have a text of this name
    if image.size != full:
        upright.info["full_size"] = full[::-1] if orientation in (5, 6, 7, 8) else full
    return upright


def _orientation(image: Image.Image) -> int:
    """Read how the camera was held; a photo with damaged metadata counts as upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(_to_8bit(np.asarray(image), image.mode))
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")  # a copy, also where it is RGB already


def _to_8bit(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Scale by the range of the format; where that is open, by the brightest pixel's range."""
    pixels = np.nan_to_num(pixels.astype(np.float32), posinf=0.0)  # [H, W]
    brightest = float(pixels.max())
    ranges = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    full = next((limit for limit in ranges if brightest <= limit), brightest)
    return np.clip(pixels * (255.0 / full), 0, 255).round().astype(np.uint8)
