"""Photos and the files that hold them, in SQLite, at every generation that is still in use.

A photo is its content (SHA-256); a place is a file that holds it. A copy of a known photo is one
more place of it, a moved one a new place. Every row carries the generation that ``added`` it and
the one that ``removed`` it: a reader names its generation and sees that state alone, whatever a
writer has begun meanwhile. Rows of generations that no manifest ever named are what a killed writer
left; the next `Library.apply` takes them back. SQLite does not notice a value that a disk changed,
so every row carries a checksum that is compared whenever it is read.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from index.manifest import IndexFileError
from index.places import LOOK_ALIKES, PhotoFile, Place, Where, plain_start

NAME = "library.sqlite"

_SCHEMA = """
CREATE TABLE meta (library TEXT NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE photos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice
    sha256 TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    added INTEGER NOT NULL,
    removed INTEGER,
    checked INTEGER NOT NULL
);
CREATE TABLE places (
    path BLOB NOT NULL,                    -- bytes: a file name need not be Unicode
    photo INTEGER NOT NULL REFERENCES photos (id),
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    added INTEGER NOT NULL,
    removed INTEGER,
    checked INTEGER NOT NULL
);
CREATE INDEX photos_by_content ON photos (sha256);
CREATE INDEX places_by_path ON places (path);
CREATE INDEX places_by_photo ON places (photo);
"""
_SEEN = "added <= :now AND (removed IS NULL OR removed > :now)"
# Columns that a row's checksum covers; `checksum` is a function that `Library` gives to SQLite.
_SUMS = {
    "photos": "checksum(id, sha256, width, height, added, removed)",
    "places": "checksum(rowid, path, photo, size, mtime_ns, added, removed)",
}
_UNDER = "(path = :name OR (path >= :inside AND path < :beyond))"
_NEAR = "(path >= :first AND path < :beyond)"
_WITH_LOOK_ALIKES = " OR ".join(f"instr(path, x'{c.encode().hex()}')" for c in LOOK_ALIKES)
_PHOTOS = f"SELECT id FROM photos WHERE {_SEEN}"
_PLACED = f"SELECT photo AS id FROM places WHERE {_SEEN}"


@dataclass
class Change:
    """What `Library.apply` did, for the vectors to follow.

    Parameters
    ----------
    added : list of int
        Ids of the new photos, in the order given.
    removed : list of int
        Photos without any place left.
    """

    added: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


def _place(path: bytes, size: int, mtime_ns: int) -> Place:
    return Place(Path(os.fsdecode(path)), size, mtime_ns)


def _checksum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _bounds(path: Path) -> dict[str, bytes]:
    """Values of ``_UNDER``: a file of this name, or all files of a folder."""
    name = os.fsencode(path)
    inside = name if name.endswith(b"/") else name + os.fsencode(os.sep)
    return {"name": name, "inside": inside, "beyond": inside[:-1] + bytes([inside[-1] + 1])}


def _near(where: Where) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Conditions with their values: all files of a folder meet one, and few other files do.

    The files may be in another normal form, but begin with the same plain letters; or they have
    letters that only look plain, as the folder may have.
    """
    for folder in where.folders:
        first = plain_start(folder)
        yield _NEAR, {"first": first, "beyond": first[:-1] + bytes([first[-1] + 1])}
        if set(LOOK_ALIKES.values()) & set(str(folder)):
            yield f"({_WITH_LOOK_ALIKES})", {}


