"""Photos and words of users on their way into the model, opened safely or refused."""

import io
import os
import unicodedata
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from blip2.colour_profiles import to_srgb
from blip2.errors import PhotoError, UserError
from blip2.orientation import orientation_of, turn_upright
from blip2.photo_formats import (
    DAMAGE,
    FORMATS,
    SUFFIXES,
    DamagedPhoto,
    damaged,
    open_image,
)
from blip2.photo_repair import END_MISSING, MOST_MISSING, missing_share, repaired_copies
from blip2.photo_sources import opened

if TYPE_CHECKING:
    import torch

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_TEXT_CHARS",
    "READING_VERSION",
    "SUFFIXES",
    "PhotoError",
    "clean_text",
    "draft_scale",
    "open_photo",
]

# Of how photos become pixels: raise it with every change after which a photo may look otherwise
# to a model, and tell in `blip2.reading_version` which photos those are. An index embeds them anew.
READING_VERSION: int = 2

MAX_PIXELS = 100_000_000  # decoded at once; such a photo takes 400 MB
MAX_REDUCED_PIXELS = 50_000_000  # what a larger JPEG is decoded at: with a copy 400 MB
MAX_TEXT_CHARS = 2000
BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol that show nothing


def open_photo(
    source: "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor",
    enough: int = 0,
    max_pixels: int | None = None,
) -> Image.Image:
    """Open a photo from anywhere as an upright, 8-bit RGB picture in the colours of sRGB.

    The size is checked from the header, before any pixel is decoded. Of an animation the first
    frame is taken, of a HEIC file the primary image. An embedded colour profile is converted from,
    transparency is laid on white, 16-bit, 32-bit and float pictures are scaled to 8 bits. Opening
    an opened photo again changes nothing.

    Parameters
    ----------
    source : str, path, bytes, binary file, PIL image, np.ndarray or torch.Tensor
        Where the photo is: a path, a ``data:`` URL, the content of a file, a binary file, which is
        read from where it stands to its end, a PIL image, whose pixels are not changed, an array
        ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``, or a tensor ``[3, H, W]``, both uint8 or floats
        from 0 to 1. Nothing is fetched from an address.
    enough : int
        A JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size whose shorter side
        still has so many pixels, which takes a fraction of the time; 0 for the whole. Where a
        profile is converted from, other formats are scaled down likewise.
    max_pixels : int, optional
        Refuse a photo of more pixels even where it can be decoded at less than its size.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", fully decoded, independent of the source and without its metadata. ``info`` has
        ``"format"``, Pillow's name of the file's format, where it was a file; ``"full_size"``, the
        width and the height of the whole, where it was decoded at less; and ``"notes"``, a tuple of
        sentences about what is damaged, where it was read nevertheless.

    Raises
    ------
    PhotoError
        If it is missing, nothing that holds a photo, in another format, too damaged, or too large:
        `MAX_PIXELS`, which JPEGs that are not progressive may exceed, as they can be decoded at
        less than their size.
    """
    with opened(source) as (content, name):
        if isinstance(content, Image.Image):
            return _copy(content, name)
        try:
            image, notes = _load(content, name, enough, max_pixels), ()
        except DamagedPhoto as damage:
            image, notes = _load_repaired(content, name, enough, max_pixels, damage)
        return _finish(image, content, name, enough, notes)


