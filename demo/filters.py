"""The controls that narrow a search, read into what the index takes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.errors import UserError

if TYPE_CHECKING:
    from index import Where

MAX_PATTERN = 200  # characters


def read_where(
    name: str, since: str, until: str, folder: str, folders: Sequence[str], photos: Path | None
) -> "Where | None":
    """Read the controls.

    Parameters
    ----------
    name : str
        Part of a file name, or a pattern of a whole one with ``*`` and ``?``.
    since, until : str
        Days of this computer, as ``2024-05-31``, both included.
    folder : str
        One of ``folders``.
    folders : sequence of str
        Names of the folders to choose from.
    photos : Path, optional
        The folder above them.

    Returns
    -------
    Where or None
        None where nothing is narrowed.

    Raises
    ------
    UserError
        If one of them cannot be used.
    """
    from index import Where

    name, folder = name.strip(), folder.strip()
    if len(name) > MAX_PATTERN:
        raise UserError(f"The file name is too long; use at most {MAX_PATTERN} characters.")
    if name and not set(name) & set("*?["):
        name = f"*{name}*"
    if folder and (photos is None or folder not in folders):
        raise UserError("The library has no such folder of photos; choose one from the list.")
    first, last = _day(since, "first day"), _day(until, "last day")
    if first is not None and last is not None and first > last:
        raise UserError("The first day comes after the last day; change one of them.")
    if last is not None:
        last = last.replace(hour=23, minute=59, second=59, microsecond=999_999)
    where = Where(photos / folder if photos and folder else None, name, first, last)
    return where or None


def _day(text: str, what: str) -> datetime | None:
    """The beginning of a day, here."""
    text = text.strip()
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").astimezone()
        day.timestamp(), (day + timedelta(days=1)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UserError(f"The {what} is not a date: {text[:20]}; write it as 2024-05-31.") from None
    return day
