"""Photos made for tests, and what must be seen of them."""

import io
import struct

import numpy as np
import pillow_heif
from PIL import ExifTags, Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
WIDTH, HEIGHT = 48, 32
TURNED = {  # where the stored corners red, green, blue, white belong, by EXIF's Orientation
    1: (RED, GREEN, BLUE, WHITE),
    2: (GREEN, RED, WHITE, BLUE),
    3: (WHITE, BLUE, GREEN, RED),
    4: (BLUE, WHITE, RED, GREEN),
    5: (RED, BLUE, GREEN, WHITE),
    6: (BLUE, RED, WHITE, GREEN),
    7: (WHITE, GREEN, BLUE, RED),
    8: (GREEN, WHITE, RED, BLUE),
}
# How to keep the colours where the format is lossy.
EXACT = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
WITHIN = {"JPEG": 6, "MPO": 6, "AVIF": 6, "HEIF": 6}


def quarters() -> Image.Image:
    """Return 48 x 32 pixels: red top left, green top right, blue bottom left, white the rest."""
    image = Image.new("RGB", (WIDTH, HEIGHT), WHITE)
    image.paste(RED, (0, 0, WIDTH // 2, HEIGHT // 2))
    image.paste(GREEN, (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    image.paste(BLUE, (0, HEIGHT // 2, WIDTH // 2, HEIGHT))
    return image


def corners(image: Image.Image) -> list[tuple[int, int, int]]:
    """Return the colours near the corners: top left, top right, bottom left, bottom right."""
    x, y = image.width - 5, image.height - 5
    return [image.getpixel(place) for place in ((4, 4), (x, 4), (4, y), (x, y))]


def encoded(image: Image.Image, form: str, **options) -> bytes:
    if form == "HEIF":
        return heic(image, **options)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def oriented(image: Image.Image, form: str, orientation: int) -> bytes:
    """Encode a photo as a camera does that is held in this way."""
    return encoded(image, form, exif=exif_of(orientation), **EXACT.get(form, {}))


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def xmp_of(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
        % orientation
    )


def heic(image: Image.Image, *more: Image.Image, primary: int = 0, **options) -> bytes:
    """Encode one image or several; an orientation in ``exif`` is written as irot and imir, too."""
    file = pillow_heif.HeifFile()
    for each in (image, *more):
        file.add_frombytes(each.mode, each.size, each.tobytes())
    return written(file, primary_index=primary, **options)


def deep_heic(pixels: np.ndarray, **options) -> bytes:
    """Encode 16-bit pixels, of which 10 bits are kept."""
    size = pixels.shape[1], pixels.shape[0]
    return written(pillow_heif.from_bytes("RGB;16", size, pixels.tobytes()), **options)


def written(file: pillow_heif.HeifFile, **options) -> bytes:
    buffer = io.BytesIO()
    fast = {"quality": 95, "chroma": 444, "enc_params": {"preset": "ultrafast"}}
    file.save(buffer, **fast | options)
    return buffer.getvalue()


def with_exif_orientation(data: bytes, old: int, new: int) -> bytes:
    """Change EXIF's tag in a file of `oriented` and nothing else, not even HEIF's boxes."""
    tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"
    assert data.count(tag + bytes([old])) == 1
    return data.replace(tag + bytes([old]), tag + bytes([new]))


def striped_jpeg(width: int, height: int, **options) -> bytes:
    """A baseline JPEG of any height, made by repeating the coded pixels of 16 rows.

    It goes from black at the left to red at the right.
    """
    ramp = np.zeros((16, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).round()
    data = encoded(Image.fromarray(ramp), "JPEG", restart_marker_rows=1, **options)
    at = data.index(b"\xff\xda")
    at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    head, row = data[:at], data[at:-2]
    rows = [row + b"\xff" + bytes([0xD0 + n % 8]) for n in range(-(-height // 16))]
    return sized(head, height) + b"".join(rows)[:-2] + b"\xff\xd9"


def sized(jpeg: bytes, height: int, width: int | None = None) -> bytes:
    """Let a JPEG claim another size."""
    at = next(jpeg.index(b"\xff" + kind) for kind in (b"\xc0", b"\xc2") if b"\xff" + kind in jpeg)
    size = struct.pack(">H", height) + (
        jpeg[at + 7 : at + 9] if not width else struct.pack(">H", width)
    )
    return jpeg[: at + 5] + size + jpeg[at + 9 :]


def assert_colours(image: Image.Image, *expected: tuple[int, int, int], within: int = 0) -> None:
    assert image.mode == "RGB"
    assert len(expected) == 4
    difference = np.abs(np.array(corners(image)) - np.array(expected)).max()
    assert difference <= within, f"{corners(image)} instead of {expected}"