class Reader:
    """Look-ups at one generation over one connection; threads take turns."""

    def __init__(self, connection: sqlite3.Connection, generation: int) -> None:
        self._connection = connection
        self._now = generation
        self._turn = Lock()

    def is_unchanged(self, path: Path, size: int, mtime_ns: int) -> bool:
        """Tell whether a file is known with this size and date, so that it need not be read."""
        query = (
            "SELECT 1 FROM places "
            f"WHERE path = :path AND size = :size AND mtime_ns = :mtime_ns AND {_SEEN}"
        )
        values = {"path": os.fsencode(path), "size": size, "mtime_ns": mtime_ns}
        return bool(self._rows(query, **values))

    def photo_of(self, sha256: str) -> int | None:
        """Return the id of the photo with this content, None if there is none."""
        rows = self._whole("photos", "id", "sha256 = :sha", sha=sha256)
        return rows[0][0] if rows else None

    def places_of(self, photo: int) -> list[Place]:
        """Return the files that hold a photo, in the order in which they came."""
        rows = self._whole(
            "places", "path, size, mtime_ns", "photo = :photo ORDER BY rowid", photo=photo
        )
        return [_place(*row) for row in rows]

    def places_under(self, path: Path) -> list[int]:
        """Return the rows of a file, or of all files of a folder.

        Where nothing has this very name, what `Where` finds by its folder: names that are the same
        in normal form, and those that it has without links.
        """
        query = f"SELECT rowid FROM places WHERE {_UNDER} AND {_SEEN}"
        if rows := self._rows(query, **_bounds(path)):
            return [row for (row,) in rows]
        where = Where(path)
        found = self._files_near(where).items()
        return [row for row, file in found if where.below_folder(os.fsdecode(file)) is not None]

    def folders_under(self, top: Path) -> set[str]:
        """Return the normalised names of the folders directly under one that hold photos."""
        where = Where(top)
        folders = {os.path.dirname(file) for file in self._files_near(where).values()}
        below = (where.below_folder(os.fsdecode(folder)) for folder in folders)
        return {rest.partition(os.sep)[0] for rest in below if rest}

    def photo_at(self, path: Path) -> int | None:
        """Return the id of the photo that a file holds, None if the file is not known."""
        # No checksum covers SQLite's index of paths: one more look without it (the plus sign)
        # before a photo is taken for unknown.
        for which in ("path = :path", "+path = :path"):
            if rows := self._whole("places", "photo", which, path=os.fsencode(path)):
                return rows[0][0]
        return None

    def photos_where(self, where: Where) -> list[int]:
        """Return the ids of the photos that a search may look at, ascending."""
        columns, rows = "photo, path, size, mtime_ns", []
        if where.folder is None:
            rows = self._whole("places", columns, "1")
        for condition, values in _near(where):
            rows += self._whole("places", columns, condition, **values)
        return sorted({photo for photo, *place in rows if where.admits(_place(*place))})

    def photo_files(self) -> list[tuple[PhotoFile, int]]:
        """Return every file with the id of its photo, by photo."""
        photos = {
            photo: contents
            for photo, *contents in self._whole("photos", "id, sha256, width, height", "1")
        }
        rows = self._whole("places", "photo, path, size, mtime_ns", "1 ORDER BY photo, rowid")
        return [
            (PhotoFile(Path(os.fsdecode(path)), *mark, *photos[photo]), photo)
            for photo, path, *mark in rows
        ]

    def files(self) -> list[Path]:
        """Return every file of the library, by photo."""
        return [
            Path(os.fsdecode(path))
            for (path,) in self._whole("places", "path", "1 ORDER BY photo, rowid")
        ]

    def marks(self) -> dict[bytes, tuple[int, int]]:
        """Return the size and the date of every file, by its name in bytes."""
        rows = self._whole("places", "path, size, mtime_ns", "1")
        return {path: (size, mtime_ns) for path, size, mtime_ns in rows}

    def ids(self) -> list[int]:
        """Return the ids of all photos, ascending."""
        return [row for (row,) in self._rows(f"{_PHOTOS} ORDER BY id")]

    def counts(self) -> tuple[int, int]:
        """Return the numbers of photos and of files."""
        ((photos,),) = self._rows(f"SELECT COUNT(*) FROM photos WHERE {_SEEN}")
        ((places,),) = self._rows(f"SELECT COUNT(*) FROM places WHERE {_SEEN}")
        return photos, places

    def without_place(self) -> list[int]:
        """Return the ids of photos that no file holds any more."""
        return [row for (row,) in self._rows(f"{_PHOTOS} EXCEPT {_PLACED} ORDER BY id")]

    def damage(self) -> list[str]:
        """Return what SQLite and the references between the tables find wrong."""
        found = [str(row) for (row,) in self._rows("PRAGMA integrity_check") if row != "ok"]
        if lost := self._rows(f"{_PLACED} EXCEPT {_PHOTOS}"):
            found.append(f"{len(lost)} photos have files but no row")
        if bare := self.without_place():
            found.append(f"{len(bare)} photos have no file")
        for table, checksum in _SUMS.items():
            query = f"SELECT COUNT(*) FROM {table} WHERE checked != {checksum}"
            if count := self._rows(query)[0][0]:
                found.append(f"{count} rows of {table} are not what was written")
        return found

    def _files_near(self, where: Where) -> dict[int, bytes]:
        """Rows and names of all files of a folder, and of some others; see `_near`."""
        found: dict[int, bytes] = {}
        for condition, values in _near(where):
            query = f"SELECT rowid, path FROM places WHERE {condition} AND {_SEEN}"
            found |= self._rows(query, **values)
        return found

    def _whole(self, table: str, columns: str, which: str, **values: object) -> list[tuple]:
        """Columns of the rows that are seen, each of which is what was written."""
        where, order, by = which.partition(" ORDER BY ")
        query = (
            f"SELECT checked = {_SUMS[table]}, {columns} FROM {table} "
            f"WHERE {where} AND {_SEEN}{order}{by}"
        )
        rows = self._rows(query, **values)
        if not all(row[0] for row in rows):
            raise sqlite3.DatabaseError(f"a row of {table} is not what was written")
        return [row[1:] for row in rows]

    def _rows(self, query: str, **values: object) -> list[tuple]:
        with self._turn:
            return self._connection.execute(query, {"now": self._now, **values}).fetchall()


