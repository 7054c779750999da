"""What visitors send: taken as it comes, opened in a process apart, refused in one sentence.

The events of the page take their inputs raw (``preprocess=False``): Gradio's own opening of a photo
knows no pixel limit and no list of formats, and fails without a sentence. Nor can its check be
relied on that a path leads into its upload folder: it looks at files that a request calls files.
"""

import hashlib
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image

from blip2.errors import UserError
from blip2.processing import clean_text
from demo.decoder import decoders

MAX_UPLOAD = "25mb"  # of one file; enforced while it is received


def received_file(upload: Any) -> tuple[Path, str]:
    """Find a file that a visitor sent.

    Parameters
    ----------
    upload : Any
        The raw value of an image or file component.

    Returns
    -------
    Path, str
        Where it lies, and the name that it had with the visitor, without any folder.

    Raises
    ------
    UserError
        If there is none, if it came as text within the request instead of as a file, or if it
        names a file that was never received.
    """
    if not upload:
        raise UserError("There is no photo yet; choose one first.")
    given, address = None, ""
    if isinstance(upload, dict):
        given, address = upload.get("path"), str(upload.get("url"))
    if address.startswith("data:image/svg"):
        raise UserError("An SVG is drawn and no photo; send a JPEG, PNG or WebP instead.")
    home = Path(get_upload_folder()).resolve()
    try:
        path = Path(given).resolve() if isinstance(given, str) else home
    except ValueError:  # a null byte, or half a surrogate pair that is no byte
        path = home
    if home not in path.parents:
        raise UserError("The photo did not come as a file; upload it as a file.")
    name = Path(str(upload.get("orig_name") or given).replace("\\", "/")).name
    return path, name


def open_received(path: Path) -> Image.Image:
    """Open a received file as a photo; errors say "the given photo", not where it lies."""
    return decoders().open(path)


def received_digest(path: Path) -> str:
    """Return the SHA-256 of a received file, in hex.

    Raises
    ------
    UserError
        If it is gone.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise UserError("The photo is no longer here; upload it again.") from None


def received_text(text: Any, what: str, default: str | None = None) -> str:
    """Clean a text that a visitor wrote.

    Parameters
    ----------
    text : Any
        The raw value of a text box.
    what : str
        How the text is called in an error.
    default : str, optional
        Stands in for an empty text.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If it is no text, empty without a default, or too long.
    """
    if not isinstance(text, str | None):
        raise UserError(f"The {what} is not a text; write a few words.")
    return clean_text(text or "", what, default)


def received_number(number: Any, what: str, low: int, high: int) -> int:
    """Take a whole number that a visitor set.

    Parameters
    ----------
    number : Any
        The raw value of a slider.
    what : str
        How it is called in an error.
    low, high : int
        Its range, both included.

    Returns
    -------
    int

    Raises
    ------
    UserError
        If it is no number or out of its range.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(f"The {what} is not a number; choose one from {low} to {high}.")
    if not low <= number <= high:
        raise UserError(f"The {what} must be from {low} to {high}; choose one of these.")
    return int(number)
