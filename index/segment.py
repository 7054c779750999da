"""A segment: photos' embeddings in half precision, in a file that is never changed.

Its files are named by its number: ``embeddings-N.npy``, ``[n, Q, d]``, is mapped into memory, so
that opening it takes no time and searching reads what it needs; ``rows-N.npy`` says which photo
each row is and holds a checksum of its embeddings, which is compared when they are first read: a
damaged photo is noticed before it is ranked, without reading all of them first. Large segments have
``candidates-N.faiss``, too, which names photos worth looking at (:mod:`index.candidates`).
"""

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from index.candidates import Candidates
from index.manifest import IndexFileError, file_sha256, write_aside

BLOCK = 128  # photos that are scored at once: what they take stays in the processor's cache
ROW = np.dtype([("photo", "<i8"), ("check", "<u4")])


@dataclass(frozen=True)
class SegmentRecord:
    """What the manifest says of a segment.

    Parameters
    ----------
    number : int
        Drawn once; names the files.
    photos : int
        Rows, those of photos that were removed since included.
    bytes, sha256 : int, str
        Of the embeddings file.
    rows_sha256, candidates_sha256 : str
        Of the others; "" where there is none.
    """

    number: int
    photos: int
    bytes: int
    sha256: str
    rows_sha256: str
    candidates_sha256: str = ""

    def files(self) -> list[str]:
        """Names of its files."""
        names = [f"embeddings-{self.number}.npy", f"rows-{self.number}.npy"]
        return names + ([f"candidates-{self.number}.faiss"] if self.candidates_sha256 else [])


class Segment:
    """A segment on the disk, open for searching.

    Parameters
    ----------
    folder : Path
        Of the index.
    record : SegmentRecord
        What it must hold.
    queries, dim : int
        Vectors of a photo, and their width.

    Attributes
    ----------
    photos : np.ndarray
        ``[n]`` int64, the photo of each row, ascending.

    Raises
    ------
    IndexFileError
        A file is damaged or of another segment.
    FileNotFoundError
        One is not there.
    """

    def __init__(self, folder: Path, record: SegmentRecord, queries: int, dim: int) -> None:
        self.folder, self.record = folder, record
        paths = [folder / name for name in record.files()]
        _check(paths[1], record.rows_sha256)
        size = paths[0].stat().st_size
        if size != record.bytes:
            raise _damage(paths[0], f"{size:,} bytes instead of {record.bytes:,}")
        shape = (record.photos, queries, dim)
        header = _header(shape)  # compared and not parsed: no checksum covers it
        with paths[0].open("rb") as file:
            if file.read(len(header)) != header:
                raise _damage(paths[0], f"it does not begin as one of {shape} does")
        # Copy on write: torch wants memory that could be written, the file stays as it is.
        self.embeddings = np.memmap(paths[0], "<f2", "c", len(header), shape)
        table = np.load(paths[1], allow_pickle=False)
        if table.dtype != ROW or table.shape != (record.photos,):
            raise _damage(paths[1], "it holds something else")
        self.photos, self._checks = table["photo"].copy(), table["check"].copy()
        self._compared = np.zeros(record.photos, dtype=bool)
        self.candidates = None
        if record.candidates_sha256:
            _check(paths[2], record.candidates_sha256)
            self.candidates = Candidates.load(paths[2], queries, dim, record.photos)

    def __len__(self) -> int:
        return len(self.photos)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of rows, compared with their checksums when they are first read.

        Parameters
        ----------
        rows : np.ndarray
            ``[n]``.

        Returns
        -------
        np.ndarray
            ``[n, Q, d]`` float16.

        Raises
        ------
        IndexFileError
            A row is damaged.
        """
        self._compare(rows)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return self.embeddings[rows[0] : rows[-1] + 1]  # not copied
        return self.embeddings[rows]

    def likely(self, query: np.ndarray, vectors: int, probes: int) -> np.ndarray:
        """Rows of the photos that may be nearest, those with the best single vector first.

        Parameters
        ----------
        query : np.ndarray
            ``[A, d]`` float32; the photos of several vectors take turns.
        vectors, probes : int
            For `Candidates.vectors`.

        Returns
        -------
        np.ndarray
            ``[n]``, each row once.
        """
        import torch

        found = self.candidates.vectors(query, vectors, probes)  # [A, V]
        queries, dim = self.embeddings.shape[1:]
        self._compare(found[found >= 0] // queries)
        flat = self.embeddings.reshape(-1, dim)
        for one, own in zip(query, found, strict=True):
            there = own[own >= 0]
            scores = torch.from_numpy(flat[there]).float() @ torch.from_numpy(one)  # [V]
            own[: len(there)] = there[np.argsort(-scores.numpy(), kind="stable")]
        turns = found.T.ravel()  # the best of each, then the second of each
        rows = turns[turns >= 0] // queries
        _, first = np.unique(rows, return_index=True)
        return rows[np.sort(first)]

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Similarities of rows, to within rounding: the best of each row's ``Q`` cosines.

        Parameters
        ----------
        query : np.ndarray
            ``[A, d]`` float32; of several vectors, the mean over what is best for each.
        rows : np.ndarray
            ``[n]``.

        Returns
        -------
        np.ndarray
            ``[n]`` float32.
        """
        import torch  # late: `info` and `verify` need none

        best = np.empty(len(rows), dtype=np.float32)
        asked = torch.from_numpy(query).T.contiguous()  # [d, A]
        room = torch.empty(BLOCK, *self.embeddings.shape[1:])
        for start in range(0, len(rows), BLOCK):
            some = torch.from_numpy(self.read(rows[start : start + BLOCK]))  # [n, Q, d]
            wide = room[: len(some)].copy_(some)
            best[start : start + BLOCK] = (wide @ asked).amax(1).mean(1).numpy()
        return best

    def _compare(self, rows: np.ndarray) -> None:
        """Compare rows with their checksums, those that were not yet."""
        for row in np.unique(rows[~self._compared[rows]]):
            if zlib.crc32(self.embeddings[row]) != self._checks[row]:
                path = self.folder / self.record.files()[0]
                raise _damage(path, f"photo {self.photos[row]} is not what was written")
        self._compared[rows] = True

    def damage(self) -> list[str]:
        """What is wrong with the files, read as a whole."""
        path = self.folder / self.record.files()[0]
        with path.open("rb") as file:
            if file_sha256(file) != self.record.sha256:
                return [f"{path.name} is not what was written"]
        return []