class Library:
    """The SQLite file of an index folder.

    Every call opens a connection of its own and closes it: usable from any thread.

    Parameters
    ----------
    folder : Path
        The index folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME

    def create(self, library: str) -> None:
        """Make the file, without photos, at generation 0."""
        with self._connect("rwc") as connection:
            connection.executescript(f"BEGIN;{_SCHEMA}")
            connection.execute("INSERT INTO meta VALUES (?, 0)", (library,))
            connection.commit()

    @contextmanager
    def reading(self, generation: int) -> Iterator[Reader]:
        """Open the state of a generation; see `Reader`."""
        with self._connect("rw") as connection:
            yield Reader(connection, generation)

    def check(self, library: str, generation: int, photos: int) -> None:
        """Make sure that this file belongs to a manifest.

        Raises
        ------
        IndexFileError
            If it is of another index, older than the manifest, or has another number of photos.
        """
        with self._connect("rw") as connection:
            found = connection.execute("SELECT library, generation FROM meta").fetchall()
            count = Reader(connection, generation).counts()[0]
        if len(found) != 1 or found[0][0] != library or found[0][1] < generation or count != photos:
            raise IndexFileError(
                f"The index {self.folder} is damaged: {NAME} and the manifest do not belong "
                "together; restore both from one copy or build the index anew in another folder."
            )

    def apply(
        self,
        generation: int,
        new: Sequence[PhotoFile],
        copies: Iterable[PhotoFile],
        forgotten: Iterable[int],
    ) -> Change:
        """Write the rows of the next generation, in one transaction; the caller holds the lock.

        Parameters
        ----------
        generation : int
            The committed one; rows are stamped with the next.
        new : sequence of PhotoFile
            Photos not in the library.
        copies : iterable of PhotoFile
            Files whose content is in the library or in ``new``.
        forgotten : iterable of int
            Rows of `Reader.places_under`.

        Returns
        -------
        Change
        """
        following = generation + 1
        change = Change()
        with self._connect("rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table in ("places", "photos"):
                # What a killed writer left, and what was removed before the generation that a
                # reader, one behind, may still look at.
                connection.execute(
                    f"DELETE FROM {table} WHERE added > :now OR removed < :now", {"now": generation}
                )
                self._set_removed(connection, table, "removed > :now", None, now=generation)
            connection.execute("UPDATE meta SET generation = ?", (following,))
            reader = Reader(connection, following)
            for row in forgotten:
                self._set_removed(connection, "places", "rowid = :row", following, row=row)
            for file in new:
                cursor = connection.execute(
                    "INSERT INTO photos (sha256, width, height, added, checked) "
                    "VALUES (?, ?, ?, ?, 0)",
                    (file.sha256, file.width, file.height, following),
                )
                self._sum_up(connection, "photos", cursor.lastrowid)
                change.added.append(cursor.lastrowid)
                self._place(connection, file, cursor.lastrowid, following)
            for file in copies:
                self._place(connection, file, reader.photo_of(file.sha256), following)
            change.removed = reader.without_place()
            for photo in change.removed:
                self._set_removed(connection, "photos", "id = :id", following, id=photo)
            connection.commit()
        return change

    @classmethod
    def _place(
        cls, connection: sqlite3.Connection, file: PhotoFile, photo: int, following: int
    ) -> None:
        path = os.fsencode(file.path)
        # What the file held before it was changed.
        which = f"path = :path AND {_SEEN}"
        cls._set_removed(connection, "places", which, following, path=path, now=following)
        cursor = connection.execute(
            "INSERT INTO places (path, photo, size, mtime_ns, added, checked) "
            "VALUES (?, ?, ?, ?, ?, 0)",
            (path, photo, file.size, file.mtime_ns, following),
        )
        cls._sum_up(connection, "places", cursor.lastrowid)

    @staticmethod
    def _sum_up(connection: sqlite3.Connection, table: str, row: int) -> None:
        connection.execute(f"UPDATE {table} SET checked = {_SUMS[table]} WHERE rowid = ?", (row,))

    @staticmethod
    def _set_removed(
        connection: sqlite3.Connection,
        table: str,
        which: str,
        generation: int | None,
        **values: object,
    ) -> None:
        checksum = _SUMS[table].replace("removed)", ":removed)")
        connection.execute(
            f"UPDATE {table} SET removed = :removed, checked = {checksum} WHERE {which}",
            {"removed": generation, **values},
        )

    @contextmanager
    def _connect(self, mode: str) -> Iterator[sqlite3.Connection]:
        """Open the file: synced at every commit, and distrustful of a schema made elsewhere."""
        try:
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            with closing(
                sqlite3.connect(address, uri=True, timeout=10, check_same_thread=False)
            ) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.create_function("checksum", -1, _checksum, deterministic=True)
                connection.execute("PRAGMA synchronous = EXTRA")
                yield connection
        # What SQLite says may quote a table's definition, which in a damaged file is no text.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise IndexFileError(
                f'The index {self.folder} cannot be used: {NAME} gives "{reason}"; check disk '
                "space and permissions, or restore the index from a copy."
            ) from error
