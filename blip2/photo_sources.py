"""What callers hand over as a photo: a path, bytes, an open file, an image, an array, a tensor."""

import base64
import binascii
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from blip2.errors import PhotoError

if TYPE_CHECKING:
    import torch

TAKEN = "a path, bytes, an open file, a PIL image, a NumPy array or a torch tensor"

_LONGEST_PATH = 4096  # characters; more is no path on any system
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)  # two letters at least: C:// is a drive
_ROUNDING = 1e-3  # by which floats may leave 0..1, as scaling pixels makes them


@contextmanager
def opened(source: Any) -> Iterator[tuple[BinaryIO | Image.Image, str]]:
    """Open what was handed over as a photo.

    Parameters
    ----------
    source
        See `blip2.processing.open_photo`.

    Yields
    ------
    binary file or PIL image, str
        A seekable file, closed afterwards, or an image that is the caller's own; and how it is
        called at the beginning of an error.

    Raises
    ------
    PhotoError
        If it is nothing that holds a photo, or cannot be opened.
    """
    if isinstance(source, Image.Image):
        yield source, "The given image"
    elif isinstance(source, np.ndarray):
        yield _from_array(source), "The given array"
    elif _is_tensor(source):
        yield _from_tensor(source), "The given tensor"
    else:
        file, name = _as_file(source)
        with file:
            yield file, name


def photo_list(photos: Any) -> list[Any]:
    """Return photos as a list, also where a single one was handed over in place of a list.

    An array, a tensor, a path, bytes and an image are one photo each.
    """
    several = isinstance(photos, Sequence) and not isinstance(photos, str | bytes | bytearray)
    return list(photos) if several and not isinstance(photos, memoryview) else [photos]


def shortened(text: str, most: int = 160) -> str:
    """Return a text for an error, its middle left out where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def _as_file(source: Any) -> tuple[BinaryIO, str]:
    if isinstance(source, str) and source[:5].lower() == "data:":
        return io.BytesIO(_from_data_url(source)), "The given photo"
    if isinstance(source, str | os.PathLike):
        return _from_path(os.fsdecode(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "The given photo"
    if callable(getattr(source, "read", None)):
        return io.BytesIO(_from_file(source)), "The given photo"
    if source is None:
        raise PhotoError(f"There is no photo; give {TAKEN}.")
    raise PhotoError(f"A photo cannot be of the type {type(source).__name__}; give {TAKEN}.")


def _from_path(text: str) -> tuple[BinaryIO, str]:
    path = shortened(text)
    if _ADDRESS.match(text):
        raise PhotoError(f"Photos are not fetched from addresses such as {path}; give a file.")
    if not text:
        raise PhotoError("The path of the photo is empty; give one.")
    if "\0" in text:
        raise PhotoError("The path of the photo contains a null character; check the path.")
    if len(text) > _LONGEST_PATH:
        raise PhotoError(
            f"A text of {len(text):,} characters is no path; give the content of a photo as bytes "
            "or as a data: URL."
        )
    try:
        file = Path(text).open("rb")  # noqa: SIM115  (closed by `opened`)
    except FileNotFoundError:
        raise PhotoError(f"The file {path} does not exist; check the path.") from None
    except IsADirectoryError:
        raise PhotoError(f"{path} is a folder; give a photo in it instead.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise PhotoError(f"The file {path} cannot be opened ({why}); check the path.") from error
    if file.seekable():
        return file, f"The file {path}"
    with file:  # a pipe
        return io.BytesIO(file.read()), f"The file {path}"


def _from_file(source: BinaryIO) -> bytes:
    try:
        data = "" if isinstance(source, io.TextIOBase) else source.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise PhotoError(f"The given file cannot be read ({shortened(str(error))}).") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise PhotoError('The given file was opened as text; open it with mode "rb".')
    return data


def _from_data_url(url: str) -> bytes:
    """Decode ``data:image/png;base64,...`` (RFC 2397)."""
    head, comma, body = url.partition(",")
    content = unquote_to_bytes(body)
    try:
        if head.lower().endswith(";base64"):
            content = b"".join(content.split())
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except binascii.Error:
        comma = ""
    if not comma:
        raise PhotoError("The data: URL is broken; encode the photo as base64 again.")
    return content


def _is_tensor(source: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(source, torch.Tensor)


def _from_tensor(tensor: "torch.Tensor") -> Image.Image:  # [3, H, W]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise PhotoError(
            f"The given tensor has the shape {list(tensor.shape)}; a photo has [3, H, W], and "
            "several are given as a list."
        )
    tensor = tensor.detach().cpu().permute(1, 2, 0)  # [H, W, 3]
    if tensor.is_floating_point():
        tensor = tensor.float()  # NumPy has no bfloat16
    return _from_pixels(tensor.numpy(), "tensor")


def _from_array(pixels: np.ndarray) -> Image.Image:  # [H, W] or [H, W, 3 or 4]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise PhotoError(
            f"The given array has the shape {list(pixels.shape)}; a photo has [H, W], [H, W, 3] or "
            "[H, W, 4], and several are given as a list."
        )
    return _from_pixels(pixels, "array")


def _from_pixels(pixels: np.ndarray, what: str) -> Image.Image:
    if not pixels.size:
        raise PhotoError(f"The given {what} has no pixels; choose another photo.")
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # which NaN is not, either
            raise PhotoError(
                f"The given {what} has values from {low:g} to {high:g}; give floats from 0 to 1, "
                "or uint8."
            )
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise PhotoError(
            f"The given {what} is of the type {pixels.dtype}; give uint8, or floats from 0 to 1."
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
