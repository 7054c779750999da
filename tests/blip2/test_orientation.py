"""Which way up a photo is read, however its file says so, and how often it is opened."""

import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from blip2.processing import open_photo
from tests.helpers.photos import (
    BLUE,
    EXACT,
    GREEN,
    HEIGHT,
    RED,
    TURNED,
    WHITE,
    WIDTH,
    WITHIN,
    assert_colours,
    encoded,
    exif_of,
    oriented,
    quarters,
    with_exif_orientation,
    written,
    xmp_of,
)

FORMS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF")
ORIENTATIONS = range(1, 9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_photo_is_turned_upright_once(form: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(oriented(quarters(), form, orientation))
    once = open_photo(path)
    assert once.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    assert_colours(once, *TURNED[orientation], within=WITHIN.get(form, 0))
    for again in (open_photo(once), open_photo(open_photo(once)), open_photo(once.copy())):
        assert np.array_equal(np.asarray(again), np.asarray(once))
    assert ExifTags.Base.Orientation not in once.getexif()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_image_that_the_caller_opened_is_turned_too(form: str) -> None:
    data = oriented(quarters(), form, 6)
    with Image.open(io.BytesIO(data)) as given:
        photo = open_photo(given)
    assert_colours(photo, *TURNED[6], within=WITHIN.get(form, 0))
    assert np.array_equal(np.asarray(open_photo(photo)), np.asarray(photo))


def test_an_orientation_that_is_set_in_memory() -> None:
    given = quarters()
    given.getexif()[ExifTags.Base.Orientation] = 6
    assert_colours(open_photo(given), *TURNED[6])
    assert given.size == (WIDTH, HEIGHT) and given.getexif()[ExifTags.Base.Orientation] == 6


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_an_orientation_in_xmp(form: str) -> None:
    options = dict(EXACT.get(form, {}))
    if form == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp_of(6).decode())
    elif form == "TIFF":
        options["tiffinfo"] = {700: xmp_of(6)}
    else:
        options["xmp"] = xmp_of(6)
    once = open_photo(encoded(quarters(), form, **options))
    assert_colours(once, *TURNED[6], within=WITHIN.get(form, 0))
    assert np.array_equal(np.asarray(open_photo(once)), np.asarray(once))


def test_exif_counts_more_than_xmp() -> None:
    """A TIFF's own tag says that it is upright; its XMP must not turn it at the second opening."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    exif[700] = xmp_of(6)
    once = open_photo(encoded(quarters(), "TIFF", exif=exif))
    assert_colours(open_photo(once), *TURNED[1])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_heif_boxes_decide_and_exif_counts_where_there_are_none(orientation: int) -> None:
    both = oriented(quarters(), "HEIF", orientation)
    assert (b"irot" in both or b"imir" in both) == (orientation != 1)
    boxes_alone = with_exif_orientation(both, orientation, 1)
    exif_alone = with_exif_orientation(oriented(quarters(), "HEIF", 1), 1, orientation)
    assert b"irot" not in exif_alone and b"imir" not in exif_alone
    for data in (both, boxes_alone, exif_alone):
        assert_colours(open_photo(data), *TURNED[orientation], within=WITHIN["HEIF"])
    # What EXIF says otherwise does not count.
    odd = with_exif_orientation(oriented(quarters(), "HEIF", 3), 3, 6)
    assert_colours(open_photo(odd), *TURNED[3], within=WITHIN["HEIF"])


def test_boxes_of_another_image_say_nothing_about_the_primary() -> None:
    file = pillow_heif.HeifFile()
    for image in (quarters(), Image.new("RGB", (64, 48), GREEN)):
        file.add_frombytes("RGB", image.size, image.tobytes())
    file[1].info["exif"] = exif_of(3)  # gives it a box of its own
    data = written(file, primary_index=0, exif=exif_of(1))
    assert b"irot" in data
    assert_colours(open_photo(data), *TURNED[1], within=WITHIN["HEIF"])
    exif_alone = with_exif_orientation(data, 1, 6)
    assert_colours(open_photo(exif_alone), *TURNED[6], within=WITHIN["HEIF"])


def test_damaged_exif_counts_as_upright() -> None:
    data = encoded(quarters(), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00")
    assert_colours(open_photo(data), RED, GREEN, BLUE, WHITE)