def exact_scores(query: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Similarities as `Segment.scores` gives them, so that equal embeddings have equal ones.

    A matrix product may sum in an order that depends on the row, which would break ties by chance;
    a sum along the last axis has one order for all rows.

    Parameters
    ----------
    query : np.ndarray
        ``[A, d]``.
    embeddings : np.ndarray
        ``[n, Q, d]``.

    Returns
    -------
    np.ndarray
        ``[n]`` float32.
    """
    vectors = embeddings.astype(np.float64)  # [n, Q, d]
    best = [(vectors * one.astype(np.float64)).sum(axis=-1).max(axis=-1) for one in query]
    return np.mean(best, axis=0).astype(np.float32)


def write_segment(
    folder: Path,
    number: int,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    with_candidates: bool,
) -> SegmentRecord:
    """Write a segment's files, aside and synced.

    Parameters
    ----------
    folder : Path
        Of the index.
    number : int
        No other segment's.
    parts : iterable of (np.ndarray, np.ndarray)
        Photos ``[m]``, ascending over all parts, and their embeddings ``[m, Q, d]``, rounded to
        half precision here.
    shape : tuple of int
        ``(n, Q, d)`` of all of them.
    with_candidates : bool
        Whether to make an index of candidates.

    Returns
    -------
    SegmentRecord
    """
    photos, checks = [], []
    record = SegmentRecord(number, shape[0], 0, "", "", "-" if with_candidates else "")
    paths = [folder / name for name in record.files()]

    digest = hashlib.sha256()  # of what is written, which may be too much to be read again

    def write(file: BinaryIO) -> None:
        header = _header(shape)
        digest.update(header)
        file.write(header)
        for ids, embeddings in parts:
            halves = np.ascontiguousarray(embeddings, dtype="<f2")
            photos.append(np.asarray(ids, dtype=np.int64))
            checks.append(np.array([zlib.crc32(own) for own in halves], dtype=np.uint32))
            digest.update(halves)
            file.write(halves)

    write_aside(paths[0], write)
    table = np.empty(shape[0], dtype=ROW)
    table["photo"], table["check"] = np.concatenate(photos), np.concatenate(checks)
    write_aside(paths[1], lambda file: np.save(file, table, allow_pickle=False))
    sums = ["", ""]
    if with_candidates:
        embeddings = np.load(paths[0], mmap_mode="r", allow_pickle=False)
        Candidates.build(embeddings).save(paths[2])
    for place, path in enumerate(paths[1:]):
        with path.open("rb") as file:
            sums[place] = file_sha256(file)
    return SegmentRecord(number, shape[0], paths[0].stat().st_size, digest.hexdigest(), *sums)


def _header(shape: tuple[int, int, int]) -> bytes:
    """How a file of embeddings begins, as NumPy writes it."""
    file = BytesIO()
    fields = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        if file_sha256(file) != sha256:
            raise _damage(path, "its SHA-256 does not match the manifest's")


def _damage(path: Path, what: str) -> IndexFileError:
    return IndexFileError(
        f"The file {path} of the index is damaged ({what}); "
        "restore the index from a copy or build it anew in another folder."
    )
