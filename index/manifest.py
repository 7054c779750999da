"""The manifest: one small file that says which vectors and which rows are the index.

An index folder holds ``library.sqlite`` (photos and their files), segments of embeddings (see
`index.segment`) and ``manifest.json``. A change is made in this order, each step synced to the disk
before the next:

1. rows stamped with the next generation go into SQLite, in one transaction;
2. new segments are written aside and renamed; no file in use is overwritten;
3. a new manifest is written aside and renamed over the old one: this is the commit;
4. segments that it no longer names are deleted.

A reader takes the generation from the manifest, opens the segments named there and sees only the
rows of that generation (see `index.library`). Before step 3 all it can see is the old
state, from step 3 on all it can see is the new one, wherever the writer is killed. What a killed
writer left behind is cleared by the next one.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from blip2.cache import sync
from blip2.errors import UserError

NAME = "manifest.json"
FORMAT = 4
READABLE = (3, FORMAT)  # 3 knew nothing of roots, mount points, patterns and builds under way
# Seconds to wait for another program that is writing. Photos are embedded outside the lock, so that
# it is held briefly but for putting large segments together.
BUSY_TIMEOUT = 60.0


class IndexFileError(UserError):
    """An index folder that cannot be used, and why."""


class IndexBusyError(IndexFileError):
    """An index that another program is writing, for longer than was waited."""


@dataclass(frozen=True)
class Manifest:
    """What an index is made of at one generation.

    Parameters
    ----------
    library : str
        Drawn when the index is created and stored in SQLite too: files of two indexes do not mix.
    generation : int
        Counts the changes; 0 is the empty index.
    retriever, fingerprint : str
        Name and fingerprint of the model that made the embeddings.
    queries, dim : int
        Vectors of a photo, and their width.
    photos : int
        Photos in the index.
    store : dict
        Segments with sizes and digests, see `index.store`.
    written : str
        When this was written, ISO 8601, UTC.
    roots, mounts : list of str
        Folders that were indexed, and those on the way to photos that were mount points then.
    exclude : list of str
        Patterns of files and folders to leave out; see `index.listing.list_photos`.
    build_began : int, optional
        Number of the first segment of a build that has not ended.
    """

    library: str
    generation: int
    retriever: str
    fingerprint: str
    queries: int
    dim: int
    photos: int
    store: dict
    written: str
    roots: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    build_began: int | None = None

    def write(self, folder: Path) -> None:
        """Make this the state of the index, at one stroke."""
        fields = {"format": FORMAT, **asdict(self)}
        text = json.dumps({**fields, "check": _check(fields)}, indent=2) + "\n"
        write_aside(folder / NAME, lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the state of an index.

        Raises
        ------
        IndexFileError
            If there is none, or it is damaged or of another format.
        """
        damaged = (
            f"The index {folder} is damaged: its {NAME} is not readable; "
            "restore it from a copy or build the index anew in another folder."
        )
        try:
            fields = json.loads((folder / NAME).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise IndexFileError(
                f"There is no index in {folder}; "
                "make one with `python -m index build PHOTOS --out FOLDER`."
            ) from None
        except OSError as error:
            raise IndexFileError(
                f"The index {folder} cannot be read ({error.strerror}); check its permissions."
            ) from error
        except (ValueError, RecursionError) as error:
            raise IndexFileError(damaged) from error
        if not isinstance(fields, dict):
            raise IndexFileError(damaged)
        check = fields.pop("check", None)
        if check != _check(fields):
            raise IndexFileError(damaged)
        if (found := fields.pop("format", None)) not in READABLE:
            raise IndexFileError(
                f"The index {folder} has format {found}, this version reads format {FORMAT}; "
                "build it anew in another folder."
            )
        return cls(**fields)


def now() -> str:
    """Return the date as a manifest writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that its name never stands for half of it.

    Parameters
    ----------
    path : Path
        Its final name.
    write : callable
        Gets the open file.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def file_sha256(file: BinaryIO) -> str:
    """Return the hex digest of an open file, read from where it stands to its end."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _check(fields: dict) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
