"""Look-ups among the photos and files of one generation of an index's SQLite file."""

import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from index.places import LOOK_ALIKES, PhotoFile, Place, Where, plain_start

VERSION = 1  # of these tables, in SQLite's user_version; 0 has no ``reading``
SEEN = "added <= :now AND (removed IS NULL OR removed > :now)"
# Columns that a row's checksum covers; `checksum` is a function that `Library` gives to SQLite.
OLD_PHOTOS = "checksum(id, sha256, width, height, added, {removed})"
SUMS = {
    "photos": "checksum(id, sha256, width, height, added, {removed}, reading)",
    "places": "checksum(rowid, path, photo, size, mtime_ns, added, {removed})",
}
_UNDER = "(path = :name OR (path >= :inside AND path < :beyond))"
_NEAR = "(path >= :first AND path < :beyond)"
_WITH_LOOK_ALIKES = " OR ".join(f"instr(path, x'{c.encode().hex()}')" for c in LOOK_ALIKES)
_PHOTOS = f"SELECT id FROM photos WHERE {SEEN}"
_PLACED = f"SELECT photo AS id FROM places WHERE {SEEN}"


def _place(path: bytes, size: int, mtime_ns: int) -> Place:
    return Place(Path(os.fsdecode(path)), size, mtime_ns)


def row_sum(template: str, removed: str = "removed") -> str:
    """SQL for a row's checksum."""
    return template.format(removed=removed)


def checksum_of(*values: object) -> int:
    """Return the checksum of a row's values; SQLite calls it `checksum`."""
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
        ((version,),) = self._rows("PRAGMA user_version")
        self._old = version < VERSION
        self._sums = {**SUMS, "photos": OLD_PHOTOS} if self._old else SUMS

    def is_unchanged(self, path: Path, size: int, mtime_ns: int) -> bool:
        """Tell whether a file is known with this size and date, so that it need not be read."""
        query = (
            "SELECT 1 FROM places "
            f"WHERE path = :path AND size = :size AND mtime_ns = :mtime_ns AND {SEEN}"
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
        query = f"SELECT rowid FROM places WHERE {_UNDER} AND {SEEN}"
        return [row for (row,) in self._rows(query, **_bounds(path))]

    def files_under(self, path: Path) -> list[Path]:
        """Return the file of a name, or all files of a folder, as `Where` finds them.

        The name may be in another normal form, or lead there through links.
        """
        where = Where(path)
        files = map(Path, map(os.fsdecode, self._files_near(where).values()))
        return [file for file in files if where.below_folder(file) is not None]

    def folders_under(self, top: Path) -> set[str]:
        """Return the normalised names of the folders directly under one that hold photos."""
        where = Where(top)
        folders = {os.path.dirname(file) for file in self._files_near(where).values()}
        below = (where.below_folder(os.fsdecode(folder)) for folder in folders)
        return {rest.partition(os.sep)[0] for rest in below if rest}

    def all_places(self) -> list[int]:
        """Return the rows of all files."""
        return [row for (row,) in self._rows(f"SELECT rowid FROM places WHERE {SEEN}")]

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
        ((photos,),) = self._rows(f"SELECT COUNT(*) FROM photos WHERE {SEEN}")
        ((places,),) = self._rows(f"SELECT COUNT(*) FROM places WHERE {SEEN}")
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
            query = f"SELECT COUNT(*) FROM {table} WHERE checked != {row_sum(checksum)}"
            if count := self._rows(query)[0][0]:
                found.append(f"{count} rows of {table} are not what was written")
        return found

    def _files_near(self, where: Where) -> dict[int, bytes]:
        """Rows and names of all files of a folder, and of some others; see `_near`."""
        found: dict[int, bytes] = {}
        for condition, values in _near(where):
            query = f"SELECT rowid, path FROM places WHERE {condition} AND {SEEN}"
            found |= self._rows(query, **values)
        return found

    def _whole(self, table: str, columns: str, which: str, **values: object) -> list[tuple]:
        """Columns of the rows that are seen, each of which is what was written."""
        where, order, by = which.partition(" ORDER BY ")
        query = (
            f"SELECT checked = {row_sum(self._sums[table])}, {columns} FROM {table} "
            f"WHERE {where} AND {SEEN}{order}{by}"
        )
        rows = self._rows(query, **values)
        if not all(row[0] for row in rows):
            raise sqlite3.DatabaseError(f"a row of {table} is not what was written")
        return [row[1:] for row in rows]

    def _rows(self, query: str, **values: object) -> list[tuple]:
        with self._turn:
            return self._connection.execute(query, {"now": self._now, **values}).fetchall()
