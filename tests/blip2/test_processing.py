"""What `open_photo` makes of every kind of file, by the colours of its corners."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from blip2.errors import UserError
from blip2.processing import MAX_TEXT_CHARS, PhotoError, clean_text, open_photo
from tests.helpers.photos import (
    BLUE,
    GREEN,
    HEIGHT,
    RED,
    WHITE,
    WIDTH,
    assert_colours,
    encoded,
    quarters,
)


@pytest.mark.parametrize(
    ("form", "options", "within"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("MPO", {"quality": 95, "subsampling": 0, "save_all": True}, 6),
    ],
)
def test_every_format_keeps_its_colours(form: str, options: dict, within: int) -> None:
    photo = open_photo(encoded(quarters(), form, **options))
    assert photo.size == (WIDTH, HEIGHT)
    assert_colours(photo, RED, GREEN, BLUE, WHITE, within=within)


def test_every_kind_of_source_gives_the_same_photo(tmp_path: Path) -> None:
    data = encoded(quarters(), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        sources = [path, str(path), data, bytearray(data), io.BytesIO(data), file, quarters()]
        for source in sources:
            assert open_photo(source).tobytes() == quarters().tobytes()


def test_a_given_picture_is_copied() -> None:
    given = quarters()
    open_photo(given).paste(BLUE, (0, 0, WIDTH, HEIGHT))
    assert_colours(given, RED, GREEN, BLUE, WHITE)


def test_transparency_becomes_white() -> None:
    image = quarters().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (0, 0, WIDTH // 2, HEIGHT // 2))  # the red corner, now clear black
    image.paste((0, 0, 255, 128), (0, HEIGHT // 2, WIDTH // 2, HEIGHT))  # half-clear blue
    photo = open_photo(encoded(image, "PNG"))
    assert_colours(photo, WHITE, GREEN, (127, 127, 255), WHITE, within=1)


def test_grey_with_transparency() -> None:
    image = Image.new("LA", (WIDTH, HEIGHT), (100, 255))
    image.paste((0, 0), (0, 0, WIDTH // 2, HEIGHT // 2))
    grey = (100, 100, 100)
    assert_colours(open_photo(encoded(image, "PNG")), WHITE, grey, grey, grey)


def test_palette_with_and_without_transparency() -> None:
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert_colours(open_photo(encoded(palette, "PNG")), RED, GREEN, BLUE, WHITE)
    clear = encoded(palette, "PNG", transparency=palette.getpixel((4, 4)))
    assert_colours(open_photo(clear), WHITE, GREEN, BLUE, WHITE)


def test_black_and_white() -> None:
    image = Image.new("1", (WIDTH, HEIGHT), 1)
    image.paste(0, (0, 0, WIDTH // 2, HEIGHT // 2))
    assert_colours(open_photo(encoded(image, "PNG")), (0, 0, 0), WHITE, WHITE, WHITE)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str) -> None:
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    photo = open_photo(encoded(quarters().convert("CMYK"), form, **options))
    assert_colours(photo, RED, GREEN, BLUE, WHITE, within=8)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(form: str) -> None:
    pixels = np.full((HEIGHT, WIDTH), 65535, np.uint16)
    pixels[: HEIGHT // 2, : WIDTH // 2] = 0
    pixels[: HEIGHT // 2, WIDTH // 2 :] = 257 * 100
    pixels[HEIGHT // 2 :, : WIDTH // 2] = 257 * 200
    photo = open_photo(encoded(Image.fromarray(pixels), form))
    assert_colours(photo, (0, 0, 0), (100, 100, 100), (200, 200, 200), WHITE)


@pytest.mark.parametrize(
    ("side", "orientation", "expected"),
    [(100, 1, (300, 200)), (300, 1, (600, 400)), (300, 6, (400, 600)), (900, 1, (2400, 1600))],
)
def test_a_jpeg_decoded_at_less_than_its_size(side, orientation, expected) -> None:
    """Both sides have as many pixels as are enough; the size of the whole is told, upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(quarters().resize((2400, 1600)), "JPEG", quality=95, exif=exif)
    photo = open_photo(data, side)
    assert photo.size == expected
    whole = open_photo(data)
    assert whole.size == ((1600, 2400) if orientation == 6 else (2400, 1600))
    assert photo.info.get("full_size", photo.size) == whole.size
    assert "full_size" not in whole.info
    small = np.asarray(whole.resize(expected, Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(photo, dtype=float) - small).mean() < 3
    # Other formats are decoded as a whole.
    assert open_photo(encoded(quarters(), "PNG"), 4).size == (WIDTH, HEIGHT)


def test_odd_metadata_of_a_large_photo() -> None:
    """An orientation that is no number counts as upright; a text named as our note is not one."""
    entry = struct.pack("<HHI4s", ExifTags.Base.Orientation, 2, 2, b"6\0")  # of type ASCII
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    data = encoded(quarters().resize((2400, 1600)), "JPEG", exif=exif)
    assert open_photo(data, 300).info["full_size"] == (2400, 1600)
    note = PngImagePlugin.PngInfo()
    note.add_text("full_size", "hello")
    photo = open_photo(encoded(quarters(), "PNG", pnginfo=note), 300)
    assert "full_size" not in photo.info and photo.size == (WIDTH, HEIGHT)


def test_a_dark_sixteen_bit_photo_stays_dark() -> None:
    pixels = np.full((HEIGHT, WIDTH), 257 * 40, np.uint16)
    assert_colours(open_photo(encoded(Image.fromarray(pixels), "PNG")), *[(40, 40, 40)] * 4)


@pytest.mark.parametrize("brightest", [1, 255, 5000, 65535, 70_000])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_wide_pixels_are_scaled_by_their_range(brightest: int, kind: type) -> None:
    """Float and 32-bit whole numbers, of which no file says what white is."""
    pixels = np.full((HEIGHT, WIDTH), brightest, kind)
    pixels[: HEIGHT // 2, : WIDTH // 2] = np.nan if kind is np.float32 else -7
    light = round(255 * brightest / 65535) if brightest == 5000 else 255
    given = Image.fromarray(pixels)
    assert given.mode == ("F" if kind is np.float32 else "I")
    for source in (given, encoded(given, "TIFF")):
        assert_colours(open_photo(source), (0, 0, 0), *[(light, light, light)] * 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    rest = [Image.new("RGB", (WIDTH, HEIGHT), BLUE), Image.new("RGB", (WIDTH, HEIGHT), GREEN)]
    data = encoded(quarters(), form, save_all=True, append_images=rest, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert_colours(open_photo(data), RED, GREEN, BLUE, WHITE)


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(PhotoError, match=r"empty\.png is empty; choose another photo\.$"):
        open_photo(path)
    with pytest.raises(PhotoError, match=r"^The given photo is empty"):
        open_photo(b"")


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"gone\.jpg does not exist; check the path\.$"):
        open_photo(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="is a folder; give a photo in it instead"):
        open_photo(tmp_path)
    with pytest.raises(PhotoError, match="cannot be opened"):
        open_photo(tmp_path / ("x" * 300))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated(form: str) -> None:
    noise = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
    data = encoded(noise, form)
    with pytest.raises(PhotoError, match="is damaged or incomplete; choose another photo"):
        open_photo(data[: len(data) * 2 // 3])


@pytest.mark.filterwarnings("ignore")  # Pillow comments on each damage
def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = random.Random(0)
    noise = Image.effect_noise((24, 16), 90).convert("RGB")
    outcomes, messages = set(), set()
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(noise, form)
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 3, 9))):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            try:
                outcomes.add(open_photo(bytes(damaged)).mode)
            except PhotoError as error:
                messages.add(str(error))
    assert outcomes == {"RGB"}
    assert len(messages) >= 3
    assert all(message.startswith("The given photo ") for message in messages)


def test_clean_text() -> None:
    assert clean_text("  what is it?\n", "question") == "what is it?"
    assert clean_text(" \t", "instruction", default="") == ""
    assert clean_text("", "instruction", default="a photo of") == "a photo of"
    with pytest.raises(UserError, match=r"^The question is empty; write a few words\.$"):
        clean_text("  ", "question")
    assert clean_text("x" * MAX_TEXT_CHARS, "question") == "x" * 2000
    with pytest.raises(UserError, match=r"instruction has 10,000 characters.* at most 2,000\.$"):
        clean_text("x" * 10_000, "instruction", default="")


@pytest.mark.parametrize(
    "text",
    [
        "\u200b",  # zero-width space
        " \u200d\ufeff\u2060 ",  # joiners and a byte order mark
        "\u202e\u00ad",  # right-to-left override, soft hyphen
        "\ufe0f\u0301",  # a variation selector and an accent with nothing below
        "\x00\x1b",
        "\u3164\u2800",  # Hangul filler, a Braille pattern without dots
    ],
)
def test_a_text_that_shows_nothing_is_empty(text: str) -> None:
    with pytest.raises(UserError, match=r"^The question is empty; write a few words\.$"):
        clean_text(text, "question")
    assert clean_text(text, "instruction", default="a photo of") == "a photo of"


@pytest.mark.parametrize("text", ["狗", "🐶", "👨\u200d👩\u200d👧", "?", "5", "é", "→", "a\u200b"])
def test_whatever_shows_is_kept_as_it_is(text: str) -> None:
    assert clean_text(text, "question") == text
