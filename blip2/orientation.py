"""Which way up a photo is held, by EXIF's Orientation tag, XMP, or HEIF's own boxes."""

from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps

from blip2.heif_boxes import is_turned
from blip2.photo_formats import DAMAGE


def orientation_of(image: Image.Image, file: BinaryIO | None = None) -> int:
    """Read how a photo has yet to be turned.

    Parameters
    ----------
    image : PIL.Image.Image
        Loaded: a TIFF is turned by Pillow as it loads, and a PNG may have its tag at its end.
    file : binary file, optional
        What the image was opened from; needed for HEIF.

    Returns
    -------
    int
        1 to 8 as in EXIF's tag Orientation; 1 where the metadata is damaged.
    """
    if image.format == "HEIF":
        # The decoder has obeyed irot and imir; the tag repeats them, and counts without them.
        found = 1 if file is None or is_turned(file) else image.info.get("original_orientation")
    else:
        try:
            found = image.getexif().get(ExifTags.Base.Orientation)
        except DAMAGE:
            found = 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turn_upright(picture: Image.Image, orientation: int) -> None:
    """Turn a picture without metadata in place, as its orientation demands."""
    if orientation != 1:
        picture.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(picture, in_place=True)  # which also takes the tag away
