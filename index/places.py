"""Files that hold photos, and which of them a search looks at."""

import os
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from blip2.display import one_line

# The only characters beyond ASCII that NFC makes ASCII of, and what it makes of them.
LOOK_ALIKES = {"\u037e": ";", "\u1fef": "`", "\u212a": "K"}
_ASCII = re.compile("[\x00-\x7f]*")


@dataclass(frozen=True)
class PhotoFile:
    """A file that holds a photo, as it was when it was read.

    Parameters
    ----------
    path : Path
        Absolute.
    size, mtime_ns : int
        Bytes, and nanoseconds since 1970.
    sha256 : str
        Hex digest of its content.
    width, height : int
        Of the upright picture, in pixels; 0 where it was not decoded because it is known.
    """

    path: Path
    size: int
    mtime_ns: int
    sha256: str
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Place:
    """A file that holds a photo of the library.

    Parameters
    ----------
    path : Path
        Absolute.
    size, mtime_ns : int
        Bytes, and nanoseconds since 1970, when it was read.
    """

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Where:
    """Which files a search looks at; a photo is looked at if one of its files is.

    Names are compared in Unicode's normal form NFC: what is typed as one character finds what
    macOS stores as a letter and its accent.

    Parameters
    ----------
    folder : Path, optional
        Only files in it, also where it is reached through links; see `spellings`.
    name : str
        Pattern of the file's name, as the shell has it (``*``, ``?``, ``[ab]``), whatever the
        case; or of the name as it is displayed, with ``\\xe9`` for a byte that is not UTF-8.
    since, until : datetime, optional
        Of the file's last change, both included.
    """

    folder: Path | None = None
    name: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return any((self.folder, self.name, self.since, self.until))

    @cached_property
    def folders(self) -> list[Path]:
        """The folder in every spelling; none where files anywhere are looked at."""
        return [] if self.folder is None else spellings(self.folder)

    def admits(self, place: Place) -> bool:
        """Tell whether a file is one of those."""
        moment = place.mtime_ns / 1e9
        return (
            (self.since is None or moment >= self.since.timestamp())
            and (self.until is None or moment <= self.until.timestamp())
            and (not self.name or self._is_named(place.path.name))
            and (self.folder is None or self.below_folder(place.path) is not None)
        )

    def below_folder(self, path: str | Path) -> str | None:
        """Return what follows the folder in a path, normalised; None if the path is not in it.

        It is empty where the path is the folder itself, or a file that was named in its place.
        """
        inside = normalised(path) + os.sep
        tops = (top for top in self._tops if inside.startswith(top))
        return next((inside[len(top) : -len(os.sep)] for top in tops), None)

    @cached_property
    def _tops(self) -> list[str]:
        return [normalised(folder).rstrip(os.sep) + os.sep for folder in self.folders]

    @cached_property
    def _patterns(self) -> tuple[str, str]:
        return caseless(self.name), caseless(one_line(self.name))

    def _is_named(self, name: str) -> bool:
        given, displayed = self._patterns
        return fnmatchcase(caseless(name), given) or (
            not name.isprintable() and fnmatchcase(caseless(one_line(name)), displayed)
        )


def normalised(path: str | Path) -> str:
    """Return a path or name in Unicode's normal form NFC, to be compared and not to be opened."""
    return unicodedata.normalize("NFC", os.fspath(path))


def plain_start(path: Path) -> bytes:
    """Return the bytes with which a path begins in every normal form, but for `LOOK_ALIKES`.

    No normal form changes ASCII, except a letter before an accent: the last ASCII letter before
    another character is left out.

    Parameters
    ----------
    path : Path
        Absolute.

    Returns
    -------
    bytes
        ASCII, at least one.
    """
    name = os.fspath(path)
    start = _ASCII.match(name)[0]
    return (start if start == name else start[:-1] or start).encode()


def spellings(path: Path) -> list[Path]:
    """Return a path as it is, and with the links in each of its prefixes resolved.

    Parameters
    ----------
    path : Path
        It need not exist.

    Returns
    -------
    list of Path
        Absolute, each once; the path itself first.
    """
    path = Path(os.path.abspath(path))
    prefixes = reversed([path, *path.parents])
    resolved = [Path(os.path.realpath(top), path.relative_to(top)) for top in prefixes]
    return list(dict.fromkeys([path, *resolved]))


def caseless(name: str) -> str:
    """Return a name as it is compared with another, whatever the case and the normal form."""
    return normalised(normalised(name).casefold())
