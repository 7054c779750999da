"""The boxes of a HEIF file (ISO/IEC 23008-12) that say whether its primary image is turned."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

_LARGEST_META = 16 << 20  # bytes; it lists items and properties, and holds no pixels
_TURNS = (b"irot", b"imir")


def is_turned(file: BinaryIO) -> bool:
    """Tell whether a file has its primary image rotated (irot) or mirrored (imir).

    Decoders apply these two by themselves; EXIF's orientation says the same once more.

    Parameters
    ----------
    file : binary file
        Seekable; read from its beginning.

    Returns
    -------
    bool
        True also where the boxes make no sense.
    """
    try:
        meta = _meta(file)
        boxes = {kind: body for kind, body in _boxes(meta[4:])}  # after version and flags
        version, primary = boxes[b"pitm"][0], boxes[b"pitm"][4:]
        (item,) = struct.unpack_from(">I" if version else ">H", primary)
        inner = list(_boxes(boxes[b"iprp"]))
        kinds = [
            kind for container, body in inner if container == b"ipco" for kind, _ in _boxes(body)
        ]
        used = [
            number
            for container, body in inner
            if container == b"ipma"
            for number in _properties(body, item)
        ]
        return any(kinds[number - 1] in _TURNS for number in used if number)
    except (struct.error, LookupError):
        return True


def _meta(file: BinaryIO) -> bytes:
    """Return the content of the file's meta box."""
    file.seek(0)
    while True:
        head = file.read(8)
        size, kind = struct.unpack(">I4s", head)
        length = size - 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            length = size - 16
        if kind == b"meta":
            return file.read(_LARGEST_META if not size else min(max(length, 0), _LARGEST_META))
        if length < 0:
            raise LookupError("no meta box")
        file.seek(length, 1)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the boxes that follow each other in some bytes."""
    start = 0
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        end = start + size if size else len(data)
        if end < start + head:
            raise LookupError("a box shorter than its head")
        yield kind, data[start + head : end]
        start = end


def _properties(body: bytes, wanted: int) -> Iterator[int]:
    """Yield the numbers, from 1, of the properties that an ipma box gives to an item."""
    version, wide = body[0], body[3] & 1
    (count,) = struct.unpack_from(">I", body, 4)
    at, item_form, number_form = 8, ">I" if version else ">H", ">H" if wide else ">B"
    for _ in range(count):
        (item,) = struct.unpack_from(item_form, body, at)
        at += struct.calcsize(item_form)
        own, at = body[at], at + 1
        for _ in range(own):
            (number,) = struct.unpack_from(number_form, body, at)
            at += struct.calcsize(number_form)
            if item == wanted:
                yield number & (0x7FFF if wide else 0x7F)  # without the bit "essential"
