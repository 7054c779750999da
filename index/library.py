"""Photos and the files that hold them, in SQLite, at every generation that is still in use.

A photo is its content (SHA-256); a place is a file that holds it. A copy of a known photo is one
more place of it, a moved one a new place. Every row carries the generation that ``added`` it and
the one that ``removed`` it: a reader names its generation and sees that state alone, whatever a
writer has begun meanwhile. Rows of generations that no manifest ever named are what a killed writer
left; the next `Library.apply` takes them back. SQLite does not notice a value that a disk changed,
so every row carries a checksum that is compared whenever it is read. A photo's ``reading`` is the
version of how photos are read (`blip2.processing.READING_VERSION`) that its embeddings are of.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from blip2.processing import READING_VERSION
from index import manifest
from index.manifest import IndexBusyError, IndexFileError
from index.places import PhotoFile, Place, Where

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
    checked INTEGER NOT NULL,
    reading INTEGER NOT NULL DEFAULT 1
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
_VERSION = 1  # of these tables, in SQLite's user_version; 0 has no ``reading``
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SEEN = "added <= :now AND (removed IS NULL OR removed > :now)"
# Columns that a row's checksum covers; `checksum` is a function that `Library` gives to SQLite.
_OLD_PHOTOS = "checksum(id, sha256, width, height, added, {removed})"
_SUMS = {
    "photos": "checksum(id, sha256, width, height, added, {removed}, reading)",
    "places": "checksum(rowid, path, photo, size, mtime_ns, added, {removed})",
}
_UNDER = "(path = :name OR (path >= :inside AND path < :beyond))"
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


def _sum(template: str, removed: str = "removed") -> str:
    """SQL for a row's checksum."""
    return template.format(removed=removed)


def _checksum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _bounds(path: Path) -> dict[str, bytes]:
    """Values of ``_UNDER``: a file of this name, or all files of a folder."""
    name = os.fsencode(path)
    inside = name if name.endswith(b"/") else name + os.fsencode(os.sep)
    return {"name": name, "inside": inside, "beyond": inside[:-1] + bytes([inside[-1] + 1])}


