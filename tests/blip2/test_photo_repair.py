"""Photos that are damaged but viewable, and those of which too much is gone."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from blip2.photo_repair import METADATA_LEFT_OUT
from blip2.processing import PhotoError, open_photo
from tests.helpers.photos import (
    BLUE,
    GREEN,
    RED,
    TURNED,
    WHITE,
    assert_colours,
    encoded,
    exif_of,
    quarters,
)

END = ("Its end is missing.",)


def scene(width: int = 640, height: int = 480) -> Image.Image:
    """Return a picture that has something in each row, down to the last."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def rows_that_differ(photo: Image.Image, whole: Image.Image) -> int:
    difference = np.abs(np.asarray(photo, dtype=int) - np.asarray(whole, dtype=int))
    return int((difference.max(axis=(1, 2)) > 0).sum())


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_marker(mode: str, lost: int, tmp_path: Path) -> None:
    data = encoded(scene().convert(mode), "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[:-lost])
    for source in (path, data[:-lost]):
        photo = open_photo(source)
        assert photo.tobytes() == open_photo(data).tobytes()
        assert photo.info == {"format": "JPEG", "notes": END}
    assert "notes" not in open_photo(data).info


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("enough", [0, 100])
def test_a_jpeg_without_its_last_rows(mode: str, enough: int) -> None:
    image = scene(1280, 960)
    data = encoded(image.convert(mode), "JPEG", exif=exif_of(6))
    photo, whole = open_photo(data[: int(len(data) * 0.94)], enough), open_photo(data, enough)
    assert photo.size == whole.size == ((960, 1280) if not enough else (120, 160))
    assert photo.info.get("full_size", photo.size) == (960, 1280)
    # It lies on its side, so the last rows are columns by now.
    missing = rows_that_differ(photo.rotate(90, expand=True), whole.rotate(90, expand=True))
    share = 100 * missing / photo.width
    (note,) = photo.info["notes"]
    told = int(note.removeprefix("The last ").removesuffix(" % of its rows are missing."))
    assert 1 <= told <= 10 and abs(share - told) <= 2


@pytest.mark.parametrize(
    ("kept", "progressive"), [(0.3, False), (0.6, False), (0.85, False), (0.1, True), (0.3, True)]
)
def test_a_jpeg_that_lacks_more_than_a_tenth(kept: float, progressive: bool) -> None:
    """Of a progressive one, the second half holds the finest detail alone."""
    data = encoded(scene(), "JPEG", progressive=progressive)
    with pytest.raises(PhotoError, match="is damaged or incomplete; choose another photo"):
        open_photo(data[: int(len(data) * kept)])


def test_a_progressive_jpeg_that_lacks_its_finest_detail() -> None:
    data = encoded(scene(), "JPEG", progressive=True, quality=95)
    photo, whole = open_photo(data[: int(len(data) * 0.9)]), open_photo(data)
    assert photo.info["notes"] == END
    assert np.abs(np.asarray(photo, dtype=int) - np.asarray(whole, dtype=int)).mean() < 3


def test_a_jpeg_filled_up_with_zeros() -> None:
    """As a download leaves it that made room for the whole file and broke off."""
    data = encoded(scene(), "JPEG")
    kept = int(len(data) * 0.95)
    photo = open_photo(data[:kept] + bytes(len(data) - kept))
    assert photo.info["notes"][0].startswith("The last ")
    with pytest.raises(PhotoError, match="is damaged or incomplete"):
        open_photo(data[: len(data) // 2] + bytes(len(data) // 2))


def test_a_jpeg_with_broken_metadata() -> None:
    """A piece of a profile that is too short for its head; the colours of CMYK stay."""
    for mode in ("RGB", "CMYK"):
        data = encoded(quarters().convert(mode), "JPEG", quality=95, subsampling=0)
        broken = b"\xff\xe2" + struct.pack(">H", 14) + b"ICC_PROFILE\0"
        photo = open_photo(data[:2] + broken + data[2:])
        assert_colours(photo, RED, GREEN, BLUE, WHITE, within=8)
        assert photo.info["notes"] == (METADATA_LEFT_OUT,)


def chunk(kind: bytes, data: bytes, wrong: bool = False) -> bytes:
    check = zlib.crc32(kind + data) ^ wrong
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


BAD_CHUNKS = {
    "3 MB of text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))),
    "much international text": chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
    "a large profile": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000))),
    "a checksum": chunk(b"tEXt", b"Comment\0at home", wrong=True),
    "a profile's checksum": chunk(b"iCCP", b"a\0\0" + zlib.compress(b"profile"), wrong=True),
    "a short chunk": chunk(b"pHYs", b"\0\0"),
    "an animation's head": chunk(b"acTL", b"\0"),
}


@pytest.mark.parametrize("what", BAD_CHUNKS)
@pytest.mark.parametrize("late", [False, True])
def test_a_png_with_a_bad_chunk_that_it_can_do_without(what: str, late: bool) -> None:
    clear = quarters().quantize(4)
    data = encoded(clear, "PNG", transparency=clear.getpixel((4, 4)), exif=exif_of(6))
    at = data.index(b"IEND") - 4 if late else 33  # before the pixels, right behind the header
    photo = open_photo(data[:at] + BAD_CHUNKS[what] + data[at:])
    turned = [WHITE if colour == RED else colour for colour in TURNED[6]]
    assert_colours(photo, *turned)  # transparency and orientation, such chunks too, are kept
    if not late:
        assert photo.info == {"format": "PNG", "notes": (METADATA_LEFT_OUT,)}


def test_a_png_whose_pixels_are_cut_stays_damaged() -> None:
    data = encoded(scene(), "PNG")
    bad = data[:33] + BAD_CHUNKS["a checksum"] + data[33:]
    for cut in (data[: len(data) // 2], bad[: len(bad) // 2], data[:33] + data[-12:]):
        with pytest.raises(PhotoError, match="is damaged or incomplete; choose another photo"):
            open_photo(cut)


def test_no_switch_of_pillow_is_set() -> None:
    open_photo(encoded(scene(), "JPEG")[:-2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert PngImagePlugin.MAX_TEXT_CHUNK == ImageFile.SAFEBLOCK
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3
