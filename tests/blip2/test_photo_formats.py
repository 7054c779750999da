"""Which formats are read, and what is said of files in others."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from blip2.photo_formats import format_of
from blip2.processing import FORMATS, SUFFIXES, PhotoError, open_photo
from tests.helpers.photos import (
    BLUE,
    GREEN,
    HEIGHT,
    RED,
    WHITE,
    WIDTH,
    WITHIN,
    assert_colours,
    deep_heic,
    encoded,
    heic,
    quarters,
)

SAVE, EXPORT = "save it as JPEG or PNG first", "export it as JPEG first"
STILL = "take a still picture from it"


@pytest.mark.parametrize(
    ("data", "what", "advice"),
    [
        (b"\xff\x0a\xfa\x7f\x01", "a JPEG XL picture", SAVE),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", SAVE),
        (encoded(quarters(), "JPEG2000"), "a JPEG 2000 picture", SAVE),
        (b"8BPS\0\1", "a Photoshop picture", SAVE),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's RAW file", EXPORT),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's RAW file", EXPORT),
        (b"FUJIFILMCCD-RAW 0201", "a camera's RAW file", EXPORT),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video", STILL),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video", STILL),
        (b"\x1aE\xdf\xa3", "a video", STILL),
        (b"RIFF\1\2\3\4AVI LIST", "a video", STILL),
        (b"%PDF-1.7\n", "a PDF", "save its page as JPEG or PNG first"),
        (b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg width="9"></svg>', "an SVG drawing", SAVE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", SAVE),
        (b"\n<!DOCTYPE html>\n<html></html>", "a web page", "download the photo itself"),
        (b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    ],
)
def test_what_a_file_is_that_is_not_read(data: bytes, what: str, advice: str) -> None:
    with pytest.raises(PhotoError) as error:
        open_photo(data + bytes(60))
    assert str(error.value) == f"The given photo is {what}; {advice}."


@pytest.mark.parametrize("data", [encoded(quarters(), "ICO"), encoded(quarters(), "PPM"), b"hello"])
def test_other_files_are_told_which_formats_are_read(data: bytes, tmp_path: Path) -> None:
    sentence = (
        "is not in a format that is read here; use JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF."
    )
    with pytest.raises(PhotoError) as error:
        open_photo(data)
    assert str(error.value) == f"The given photo {sentence}"
    (tmp_path / "notes.jpg").write_bytes(data)
    with pytest.raises(PhotoError) as error:
        open_photo(tmp_path / "notes.jpg")
    assert str(error.value) == f"The file {tmp_path}/notes.jpg {sentence}"


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(PhotoError, match=r"empty\.png is empty; choose another photo\.$"):
        open_photo(path)
    with pytest.raises(PhotoError, match=r"^The given photo is empty"):
        open_photo(b"")


def test_a_raw_file_that_is_a_tiff_is_not_taken_for_its_preview() -> None:
    """DNG by its version; others by a first picture that is a smaller copy of an inner one."""
    dng = TiffImagePlugin.ImageFileDirectory_v2()
    dng[50706] = b"\1\4\0\0"
    preview = TiffImagePlugin.ImageFileDirectory_v2()
    preview[254], preview[330] = 1, 8
    for tags in (dng, preview):
        with pytest.raises(PhotoError, match=r"is a camera's RAW file; export it as JPEG first\.$"):
            open_photo(encoded(quarters(), "TIFF", tiffinfo=tags))


def test_a_tiff_of_an_unknown_kind_is_not_called_damaged_alone() -> None:
    data = bytearray(encoded(quarters(), "TIFF"))
    compression = data.index(struct.pack("<HHI", 259, 3, 1))
    data[compression + 8 : compression + 10] = struct.pack("<H", 34713)  # Nikon's own
    with pytest.raises(PhotoError, match=r"is damaged, or a TIFF of a kind that is not read here"):
        open_photo(bytes(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_a_file_that_begins_as_a_photo_does_is_damaged(form: str) -> None:
    with pytest.raises(PhotoError, match="is damaged"):
        open_photo(encoded(quarters(), form)[:20])


def test_the_format_is_told() -> None:
    for form in FORMATS:
        data = encoded(quarters(), form)
        assert open_photo(data).info == {"format": form}
        assert format_of(data) == form
    assert open_photo(quarters()).info == {}
    two = encoded(quarters(), "MPO", save_all=True, append_images=[quarters()])
    assert format_of(two) == "MPO"


def test_suffixes() -> None:
    assert {".heic", ".heif", ".hif", ".avif", ".jpg", ".tiff", ".webp"} <= SUFFIXES
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


def test_heic_with_eight_bits_and_with_transparency() -> None:
    photo = open_photo(heic(quarters()))
    assert photo.size == (WIDTH, HEIGHT)
    assert_colours(photo, RED, GREEN, BLUE, WHITE, within=WITHIN["HEIF"])
    clear = quarters().convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, WIDTH // 2, HEIGHT // 2))
    assert_colours(open_photo(heic(clear)), WHITE, GREEN, BLUE, WHITE, within=WITHIN["HEIF"])
    grey = Image.new("L", (WIDTH, HEIGHT), 90)
    assert_colours(open_photo(heic(grey, chroma=None)), *[(90, 90, 90)] * 4, within=2)


def test_heic_with_ten_bits() -> None:
    pixels = np.asarray(quarters()).astype(np.uint16) * 257
    data = deep_heic(pixels)
    assert_colours(open_photo(data), RED, GREEN, BLUE, WHITE, within=WITHIN["HEIF"])
    ramp = np.linspace(0, 65535, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint16)
    shown = np.asarray(open_photo(deep_heic(ramp)), dtype=float)
    assert np.abs(shown - ramp / 257).mean() < 3


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_of_several_heic_images_the_primary_is_read(primary: int) -> None:
    images = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    photo = open_photo(heic(*images, primary=primary))
    assert_colours(photo, *[(RED, GREEN, BLUE)[primary]] * 4, within=WITHIN["HEIF"])


def test_a_heic_of_tiles_as_telephones_write_it() -> None:
    image = quarters().resize((1200, 800), Image.Resampling.NEAREST)
    data = heic(image, tile_size=512, chroma=420)
    assert b"grid" in data
    photo = open_photo(data)
    assert photo.size == (1200, 800)
    assert_colours(photo, RED, GREEN, BLUE, WHITE, within=WITHIN["HEIF"])


def test_brands_that_heic_and_avif_share() -> None:
    """The first decoder that is asked must not be the last."""
    for form, brand in (("HEIF", b"heic"), ("AVIF", b"avif")):
        data = encoded(quarters(), form).replace(b"ftyp" + brand, b"ftypmif1", 1)
        assert open_photo(data).info["format"] == form
        assert_colours(open_photo(data), RED, GREEN, BLUE, WHITE, within=60)


def test_of_an_avif_sequence_the_first_frame_is_read() -> None:
    rest = [Image.new("RGB", (WIDTH, HEIGHT), BLUE)] * 2
    data = encoded(quarters(), "AVIF", save_all=True, append_images=rest, quality=95)
    assert data[8:12] == b"avis" and Image.open(io.BytesIO(data)).n_frames == 3
    assert_colours(open_photo(data), RED, GREEN, BLUE, WHITE, within=60)