class Reader:
    """Look-ups at one generation over one connection; threads take turns."""

    def __init__(self, connection: sqlite3.Connection, generation: int) -> None:
        self._connection = connection
        self._now = generation
        self._turn = Lock()
        ((version,),) = self._rows("PRAGMA user_version")
        self._old = version < _VERSION
        self._sums = {**_SUMS, "photos": _OLD_PHOTOS} if self._old else _SUMS

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

    def size_of(self, photo: int) -> tuple[int, int]:
        """Return width and height of a photo, in pixels."""
        ((width, height),) = self._whole("photos", "width, height", "id = :id", id=photo)
        return width, height

    def reading_of(self, photo: int) -> int:
        """Return the version of how photos are read that a photo's embeddings are of."""
        if self._old:
            return 1
        ((version,),) = self._whole("photos", "reading", "id = :id", id=photo)
        return version

    def read_before(self, version: int) -> list[tuple[int, Place]]:
        """Return the files of photos that were read by an earlier version, by photo."""
        which = "1" if self._old else "reading < :version"
        photos = {photo for (photo,) in self._whole("photos", "id", which, version=version)}
        if not photos:
            return []
        rows = self._whole("places", "photo, path, size, mtime_ns", "1 ORDER BY photo, rowid")
        return [(photo, _place(*mark)) for photo, *mark in rows if photo in photos]

    def places_of(self, photo: int) -> list[Place]:
        """Return the files that hold a photo, in the order in which they came."""
        rows = self._whole(
            "places", "path, size, mtime_ns", "photo = :photo ORDER BY rowid", photo=photo
        )
        return [_place(*row) for row in rows]

    def places_under(self, path: Path) -> list[int]:
        """Return the rows of a file, or of all files of a folder."""
        query = f"SELECT rowid FROM places WHERE {_UNDER} AND {_SEEN}"
        return [row for (row,) in self._rows(query, **_bounds(path))]

    def all_places(self) -> list[int]:
        """Return the rows of all files."""
        return [row for (row,) in self._rows(f"SELECT rowid FROM places WHERE {_SEEN}")]

    def photo_at(self, path: Path) -> tuple[int, Place] | None:
        """Return the id of the photo that a file holds, and the file as it was when it was read.

        None if the file is not known.
        """
        # No checksum covers SQLite's index of paths: one more look without it (the plus sign)
        # before a photo is taken for unknown.
        for which in ("path = :path", "+path = :path"):
            columns = "photo, path, size, mtime_ns"
            if rows := self._whole("places", columns, which, path=os.fsencode(path)):
                photo, *mark = rows[0]
                return photo, _place(*mark)
        return None

    def photos_where(self, where: Where) -> list[int]:
        """Return the ids of the photos that a search may look at, ascending."""
        under, bounds = ("1", {}) if where.folder is None else (_UNDER, _bounds(where.folder))
        columns = "photo, path, size, mtime_ns"
        rows = self._whole("places", columns, under, **bounds)
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

    def files(self) -> list[tuple[Path, int]]:
        """Return every file of the library and the id of its photo, by photo."""
        return [
            (Path(os.fsdecode(path)), photo)
            for path, photo in self._whole("places", "path, photo", "1 ORDER BY photo, rowid")
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
        for table, checksum in self._sums.items():
            query = f"SELECT COUNT(*) FROM {table} WHERE checked != {_sum(checksum)}"
            if count := self._rows(query)[0][0]:
                found.append(f"{count} rows of {table} are not what was written")
        return found

    def _whole(self, table: str, columns: str, which: str, **values: object) -> list[tuple]:
        """Columns of the rows that are seen, each of which is what was written."""
        where, order, by = which.partition(" ORDER BY ")
        query = (
            f"SELECT checked = {_sum(self._sums[table])}, {columns} FROM {table} "
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
            connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};")
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
        renewed: Mapping[str, int] | None = None,
    ) -> Change:
        """Write the rows of the next generation, in one transaction; the caller holds the lock.

        Parameters
        ----------
        generation : int
            The committed one; rows are stamped with the next.
        new : sequence of PhotoFile
            Photos not in the library, or embedded anew.
        copies : iterable of PhotoFile
            Files whose content is in the library or in ``new``.
        forgotten : iterable of int
            Rows of `Reader.places_under`.
        renewed : mapping of str to int, optional
            By the content of those that are embedded anew, the photo that the new one replaces.

        Returns
        -------
        Change
        """
        following = generation + 1
        change = Change()
        with self._connect("rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._bring_up_to_date(connection)
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
                before = (renewed or {}).get(file.sha256)
                moved = [] if before is None else reader.places_of(before)
                cursor = connection.execute(
                    "INSERT INTO photos (sha256, width, height, added, checked, reading) "
                    "VALUES (?, ?, ?, ?, 0, ?)",
                    (file.sha256, file.width, file.height, following, READING_VERSION),
                )
                self._sum_up(connection, "photos", cursor.lastrowid)
                change.added.append(cursor.lastrowid)
                for place in {place.path: place for place in [*moved, file]}.values():
                    self._place(connection, place, cursor.lastrowid, following)
                if before is not None:
                    self._set_removed(connection, "photos", "id = :id", following, id=before)
                    change.removed.append(before)
            for file in copies:
                self._place(connection, file, reader.photo_of(file.sha256), following)
            bare = reader.without_place()
            for photo in bare:
                self._set_removed(connection, "photos", "id = :id", following, id=photo)
            change.removed += bare
            connection.commit()
        return change

    def confirm_reading(self, photos: Iterable[int]) -> None:
        """Note that photos would be read today as they were; the caller holds the lock."""
        with self._connect("rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._bring_up_to_date(connection)
            now = _SUMS["photos"].replace("reading", ":reading")
            connection.executemany(
                f"UPDATE photos SET reading = :reading, checked = {_sum(now)} "
                f"WHERE id = :id AND checked = {_sum(_SUMS['photos'])}",
                [{"id": photo, "reading": READING_VERSION} for photo in photos],
            )
            connection.commit()

    @staticmethod
    def _bring_up_to_date(connection: sqlite3.Connection) -> None:
        """Give tables of an earlier version what the present one has more."""
        if connection.execute("PRAGMA user_version").fetchone()[0] >= _VERSION:
            return
        connection.execute("ALTER TABLE photos ADD COLUMN reading INTEGER NOT NULL DEFAULT 1")
        # A row that a disk changed must not get a checksum that fits it.
        connection.execute(
            f"UPDATE photos SET checked = {_sum(_SUMS['photos'])} "
            f"WHERE checked = {_sum(_OLD_PHOTOS)}"
        )
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    @classmethod
    def _place(
        cls, connection: sqlite3.Connection, file: PhotoFile | Place, photo: int, following: int
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
        checksum = _sum(_SUMS[table])
        connection.execute(f"UPDATE {table} SET checked = {checksum} WHERE rowid = ?", (row,))

    @staticmethod
    def _set_removed(
        connection: sqlite3.Connection,
        table: str,
        which: str,
        generation: int | None,
        **values: object,
    ) -> None:
        checksum = _sum(_SUMS[table], removed=":removed")
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
                sqlite3.connect(
                    address, uri=True, timeout=manifest.BUSY_TIMEOUT, check_same_thread=False
                )
            ) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.create_function("checksum", -1, _checksum, deterministic=True)
                connection.execute("PRAGMA synchronous = EXTRA")
                yield connection
        # What SQLite says may quote a table's definition, which in a damaged file is no text.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
                raise IndexBusyError(
                    f"The index {self.folder} is busy: another program has held its {NAME} for "
                    f"{manifest.BUSY_TIMEOUT:.0f} seconds; try again when it has finished."
                ) from error
            reason = " ".join(str(error).split())[:160]
            raise IndexFileError(
                f'The index {self.folder} cannot be used: {NAME} gives "{reason}"; check disk '
                "space and permissions, or restore the index from a copy."
            ) from error
