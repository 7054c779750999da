"""Embedded profiles: the colours of a photo are those that it was made with."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from blip2.processing import open_photo
from demo.thumbnails import write_jpeg
from tests.helpers import icc
from tests.helpers.icc import in_profile
from tests.helpers.photos import EXACT, encoded, exif_of, heic, quarters

PROFILES = {
    "swapped": icc.swapped(),
    "Display P3": icc.display_p3(),
    "Adobe RGB": icc.adobe_rgb(),
    "ProPhoto": icc.prophoto(),
}


def colours(width: int = 320, height: int = 240) -> Image.Image:
    """Return a picture of soft patches of many colours."""
    rng = np.random.default_rng(1)
    patches = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return patches.resize((width, height), Image.Resampling.BICUBIC)


def lab_difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean distance of two sRGB pictures in Lab."""
    source = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    to_lab = ImageCms.ImageCmsTransform(source, target, "RGB", "LAB")
    pixels = []
    for image in (one, other):
        raw = np.frombuffer(to_lab.apply(image).tobytes(), np.uint8).reshape(-1, 3)
        light = raw[:, :1] * (100 / 255)
        pixels.append(np.hstack([light, raw[:, 1:].view(np.int8).astype(float)]))
    return float(np.linalg.norm(pixels[0] - pixels[1], axis=1).mean())


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_a_profile_is_converted_from(name: str, form: str, tmp_path) -> None:
    original, profile = colours(), PROFILES[name]
    pixels = in_profile(original, profile)
    data = encoded(pixels, form, icc_profile=profile, **EXACT.get(form, {}))
    photo = open_photo(data)
    assert photo.info == {"format": form}
    # AVIF's own rounding of colours weighs more in a space as wide as ProPhoto.
    within = 2 if (form, name) == ("AVIF", "ProPhoto") else 1.5
    assert lab_difference(photo, original) < within
    assert lab_difference(pixels, original) > 2.5  # what it would be without
    assert open_photo(photo).tobytes() == photo.tobytes()
    for each, path in ((photo, "a.jpg"), (open_photo(original), "b.jpg")):
        write_jpeg(each, tmp_path / path, 160, quality=86)
    with Image.open(tmp_path / "a.jpg") as small, Image.open(tmp_path / "b.jpg") as expected:
        assert small.size == (160, 120) and lab_difference(small, expected) < within


@pytest.mark.parametrize("form", ["JPEG", "PNG", "HEIF"])
def test_a_photo_that_is_scaled_down_first(form: str) -> None:
    """With `enough`, only as many pixels are converted as are asked for."""
    original, profile = colours(800, 600), PROFILES["Display P3"]
    data = encoded(in_profile(original, profile), form, icc_profile=profile, exif=exif_of(1))
    photo = open_photo(data, 150)
    assert photo.size == (200, 150) and photo.info["full_size"] == (800, 600)
    assert lab_difference(photo, original.reduce(4)) < 1.5
    assert open_photo(data, 350).size == (800, 600)


def test_an_image_that_the_caller_opened() -> None:
    profile = PROFILES["swapped"]
    data = encoded(in_profile(quarters(), profile), "PNG", icc_profile=profile)
    with Image.open(io.BytesIO(data)) as given:
        photo = open_photo(given)
        assert given.info["icc_profile"] == profile
    assert lab_difference(photo, quarters()) < 1


def test_transparency_and_palettes_under_a_profile() -> None:
    """The white that shows through is sRGB's; the profile is not applied to it."""
    profile = PROFILES["swapped"]
    pixels = in_profile(quarters(), profile)
    half = pixels.copy().convert("RGBA")
    half.putalpha(Image.new("L", half.size, 128))
    photo = open_photo(encoded(half, "PNG", icc_profile=profile))
    faded = Image.blend(Image.new("RGB", half.size, "white"), quarters(), 128 / 255)
    assert lab_difference(photo, faded) < 1
    palette = pixels.quantize(4)
    photo = open_photo(encoded(palette, "PNG", icc_profile=profile))
    assert lab_difference(photo, quarters()) < 1
    clear = encoded(palette, "PNG", icc_profile=profile, transparency=palette.getpixel((4, 4)))
    assert open_photo(clear).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_profile_of_greys(mode: str) -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(32, axis=0)
    if mode == "I;16":
        image = Image.fromarray((ramp * 65535).round().astype(np.uint16))
    else:
        image = Image.fromarray((ramp * 255).round().astype(np.uint8)).convert(mode)
    photo = open_photo(encoded(image, "PNG", icc_profile=icc.grey_profile(1.4)))
    linear = ramp**1.4
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(photo) - 255 * srgb[..., None]).mean() < 1
    assert np.abs(255 * srgb - 255 * ramp).mean() > 20  # what it would be without
    grey = heic(Image.new("L", (64, 48), 55), chroma=None, icc_profile=icc.grey_profile(1.0))
    assert abs(open_photo(grey).getpixel((9, 9))[0] - 128) < 4


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_a_profile_of_inks(form: str) -> None:
    """Of a press whose cyan is green and whose other inks do nothing."""
    green, paper = (60, -50, 40), (100, 0, 0)
    inks = icc.cmyk_profile({inks: green if inks[0] else paper for inks in np.ndindex(2, 2, 2, 2)})
    image = Image.new("CMYK", (48, 32), (255, 90, 0, 40))
    photo = open_photo(encoded(image, form, icc_profile=inks))
    red, shown, blue = photo.getpixel((20, 20))
    assert shown > 140 and red < 120 and blue < 120
    assert open_photo(encoded(image, form)).getpixel((20, 20))[2] > 180


def test_a_profile_of_srgb_changes_no_pixel() -> None:
    plain = open_photo(encoded(colours(), "PNG"))
    for profile in (icc.srgb(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        photo = open_photo(encoded(colours(), "PNG", icc_profile=profile))
        assert photo.tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        icc.display_p3()[:200],
        icc.display_p3()[:128] + bytes(400),
        icc.grey_profile(1.0),  # of other pixels than these
        icc.cmyk_profile({inks: (50, 0, 0) for inks in np.ndindex(2, 2, 2, 2)}),
        icc.display_p3() + bytes(5 << 20),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_a_broken_profile_counts_as_none(profile: bytes, form: str) -> None:
    photo = open_photo(encoded(colours(), form, icc_profile=profile))
    assert photo.tobytes() == open_photo(encoded(colours(), form)).tobytes()
    assert "notes" not in photo.info


def test_a_text_that_is_called_as_pillow_calls_profiles() -> None:
    note = PngInfo()
    note.add_text("icc_profile", "hello")
    assert open_photo(encoded(quarters(), "PNG", pnginfo=note)).tobytes() == quarters().tobytes()