def draft_scale(size: tuple[int, int], enough: int) -> int:
    """Return by what a JPEG's sides may be divided while decoding: 1, 2, 4 or 8.

    Parameters
    ----------
    size : tuple of 2 int
        Width and height of the whole, in pixels.
    enough : int
        As for `open_photo`.
    """
    shorter, pixels = min(size), size[0] * size[1]
    scale = next((s for s in (8, 4, 2) if enough and shorter // s >= enough), 1)
    while pixels > MAX_PIXELS and pixels > MAX_REDUCED_PIXELS * scale**2 and scale < 8:
        scale *= 2
    return scale


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


def _load(file: BinaryIO, name: str, enough: int, max_pixels: int | None) -> ImageFile.ImageFile:
    """Open and decode a file; ``info["full_size"]`` is its size, with what the header says."""
    image = open_image(file, name)
    size = image.size
    # Only these need no memory for the whole: a progressive JPEG is kept in full while it decodes.
    reducible = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    _check_size(size, name, max_pixels if reducible else MAX_PIXELS)
    try:
        scale = draft_scale(size, enough) if image.format in ("JPEG", "MPO") else 1
        if scale > 1:
            image.draft(None, (size[0] // scale, size[1] // scale))
        if image.format == "TIFF":
            # Before Pillow does, which would warn of a size that is checked above.
            image.im = Image.core.new(image.mode, (image.tag_v2[256], image.tag_v2[257]))
        image.load()
    except DAMAGE as error:
        Image.Image.close(image)  # its pixels, not the file, which may be repaired
        raise damaged(name) from error
    image.info["full_size"] = size if scale > 1 else image.size  # HEIF may claim another size
    return image


def _load_repaired(
    file: BinaryIO, name: str, enough: int, max_pixels: int | None, damage: DamagedPhoto
) -> tuple[ImageFile.ImageFile, tuple[str, ...]]:
    """Decode what can be seen of a damaged photo, or raise the damage again."""
    file.seek(0)
    for data, note in repaired_copies(file.read()):
        try:
            image = _load(io.BytesIO(data), name, enough, max_pixels)
        except DamagedPhoto:
            continue
        if image.format not in ("JPEG", "MPO"):
            return image, (note,)
        missing = missing_share(image, data)
        if missing > MOST_MISSING:
            break
        if missing and note == END_MISSING:
            note = f"The last {max(1, round(100 * missing))} % of its rows are missing."
        return image, (note,)
    raise damage


def _finish(
    image: ImageFile.ImageFile, file: BinaryIO, name: str, enough: int, notes: tuple[str, ...]
) -> Image.Image:
    """Turn what was decoded into the picture that `open_photo` returns."""
    size, form = image.info["full_size"], image.format
    orientation = orientation_of(image, file)
    picture = _to_rgb(image, name, enough)
    factor = draft_scale(size, enough) if image.size != size else 1
    if picture.size != image.size:
        factor *= _shrink(image, enough)
    image.close()  # turning a large picture needs the room
    if enough:
        picture = _without_part_of_a_pixel(picture, size, factor)
    info = {"format": form}
    if picture.size != size:
        info["full_size"] = size[::-1] if orientation >= 5 else size
    if notes:
        info["notes"] = notes
    picture.info = info
    turn_upright(picture, orientation)
    return picture


def _without_part_of_a_pixel(
    picture: Image.Image, size: tuple[int, int], factor: int
) -> Image.Image:
    """Let a scaled down picture end where the whole does.

    Its last column and row stand for `factor` of the whole's, also where fewer were left. That
    moves embeddings by up to a percent.
    """
    box = (0, 0, size[0] / factor, size[1] / factor)
    if box[2:] == picture.size:
        return picture
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


def _copy(image: Image.Image, name: str) -> Image.Image:
    """Open what the caller opened already, leaving it as it is."""
    _check_size(image.size, name, MAX_PIXELS)
    try:
        image.load()
    except DAMAGE as error:
        raise damaged(name) from error
    orientation = orientation_of(image)
    picture = _to_rgb(image, name)
    picture.info = {}
    turn_upright(picture, orientation)
    return picture


def _check_size(size: tuple[int, int], name: str, most: int | None) -> None:
    width, height = size
    if not width or not height:
        raise PhotoError(f"{name} has no pixels; choose another photo.")
    if most is not None and width * height > most:
        raise PhotoError(
            f"{name} has {width:,} x {height:,} pixels, more than the permitted {most:,}; "
            "make it smaller first."
        )


def _to_rgb(image: Image.Image, name: str, enough: int = 0) -> Image.Image:
    """Return a copy in mode "RGB" and the colours of sRGB."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        profile = image.info.get("icc_profile")
        image = Image.fromarray(_to_8bit(np.asarray(image), image.mode))
        image.info["icc_profile"] = profile
    try:
        picture = to_srgb(image, _shrink(image, enough))
        if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        if picture is image or picture.mode != "RGB":
            picture = picture.convert("RGB")  # a copy, also where it is RGB already
        return picture
    except ValueError as error:  # such as Lab, which Pillow reads but does not convert
        raise PhotoError(f"{name} has unusual colours ({image.mode}); save it as JPEG.") from error


def _shrink(image: Image.Image, enough: int) -> int:
    """Return by what to scale down a picture before its profile is converted from."""
    return max(1, min(image.size) // enough) if enough else 1


def _to_8bit(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Scale by the range of the format; where that is open, by the brightest pixel's range."""
    pixels = np.nan_to_num(pixels.astype(np.float32), posinf=0.0)  # [H, W]
    brightest = float(pixels.max())
    ranges = (1.0, 255.0, 65535.0) if mode in ("I", "F") else (65535.0,)
    full = next((limit for limit in ranges if brightest <= limit), brightest)
    return np.clip(pixels * (255.0 / full), 0, 255).round().astype(np.uint8)
