"""Photos that are damaged and still worth seeing: copies of their bytes that can be decoded."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

MOST_MISSING = 0.1  # of the rows; a photo that lacks more counts as damaged
END_MISSING = "Its end is missing."
METADATA_LEFT_OUT = "Its metadata is damaged or too large and was left out."

_JPEG, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"
_APP0, _APP14, _APP15, _COMMENT, _START_OF_SCAN = 0xE0, 0xEE, 0xEF, 0xFE, 0xDA
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # behind the coded pixels of a scan
_PNG = b"\x89PNG\r\n\x1a\n"
_LOOKS, _PROFILE = (b"tRNS", b"eXIf"), (b"iCCP",)  # chunks that a PNG may lack, but looks otherwise


def repaired_copies(data: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield copies of a damaged photo that may be decoded, the best first.

    Parameters
    ----------
    data : bytes
        A file that was refused. Only JPEG and PNG are repaired.

    Yields
    ------
    bytes, str
        The copy, and what is wrong with the photo.
    """
    if data.startswith(_JPEG):
        whole = data.rstrip(b"\0")  # a download that broke off may have left room for the rest
        yield whole + _END_OF_JPEG, END_MISSING
        plain = _jpeg_without_metadata(whole)
        if len(plain) < len(whole):
            yield plain + _END_OF_JPEG, METADATA_LEFT_OUT
    elif data.startswith(_PNG):
        for kept in (_LOOKS + _PROFILE, _LOOKS, ()):
            yield _png_with(data, kept), METADATA_LEFT_OUT


def missing_share(image: Image.Image, data: bytes) -> float:
    """Tell how much of a repaired JPEG is missing.

    Parameters
    ----------
    image : PIL.Image.Image
        Loaded, with the colours that its decoder gives: it fills missing rows with medium grey.
    data : bytes
        What it was decoded from.

    Returns
    -------
    float
        Share of its rows, counted up to just above `MOST_MISSING`; 1.0 for a progressive JPEG, of
        which each part refines all rows, that lacks more than the finest detail.
    """
    if image.info.get("progressive") and not _has_detail(data, image.layer[0][0]):
        return 1.0
    looked_at = int(image.height * MOST_MISSING) + 1
    bottom = image.crop((0, image.height - looked_at, image.width, image.height))
    pixels = np.asarray(bottom).reshape(looked_at, -1)  # [rows, W * C]
    seen = np.flatnonzero(((pixels < 127) | (pixels > 128)).any(axis=1))
    missing = looked_at - 1 - seen[-1] if len(seen) else looked_at
    return float(missing) / image.height


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and length of the content of each chunk of a PNG, reading none of it."""
    at = len(_PNG)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        at += length + 12


def _png_with(data: bytes, kept: tuple[bytes, ...]) -> bytes:
    """Leave out the chunks that a PNG can do without, but for those kinds that are whole."""
    parts = [_PNG]
    for kind, start, length in png_chunks(io.BytesIO(data)):
        chunk = data[start - 8 : start + length + 4]
        needed = not kind[0] & 0x20  # capital letter
        if needed or (kind in kept and zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]):
            parts.append(chunk)
    return b"".join(parts)


def _jpeg_without_metadata(data: bytes) -> bytes:
    """Leave out comments and application segments, but for those that say what colours mean."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN:
            break
        metadata = _APP0 < marker <= _APP15 and marker != _APP14
        if not metadata and marker != _COMMENT:
            parts.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*parts, data[at:]])


def _has_detail(data: bytes, luminance: int) -> bool:
    """Tell whether no more is missing than the last bit of each frequency of the luminance."""
    unknown_bits: dict[int, int] = {}
    complete = list(_scans(data))[:-1]  # the file breaks off in the last
    for components, first, last, bits in complete:
        if luminance in components:
            unknown_bits.update(dict.fromkeys(range(first, last + 1), bits))
    return len(unknown_bits) == 64 and max(unknown_bits.values()) <= 1


def _scans(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield components, first and last frequency of a JPEG's scans, and the bits left to others."""
    at = 2
    while at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or marker == _END_OF_JPEG[1]:
            return
        if marker == _START_OF_SCAN:
            components = data[at + 5 : at + 5 + 2 * data[at + 4] : 2]
            spectrum = data[at + 2 + length - 3 : at + 2 + length]
            if len(spectrum) < 3:
                return
            yield components, spectrum[0], spectrum[1], spectrum[2] & 15
            following = _NEXT_MARKER.search(data, at + 2 + length)
            if not following:
                return
            at = following.start()
        else:
            at += 2 + length
