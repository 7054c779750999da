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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blip2.processing import READING_VERSION
from index import manifest
from index.library_reader import OLD_PHOTOS, SEEN, SUMS, VERSION, Reader, checksum_of, row_sum
from index.manifest import IndexBusyError, IndexFileError
from index.places import PhotoFile, Place

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
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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
            connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {VERSION};")
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
            now = SUMS["photos"].replace("reading", ":reading")
            connection.executemany(
                f"UPDATE photos SET reading = :reading, checked = {row_sum(now)} "
                f"WHERE id = :id AND checked = {row_sum(SUMS['photos'])}",
                [{"id": photo, "reading": READING_VERSION} for photo in photos],
            )
            connection.commit()

    @staticmethod
    def _bring_up_to_date(connection: sqlite3.Connection) -> None:
        """Give tables of an earlier version what the present one has more."""
        if connection.execute("PRAGMA user_version").fetchone()[0] >= VERSION:
            return
        connection.execute("ALTER TABLE photos ADD COLUMN reading INTEGER NOT NULL DEFAULT 1")
        # A row that a disk changed must not get a checksum that fits it.
        connection.execute(
            f"UPDATE photos SET checked = {row_sum(SUMS['photos'])} "
            f"WHERE checked = {row_sum(OLD_PHOTOS)}"
        )
        connection.execute(f"PRAGMA user_version = {VERSION}")

    @classmethod
    def _place(
        cls, connection: sqlite3.Connection, file: PhotoFile | Place, photo: int, following: int
    ) -> None:
        path = os.fsencode(file.path)
        # What the file held before it was changed.
        which = f"path = :path AND {SEEN}"
        cls._set_removed(connection, "places", which, following, path=path, now=following)
        cursor = connection.execute(
            "INSERT INTO places (path, photo, size, mtime_ns, added, checked) "
            "VALUES (?, ?, ?, ?, ?, 0)",
            (path, photo, file.size, file.mtime_ns, following),
        )
        cls._sum_up(connection, "places", cursor.lastrowid)

    @staticmethod
    def _sum_up(connection: sqlite3.Connection, table: str, row: int) -> None:
        checksum = row_sum(SUMS[table])
        connection.execute(f"UPDATE {table} SET checked = {checksum} WHERE rowid = ?", (row,))

    @staticmethod
    def _set_removed(
        connection: sqlite3.Connection,
        table: str,
        which: str,
        generation: int | None,
        **values: object,
    ) -> None:
        checksum = row_sum(SUMS[table], removed=":removed")
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
                connection.create_function("checksum", -1, checksum_of, deterministic=True)
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
