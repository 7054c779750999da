"""The controls that narrow a search, read into what the index takes."""

import glob
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.display import one_line
from blip2.errors import UserError

if TYPE_CHECKING:
    from index import Where

MAX_PATTERN = 255  # characters, as many as a file name may have


def read_where(
    name: str, since: str, until: str, folder: str, folders: Mapping[str, Path]
) -> "Where | None":
    """Read the controls.

    Parameters
    ----------
    name : str
        Part of a file name, or a pattern of a whole one, in which only ``*`` is special.
    since, until : str
        Days of this computer, as ``2024-05-31``, both included.
    folder : str
        A name among ``folders``.
    folders : mapping of str to Path
        The folders to choose from, as `named_folders` returns them.

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
    if name and "*" not in name:
        name = f"*{name}*"
    name = "*".join(glob.escape(part) for part in name.split("*"))
    if folder and folder not in folders:
        raise UserError("The library has no such folder of photos; choose one from the list.")
    first, last = _day(since, "first day"), _day(until, "last day")
    if first is not None and last is not None and first > last:
        raise UserError("The first day comes after the last day; change one of them.")
    if last is not None:
        last = last.replace(hour=23, minute=59, second=59, microsecond=999_999)
    where = Where(folders[folder] if folder else None, name, first, last)
    return where or None


def named_folders(folders: Iterable[Path]) -> dict[str, Path]:
    """Return folders by the names under which a visitor may choose them.

    Parameters
    ----------
    folders : iterable of Path
        All in one folder; of two that are the same to `Where` only the first is taken.

    Returns
    -------
    dict of str to Path
        In the same order. No name begins or ends with a space, or is more than a line.
    """
    from index.places import normalised

    named: dict[str, Path] = {}
    for folder in folders:
        name = normalised(one_line(folder.name))
        name = name if name == name.strip() else f'"{name}"'
        if name in named and normalised(named[name]) != normalised(folder):
            name = str(os.fsencode(folder.name))  # another name looks like the bytes of this one
        named.setdefault(name, folder)
    return named


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
