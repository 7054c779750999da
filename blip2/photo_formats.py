"""The formats that photos are read in, how a file is recognised, and what is said of others."""

import io
import re
import struct
from typing import BinaryIO

from pi_heif import HeifImageFile
from PIL import (  # noqa: F401  (each adds its format to `Image.OPEN`)
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from blip2.errors import PhotoError

# MPO, the JPEG of two-lens cameras, comes with JPEG; HEIC is HEIF.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_HEIF = (".heic", ".heif", ".hif")
SUFFIXES = frozenset(
    (*_JPEG, ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".avifs", *_HEIF)
)
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF"
# What the decoders raise on damaged files.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError),
    *(struct.error, OverflowError, Image.DecompressionBombError),
)

_HEIF_BRANDS = b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()
_VIDEO = re.compile(rb"....(moov|mdat|wide|ftyp(qt|iso|mp4|avc|M4|3g|MSNV|dash|f4v|XAVC))", re.S)
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAVE = "save it as JPEG or PNG first"
# What else people take for photos: the beginning of the file, what it is, and what to do.
_OTHERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(start, re.S | re.I), what, advice)
    for start, what, advice in (
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture", _SAVE),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", _SAVE),
        (rb"8BPS", "a Photoshop picture", _SAVE),
        (
            rb"(II\*\0|MM\0\*)....CR|....ftypcrx |IIU\0|IIR[OS]|MMOR|FUJIFILM|FOVb|\0MRM",
            "a camera's RAW file",
            "export it as JPEG first",
        ),
        (_VIDEO.pattern, "a video", "take a still picture from it"),
        (rb"RIFF....AVI |\x1aE\xdf\xa3", "a video", "take a still picture from it"),
        (rb"%PDF-", "a PDF", "save its page as JPEG or PNG first"),
        (rb"(\xef\xbb\xbf)?\s*(<\?xml.*)?(<!--.*)?<svg", "an SVG drawing", _SAVE),
        (rb"(\xef\xbb\xbf)?\s*<(!doctype )?html", "a web page", "download the photo itself"),
        (rb"PK\x03\x04", "a ZIP archive", "unpack it first"),
    )
)


class DamagedPhoto(PhotoError):
    """A photo in a format that is read, whose bytes cannot be decoded."""


def damaged(name: str) -> DamagedPhoto:
    """Return the error for a photo of this name that cannot be decoded."""
    return DamagedPhoto(f"{name} is damaged or incomplete; choose another photo.")


def open_image(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Open a file in one of `FORMATS` without decoding it.

    This does what `Image.open` does, but leaves the check of the size to the caller: Pillow's own
    warns or fails at sizes that a JPEG of can be decoded at less than.

    Parameters
    ----------
    file : binary file
        Seekable; read from its beginning.
    name : str
        How the photo is called in an error.

    Returns
    -------
    PIL.ImageFile.ImageFile

    Raises
    ------
    DamagedPhoto
        If it begins as a file of these formats does, but cannot be opened.
    PhotoError
        If it is empty or in another format.
    """
    file.seek(0)
    head = file.read(16)
    openers = [opener for opener, accepts in _OPENERS if accepts(head) is True]
    if not openers or _named(head):
        file.seek(0)
        raise PhotoError(f"{name} {_what(file.read(2048))}.")
    cause: Exception | None = None
    for opener in openers:  # AVIF and HEIF may begin alike
        file.seek(0)
        try:
            image = opener(file, "")
        except DAMAGE as error:
            cause = error
        else:
            if image.format == "TIFF" and _is_raw(image):
                raise PhotoError(f"{name} is a camera's RAW file; export it as JPEG first.")
            return image
    if head.startswith(_TIFF_HEADS):
        raise DamagedPhoto(
            f"{name} is damaged, or a TIFF of a kind that is not read here, as camera RAW files "
            "are; save it as JPEG first."
        ) from cause
    raise damaged(name) from cause


def format_of(data: bytes) -> str:
    """Return Pillow's name of a photo's format, such as "JPEG" or "MPO"; errors as `open_image`."""
    with open_image(io.BytesIO(data), "The given photo") as image:
        return image.format


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


# Not registered with Pillow: what else runs in this process may have a plug-in of its own.
_OPENERS = [Image.OPEN[form] if form != "HEIF" else (HeifImageFile, _is_heif) for form in FORMATS]


def _named(head: bytes) -> str | None:
    """Say what a file in none of `FORMATS` is and what to do; None where that is not known."""
    for start, what, advice in _OTHERS:
        if start.match(head):
            return f"is {what}; {advice}"
    return None


def _what(head: bytes) -> str:
    if not head:
        return "is empty; choose another photo"
    return _named(head) or f"is not in a format that is read here; use {READABLE}"


def _is_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Tell a camera's RAW file, whose first picture is a small preview, from a TIFF."""
    dng_version, kind, inner = 50706, 254, 330
    tags = image.tag_v2
    return dng_version in tags or (tags.get(kind, 0) == 1 and inner in tags)
