"""Vectors of photos and the search over them: a small interface and its FAISS implementation.

The similarity of a query and a photo is the *best* of the photo's Q vectors. FAISS ranks single
vectors, so the work here is to get from those to photos without losing one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import faiss
import numpy as np

from index.manifest import IndexFileError, file_sha256, write_aside

_RESCORED_AT_ONCE = 256  # photos; bounds the memory of exact scores


class VectorStore(Protocol):
    """What `index.search` needs of a store. Scores are inner products of unit vectors."""

    kind: str  # shown by `info`

    def __len__(self) -> int:
        """Return the number of photos."""

    def ids(self) -> np.ndarray:
        """Return the photo ids, ascending: ``[N]`` int64."""

    def changed(
        self, ids: Sequence[int], embeddings: np.ndarray, removed: Sequence[int]
    ) -> "VectorStore":
        """Return a copy without ``removed`` and with new photos; readers of this one go on."""

    def nearest(self, query: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the best photos for a query ``[d]`` as (photo id, score), best first."""

    def save(self, path: Path) -> tuple[int, str]:
        """Write the store to a file; returns its size in bytes and its SHA-256."""


class FlatStore:
    """All query vectors of all photos in one FAISS index, searched in full: exact.

    Vector ``photo id * Q + q`` is the q-th query of a photo.

    Parameters
    ----------
    queries, dim : int
        Vectors of a photo, and their width.
    """

    kind = "flat (FAISS IndexFlatIP, exhaustive and exact)"

    def __init__(self, queries: int, dim: int) -> None:
        self.queries = queries
        self.dim = dim
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def __len__(self) -> int:
        return self._index.ntotal // self.queries

    def ids(self) -> np.ndarray:
        """Return the photo ids, ascending.

        Returns
        -------
        np.ndarray
            ``[N]`` int64.
        """
        return np.unique(faiss.vector_to_array(self._index.id_map) // self.queries)

    def changed(
        self, ids: Sequence[int], embeddings: np.ndarray, removed: Sequence[int]
    ) -> "FlatStore":
        """Return a changed copy; this store stays as it is, so that searches can go on in it.

        Parameters
        ----------
        ids : sequence of int
            New photos.
        embeddings : np.ndarray
            ``[len(ids), Q, d]`` float32, unit length.
        removed : sequence of int
            Photos to leave out.

        Returns
        -------
        FlatStore
        """
        if embeddings.shape != (len(ids), self.queries, self.dim):
            raise ValueError(
                f"expected embeddings {(len(ids), self.queries, self.dim)}, got {embeddings.shape}"
            )
        vectors = np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1, self.dim)
        # The margin of `nearest` holds for unit vectors only; NaN fails this test as well.
        if not (np.abs((vectors**2).sum(axis=1) - 1) < 1e-2).all():
            raise ValueError("embeddings must be finite and of unit length")
        copy = FlatStore(self.queries, self.dim)
        copy._index = faiss.clone_index(self._index)
        if len(removed):
            copy._index.remove_ids(self._vector_ids(removed))
        if len(ids):
            copy._index.add_with_ids(vectors, self._vector_ids(ids))
        return copy

    def nearest(self, query: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the best photos for a query, exactly.

        The best k vectors may belong to fewer than ``count`` photos, since siblings crowd together,
        so k is doubled until enough photos are found. It is doubled also until the worst vector
        found lies below the last photo wanted by more than rounding can move a score: FAISS returns
        equal vectors in no promised order, and only then can no photo outside tie with one inside.
        Then all Q vectors of every candidate are scored again in one fixed order of summation.

        Parameters
        ----------
        query : np.ndarray
            ``[d]`` float32, unit length.
        count : int
            Photos wanted.

        Returns
        -------
        list of (int, float)
            Photo id and score, best first, ties by photo id; shorter than ``count`` only if the
            store holds fewer photos.
        """
        query = np.ascontiguousarray(query, dtype=np.float32)
        assert query.shape == (self.dim,), f"expected a query [{self.dim}], got {query.shape}"
        total = self._index.ntotal
        count = min(count, len(self))
        if count < 1:
            return []
        # A dot product of d unit-length float32 terms is off by at most d * 2**-24, in any order.
        margin = 2.1 * (self.dim + 2) * 2.0**-24
        k = min(total, max(64, 8 * count))
        while True:
            scores, vectors = self._index.search(query[None], k)  # [1, k] each, best first
            photos, first = np.unique(vectors[0] // self.queries, return_index=True)
            if k == total:
                break
            if len(photos) >= count:
                last_wanted = np.sort(scores[0][first])[-count]
                if scores[0, -1] < last_wanted - margin:
                    break
            k = min(total, 2 * k)
        exact = self._exact_scores(query, photos)
        order = np.lexsort((photos, -exact))[:count]
        return [(int(photos[i]), float(exact[i])) for i in order]

    def save(self, path: Path) -> tuple[int, str]:
        """Write the vectors to a file, aside and synced.

        Parameters
        ----------
        path : Path
            Its final name.

        Returns
        -------
        int, str
            Size in bytes and SHA-256 of what was meant to be written.
        """
        digest = hashlib.sha256()
        size = 0

        def write(file: BinaryIO) -> None:
            def write_piece(piece: bytes) -> int:
                nonlocal size
                digest.update(piece)
                size += len(piece)
                return file.write(piece)

            faiss.write_index(self._index, faiss.PyCallbackIOWriter(write_piece))

        write_aside(path, write)
        return size, digest.hexdigest()

    @classmethod
    def load(
        cls, path: Path, *, queries: int, dim: int, photos: int, size: int, sha256: str
    ) -> "FlatStore":
        """Read vectors, having made sure that they are the ones that were written.

        Parameters
        ----------
        path : Path
            The file.
        queries, dim, photos : int
            What it must hold.
        size, sha256 : int, str
            What `save` returned.

        Returns
        -------
        FlatStore

        Raises
        ------
        IndexFileError
            If the file is damaged or holds something else.
        FileNotFoundError
            If it is not there.
        """
        damaged = (
            f"The vectors file {path} is damaged ({{}}); "
            "restore the index from a copy or build it anew in another folder."
        )
        with path.open("rb") as file:
            if (found := path.stat().st_size) != size:
                raise IndexFileError(damaged.format(f"{found:,} bytes instead of {size:,}"))
            if file_sha256(file) != sha256:
                raise IndexFileError(damaged.format("its SHA-256 does not match the manifest's"))
            file.seek(0)
            try:
                index = faiss.read_index(faiss.PyCallbackIOReader(file.read))
            except RuntimeError as error:
                raise IndexFileError(damaged.format("FAISS cannot read it")) from error
        store = cls(queries, dim)
        if (
            not isinstance(index, faiss.IndexIDMap2)
            or not isinstance(faiss.downcast_index(index.index), faiss.IndexFlatIP)
            or (index.d, index.ntotal) != (dim, photos * queries)
        ):
            raise IndexFileError(damaged.format("it does not hold what the manifest says"))
        store._index = index
        return store

    def _vector_ids(self, photos: Sequence[int] | np.ndarray) -> np.ndarray:
        first = np.asarray(photos, dtype=np.int64)[:, None] * self.queries
        return (first + np.arange(self.queries)).reshape(-1)  # [N * Q]

    def _exact_scores(self, query: np.ndarray, photos: np.ndarray) -> np.ndarray:
        """Score photos by all their vectors, so that equal vectors get equal scores.

        A matrix product may sum in an order that depends on the row, which would break ties by
        chance; a sum along the last axis has one order for all rows.
        """
        best = np.empty(len(photos), dtype=np.float32)
        wide = query.astype(np.float64)
        for start in range(0, len(photos), _RESCORED_AT_ONCE):
            some = photos[start : start + _RESCORED_AT_ONCE]
            vectors = self._index.reconstruct_batch(self._vector_ids(some))  # [n * Q, d]
            scores = (vectors * wide).sum(axis=-1).reshape(len(some), self.queries)
            best[start : start + len(some)] = scores.max(axis=1)
        return best
