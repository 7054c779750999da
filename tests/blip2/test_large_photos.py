"""Photos of 100 million pixels and more: their size, their memory, and no warning of Pillow's."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip2.processing import MAX_PIXELS, PhotoError, draft_scale, open_photo
from tests.helpers.icc import display_p3
from tests.helpers.photos import encoded, exif_of, quarters, sized, striped_jpeg

MEASURE = """
import json, pathlib, sys
from blip2.processing import open_photo
photo = open_photo(sys.argv[1], int(sys.argv[2]))
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps({
    "size": photo.size, "whole": photo.info["full_size"], "torch": "torch" in sys.modules,
    "peak": int(status.split("VmHWM:")[1].split()[0]) / 1024,
    "left": photo.getpixel((0, 0)), "right": photo.getpixel((photo.width - 1, 5)),
}))
"""


@pytest.mark.parametrize(
    ("size", "enough", "orientation", "profile", "shown"),
    [
        ((12_000, 9_000), 0, 1, None, (6000, 4500)),  # 108 million pixels
        ((16_320, 12_240), 0, 1, None, (8160, 6120)),  # 200 million pixels
        ((16_320, 12_240), 0, 6, display_p3(), (6120, 8160)),
        ((16_320, 12_240), 388, 1, None, (2040, 1530)),
    ],
)
def test_a_telephones_largest_photos_in_600_mb(
    tmp_path: Path, size: tuple, enough: int, orientation: int, profile: bytes, shown: tuple
) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(striped_jpeg(*size, exif=exif_of(orientation), icc_profile=profile))
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE, str(path), str(enough)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert (tuple(found["size"]), found["torch"], run.stderr) == (shown, False, "")
    assert tuple(found["whole"]) == (size if orientation == 1 else size[::-1])
    print(f"{size}, enough {enough}: {found['peak']:.0f} MB")
    assert found["peak"] < 600
    right = found["right"] if orientation == 1 else found["left"]
    assert found["left"][0] < 9 and (right[0] > 240 or orientation == 6)


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_reduced_is_refused_by_its_size(tmp_path: Path) -> None:
    progressive = sized(encoded(quarters(), "JPEG", progressive=True), 12_000, 9_000)
    huge = sized(progressive, 60_000, 60_000)
    for data, size in (
        (progressive, "9,000 x 12,000"),
        (huge, "60,000 x 60,000"),  # more than Pillow permits
        (png_header(10_001, 10_000), "10,001 x 10,000"),
        (png_header(20_000, 20_000), "20,000 x 20,000"),
    ):
        with pytest.raises(PhotoError) as error:
            open_photo(data)
        assert str(error.value) == (
            f"The given photo has {size} pixels, more than the permitted 100,000,000; make it "
            "smaller first."
        )


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds no pixel at all."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, b"IDAT", b"IEND")
    )


@pytest.mark.filterwarnings("error")
def test_no_warning_below_the_limit() -> None:
    """Pillow's own limit lies at 89 million pixels."""
    assert MAX_PIXELS == 10_000 * 10_000
    with pytest.raises(PhotoError, match="is damaged or incomplete"):  # it has no pixels to decode
        open_photo(png_header(10_000, 10_000))
    assert open_photo(striped_jpeg(9_600, 9_600), 100).size == (1200, 1200)
    rows = Image.new("1", (9_600, 9_600), 1)
    for form, options in (("TIFF", {"compression": "group4"}), ("TIFF", {}), ("PNG", {})):
        photo = open_photo(encoded(rows, form, **options))
        assert photo.size == (9_600, 9_600) and photo.getpixel((0, 9_599)) == (255, 255, 255)


@pytest.mark.filterwarnings("error")
def test_a_limit_for_visitors_holds_for_every_format() -> None:
    data = striped_jpeg(12_000, 9_000)
    assert open_photo(data, 1024).info["full_size"] == (12_000, 9_000)
    with pytest.raises(PhotoError, match=r"has 12,000 x 9,000 pixels, more than the permitted 100"):
        open_photo(data, 1024, max_pixels=MAX_PIXELS)


def test_a_given_picture_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2.processing.MAX_PIXELS", 48 * 32 - 1)
    for given in (quarters(), np.asarray(quarters())):
        with pytest.raises(PhotoError, match=r"The given \w+ has 48 x 32 pixels"):
            open_photo(given)


@pytest.mark.parametrize(
    ("size", "enough", "scale"),
    [
        ((2048, 1536), 388, 2),
        ((1552, 2000), 388, 4),
        ((1551, 2000), 388, 2),
        ((4000, 3000), 388, 4),
        ((4000, 3104), 388, 8),
        ((9000, 800), 388, 2),
        ((640, 480), 388, 1),
        ((4000, 3000), 0, 1),
        ((10_000, 10_000), 0, 1),
        ((10_001, 10_000), 0, 2),
        ((20_000, 20_000), 0, 4),
        ((65_500, 65_500), 0, 8),
        ((65_500, 2_000), 1_000, 2),
    ],
)
def test_the_smallest_decoding_that_is_enough(size: tuple, enough: int, scale: int) -> None:
    assert draft_scale(size, enough) == scale


def test_pillow_decodes_at_that_scale() -> None:
    for side in (2048, 1999, 1000, 389):
        data = encoded(Image.new("RGB", (side + 7, side), "red"), "JPEG")
        for enough in (20, 97, 388, 1000):
            scale = draft_scale((side + 7, side), enough)
            photo = open_photo(io.BytesIO(data), enough)
            assert photo.size == (-(-(side + 7) // scale), -(-side // scale))
            assert side < enough or min(photo.size) >= enough


@pytest.mark.parametrize("profile", [None, display_p3()])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_scaled_down_photo_ends_where_the_whole_does(form: str, profile: bytes) -> None:
    """What is at 70 % of the whole is at 70 % of the part, whatever the sides are divided by."""
    for width in (993, 994, 999, 1000):
        pixels = np.full((700, width), 255, np.uint8)
        pixels[:, : round(width * 0.7)] = 0
        image = Image.fromarray(pixels).convert("RGB")
        data = encoded(image, form, icc_profile=profile)
        photo = open_photo(data, 80)
        if form == "JPEG" or profile:
            assert photo.width == -(-width // 8) and photo.info["full_size"] == image.size
        dark = (255 - np.asarray(photo, dtype=float)[40, :, 0]).sum() / 255
        assert abs(dark / photo.width - round(width * 0.7) / width) < 0.001
