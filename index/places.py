"""Files that hold photos, and which of them a search looks at."""

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path


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

    Parameters
    ----------
    folder : Path, optional
        Only files in it.
    name : str
        Pattern of the file's name, as the shell has it (``*``, ``?``), whatever the case.
    since, until : datetime, optional
        Of the file's last change, both included.
    """

    folder: Path | None = None
    name: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return any((self.folder, self.name, self.since, self.until))

    def admits(self, place: Place) -> bool:
        """Tell whether a file is one of those, but for the folder."""
        fits = fnmatch(place.path.name.lower(), self.name.lower() or "*")
        moment = place.mtime_ns / 1e9
        return (
            fits
            and (self.since is None or moment >= self.since.timestamp())
            and (self.until is None or moment <= self.until.timestamp())
        )
