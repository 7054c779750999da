"""Which photos of an old index must be embedded anew, checked against reading them both ways."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from blip2.processing import READING_VERSION, PhotoError, open_photo
from blip2.reading_version import reading_differs
from tests.helpers import icc
from tests.helpers.photos import EXACT, encoded, exif_of, oriented, quarters, xmp_of
from tests.helpers.reading_v1 import embedded_pixels_v1

SIDE = 32  # of the image encoder
OLD, NEW = 2 * SIDE, SIDE


def embedded_pixels(data: bytes) -> np.ndarray:
    photo = open_photo(open_photo(data, NEW))
    return np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def pattern(width: int, height: int) -> Image.Image:
    """Return a picture of which no turn and no scale looks the same."""
    rng = np.random.default_rng(2)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def late(data: bytes) -> bytes:
    """Move a PNG's EXIF or text behind its pixels."""
    start = next(data.index(kind) for kind in (b"eXIf", b"iTXt") if kind in data) - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    at = data.index(b"IEND") - 4
    return data[:start] + data[end:at] + data[start:end] + data[at:]


def cases() -> dict[str, tuple[bytes, bool]]:
    """Photos, each with whether it is read otherwise now."""
    small, large = quarters(), pattern(160, 120)
    found: dict[str, tuple[bytes, bool]] = {}
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        for turn in range(1, 9):
            differs = turn != 1 and form != "TIFF"  # which Pillow turned, once
            found[f"{form} held {turn}"] = oriented(small, form, turn), differs
        options = EXACT.get(form, {})
        found[f"{form} plain"] = encoded(small, form, **options), False
        found[f"{form} sRGB"] = encoded(small, form, icc_profile=icc.srgb(), **options), False
        found[f"{form} broken"] = encoded(small, form, icc_profile=b"none", **options), False
        coloured = {"icc_profile": icc.display_p3(), **options}
        found[f"{form} P3"] = encoded(pattern(48, 32), form, **coloured), True
    note = PngInfo()
    note.add_itxt("XML:com.adobe.xmp", xmp_of(6).decode())
    tagged = Image.Exif()
    tagged[274], tagged[700] = 1, xmp_of(6)
    inks = icc.cmyk_profile({inks: (60, 40, 0) for inks in np.ndindex(2, 2, 2, 2)})
    wide = Image.fromarray(np.asarray(small.convert("L")).astype(np.int32))
    grey = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    clear = small.convert("RGBA")
    clear.putalpha(99)
    return found | {
        "JPEG of XMP": (encoded(small, "JPEG", xmp=xmp_of(6)), True),
        "PNG of XMP": (encoded(small, "PNG", pnginfo=note), True),
        "PNG held 6, said at its end": (late(oriented(small, "PNG", 6)), True),
        "PNG of XMP at its end": (late(encoded(small, "PNG", pnginfo=note)), True),
        "TIFF whose tag and XMP disagree": (encoded(small, "TIFF", exif=tagged), True),
        "odd orientation": (encoded(small, "JPEG", exif=exif_of(9)), False),
        "32-bit TIFF": (encoded(wide, "TIFF"), True),
        "16-bit PNG": (encoded(grey, "PNG"), False),
        "16-bit PNG of linear greys": (
            encoded(grey, "PNG", icc_profile=icc.grey_profile(1.0)), True),
        "CMYK": (encoded(small.convert("CMYK"), "JPEG"), False),
        "CMYK of a press": (encoded(small.convert("CMYK"), "JPEG", icc_profile=inks), True),
        "RGBA": (encoded(clear, "PNG"), False),
        "palette": (encoded(small.quantize(4), "GIF"), False),
        "MPO": (encoded(small, "MPO", save_all=True, append_images=[small]), False),
        "a larger JPEG": (encoded(large, "JPEG"), True),  # 120 rows were whole, now half
        "a JPEG as large as needs be": (encoded(pattern(80, 60), "JPEG"), False),
        "a very large JPEG": (encoded(pattern(1600, 1200), "JPEG"), False),  # 1/8 both times
        "a very large JPEG of odd sides": (encoded(pattern(1601, 1203), "JPEG"), True),
        "a larger PNG": (encoded(large, "PNG"), False),
    }  # fmt: skip


CASES = cases()


@pytest.mark.parametrize("what", CASES)
def test_what_is_told_from_the_header_is_true(what: str, tmp_path: Path) -> None:
    data, differs = CASES[what]
    path = tmp_path / "photo"
    path.write_bytes(data)
    old, new = embedded_pixels_v1(io.BytesIO(data), OLD, SIDE), embedded_pixels(data)
    if what == "odd orientation":
        assert Image.open(io.BytesIO(data)).getexif()[274] == 9
    assert np.array_equal(old, new) == (not differs), "the case itself is wrong"
    for source in (path, str(path), data):
        assert reading_differs(source, OLD, NEW, since=1) == differs


def test_what_was_not_read_at_all_differs(tmp_path: Path) -> None:
    for form in ("HEIF", "AVIF"):
        assert reading_differs(encoded(quarters(), form), OLD, NEW, since=1)
    assert reading_differs(b"\xff\xd8\xff\xe0 and so on", OLD, NEW, since=1)
    assert reading_differs(b"hello", OLD, NEW, since=1)
    assert reading_differs(tmp_path / "gone.jpg", OLD, NEW, since=1)


def test_an_index_of_today_needs_nothing() -> None:
    turned = encoded(quarters(), "JPEG", exif=exif_of(6), icc_profile=icc.display_p3())
    for data in (turned, encoded(quarters(), "HEIF"), encoded(pattern(160, 120), "JPEG")):
        assert not reading_differs(data, NEW, NEW, since=READING_VERSION)
    # Unless it was made for another encoder.
    assert reading_differs(encoded(pattern(160, 120), "JPEG"), OLD, NEW, since=READING_VERSION)


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    """A whole library is asked about: photos whose pixels are missing are answered alike."""
    image = pattern(1600, 1200)
    for form, kept in (("JPEG", 5_000), ("PNG", 5_000), ("TIFF", 5_000_000)):
        data = encoded(image, form)
        assert len(data) > kept + 1000
        cut = data[:kept]
        with pytest.raises(PhotoError, match="damaged"):
            open_photo(cut)
        assert not reading_differs(cut, NEW, NEW, since=1)
    path = tmp_path / "large.png"
    image.resize((3000, 2000)).save(path, compress_level=0)
    reading_differs(path, OLD, NEW, since=1)
    start = time.perf_counter()
    for _ in range(20):
        reading_differs(path, OLD, NEW, since=1)
    assert (time.perf_counter() - start) / 20 < 0.02
