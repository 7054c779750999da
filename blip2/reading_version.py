"""Which photos an older version read otherwise, told from their headers: an index asks."""

from typing import Any

from PIL import ExifTags, Image, ImageFile

from blip2.colour_profiles import conversion_of
from blip2.photo_formats import DAMAGE, open_image
from blip2.photo_repair import png_chunks
from blip2.photo_sources import opened
from blip2.processing import READING_VERSION, PhotoError, draft_scale

_LATE_KEYS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


def reading_differs(source: Any, old_enough: int, enough: int, since: int) -> bool:
    """Tell whether a photo becomes other pixels today than when it was put into an index.

    Only the header is read. Where it leaves that open, the answer is True.

    Parameters
    ----------
    source
        As `blip2.processing.open_photo` takes it, but no image or array.
    old_enough, enough : int
        What `open_photo` was called with then, and is called with now.
    since : int
        The `READING_VERSION` by which it was read.

    Returns
    -------
    bool
    """
    try:
        with opened(source) as (file, name):
            image = open_image(file, name)
            scale = 1
            if image.format in ("JPEG", "MPO"):
                scale = draft_scale(image.size, enough)
                if scale != draft_scale(image.size, old_enough):
                    return True
            if since >= READING_VERSION:
                return False
            if any(side % scale for side in image.size):
                return True  # the last column or row reached too far
            late = image.format == "PNG" and _has_late_metadata(file)
            return late or _differs_from_first(image)
    except PhotoError:
        return True


def _differs_from_first(image: ImageFile.ImageFile) -> bool:
    """Compare with version 1, which turned photos twice and knew no profiles."""
    # HEIF and AVIF were not read; mode "I" was taken for 16 bits whatever it held.
    if image.format in ("HEIF", "AVIF") or image.mode == "I":
        return True
    return conversion_of(image) is not None or _was_turned_twice(image)


def _was_turned_twice(image: ImageFile.ImageFile) -> bool:
    if image.format == "TIFF":  # Pillow turns these, and takes away their tag, but not XMP's
        return b"tiff:Orientation" in bytes(image.info.get("xmp") or b"")
    try:
        # Not the method of PNG, which decodes the photo to find what stands behind its pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return False
    return orientation in range(2, 9)


def _has_late_metadata(file: Any) -> bool:
    """Tell whether a PNG has, behind its pixels, what may turn it or change its colours."""
    pixels = False
    for kind, start, _ in png_chunks(file):
        pixels = pixels or kind == b"IDAT"
        if pixels and kind in (b"eXIf", b"iCCP"):
            return True
        if pixels and kind in (b"iTXt", b"tEXt", b"zTXt"):
            file.seek(start)
            if file.read(max(map(len, _LATE_KEYS))).startswith(_LATE_KEYS):
                return True
    return False
