"""ICC profiles, written from primaries and curves: what photos of other colour spaces embed."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

D50 = (0.9642, 1.0, 0.8249)  # XYZ of the white that profiles are relative to
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
D65_XY, D50_XY = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # of ICC's type 3


def srgb() -> bytes:
    return rgb_profile(SRGB, D65_XY, SRGB_CURVE)


def swapped() -> bytes:
    """Its red is sRGB's green, and the other way round."""
    red, green, blue = SRGB
    return rgb_profile((green, red, blue), D65_XY, SRGB_CURVE)


def display_p3() -> bytes:
    return rgb_profile(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65_XY, SRGB_CURVE)


def adobe_rgb() -> bytes:
    return rgb_profile(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65_XY, (563 / 256,))


def prophoto() -> bytes:
    primaries = ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105))
    return rgb_profile(primaries, D50_XY, (1.8,))


def in_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the pixels that show an sRGB picture's colours under a profile."""
    source = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
    shown = ImageCms.ImageCmsTransform(source, target, "RGB", "RGB", relative).apply(image)
    shown.info.clear()  # Pillow notes the profile there
    return shown


def rgb_profile(primaries, white, curve) -> bytes:
    """A profile of a display, by the chromaticities of its primaries and white."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries]).T  # [XYZ, RGB]
    source = np.array((white[0] / white[1], 1.0, (1 - sum(white)) / white[1]))
    columns = columns * np.linalg.solve(columns, source)
    cones = (BRADFORD @ np.array(D50)) / (BRADFORD @ source)
    columns = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ columns
    tags = {b"wtpt": xyz(D50)}
    for letter, column in zip(b"rgb", columns.T, strict=True):
        tags[bytes([letter]) + b"XYZ"] = xyz(column)
        tags[bytes([letter]) + b"TRC"] = parametric(curve)
    return profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": xyz(D50), b"kTRC": parametric((gamma,))})


def cmyk_profile(colours: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """Inks on paper, by the Lab colour of each of the 16 combinations of full inks.

    Lightness is 0 to 100, the others -128 to 127; between the combinations it is interpolated.
    """
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0))
    table += struct.pack(">9i", *(65536 if n % 4 == 0 else 0 for n in range(9)))
    table += ramp * 4
    for inks in np.ndindex(2, 2, 2, 2):
        light, a, b = colours[inks]
        table += bytes((round(light * 2.55), a + 128, b + 128))
    table += ramp * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": xyz(D50), b"A2B0": table, b"A2B1": table})


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": description("made for a test"), **tags}
    table, content, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at, len(data))
        content, at = content + data, at + len(data)
    head = struct.pack(">I4sI4s4s4s", at, b"test", 0x04000000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(fixed(value) for value in D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + content


def description(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(fixed(value) for value in values)


def parametric(curve: tuple[float, ...]) -> bytes:
    """A gamma alone, or the five numbers of a curve that begins straight."""
    kind = {1: 0, 5: 3}[len(curve)]
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + b"".join(map(fixed, curve))


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(float(value) * 65536))
