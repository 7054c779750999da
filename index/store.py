"""The vectors of an index: a small interface with two implementations.

The similarity of a query and a photo is the *best* of the photo's Q vectors, not that of their
mean. `index.segment_store` keeps the vectors in files of the index folder, `index.qdrant_store` in
a Qdrant server.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from index.manifest import IndexFileError

SEARCHES = ("auto", "exhaustive", "candidates")
CANDIDATES_FROM = 20_000  # photos; fewer are compared one and all
WRITTEN_AT_ONCE = 1024  # photos


class Embeddings(Protocol):
    """Rows ``[n, Q, d]``: an array, or something that reads them when a slice is taken."""

    def __len__(self) -> int:
        """Return the number of photos."""

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some of them."""


class VectorStore(Protocol):
    """What the index needs of a store. Scores are inner products of unit vectors."""

    kind: str  # shown by `info`
    search: str  # one of `SEARCHES`, as it was asked for

    def __len__(self) -> int:
        """Return the number of photos."""

    def ids(self) -> np.ndarray:
        """Return the photo ids, ascending: ``[N]`` int64."""

    def changed(
        self, generation: int, ids: Sequence[int], embeddings: Embeddings, removed: Sequence[int]
    ) -> "VectorStore":
        """Return a store without ``removed`` and with new photos; readers of this one go on."""

    @property
    def position(self) -> int:
        """Where the store writes next, for `merged`."""

    def merged(self, position: int) -> "VectorStore":
        """Return a store in which what was written from a position on is one piece."""

    def emptied(self, generation: int, queries: int, dim: int) -> "VectorStore":
        """Return a store without photos, for embeddings of a shape; readers of this one go on."""

    def nearest(
        self, query: np.ndarray, count: int, among: np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """Return the best photos for a query ``[d]`` or ``[A, d]`` as (photo id, score)."""

    def embeddings_of(self, photo: int) -> np.ndarray:
        """Return a photo's vectors, ``[Q, d]`` float32."""

    def manifest(self) -> dict:
        """Return what the manifest keeps of it."""

    def files(self) -> set[str]:
        """Return the names of its files in the index folder."""

    def size(self) -> int:
        """Return the bytes that its embeddings take."""

    def damage(self) -> list[str]:
        """Tell what is wrong with it, looking at everything."""


def new_store(
    folder: Path, library: str, shape: tuple[int, int], search: str, address: str | None
) -> VectorStore:
    """Make a store without photos.

    Parameters
    ----------
    folder : Path
        Of the index.
    library : str
        Its unique name.
    shape : tuple of int
        ``(Q, d)``.
    search : str
        One of `SEARCHES`.
    address : str, optional
        Of a Qdrant server; files in the folder unless given.

    Returns
    -------
    VectorStore
    """
    if search not in SEARCHES:
        raise IndexFileError(
            f"There is no search called {search}; choose of {', '.join(SEARCHES)}."
        )
    if address is None:
        from index.segment_store import SegmentStore

        return SegmentStore(folder, *shape, search=search)
    from index.qdrant_store import QdrantStore

    return QdrantStore.create(address, f"blip2-{library}", *shape, search)


def open_store(
    folder: Path, shape: tuple[int, int], kept: dict, photos: np.ndarray | None
) -> VectorStore:
    """Open the store that a manifest names.

    Parameters
    ----------
    folder : Path
        Of the index.
    shape : tuple of int
        ``(Q, d)``.
    kept : dict
        From :meth:`VectorStore.manifest`.
    photos : np.ndarray, optional
        Ids of those in the index, ascending, where files hold more.

    Raises
    ------
    IndexFileError
        It is damaged or does not answer.
    FileNotFoundError
        A file is not there.
    """
    if kept["kind"] == "qdrant":
        from index.qdrant_store import QdrantStore

        return QdrantStore.open(*shape, kept)
    from index.segment_store import SegmentStore

    return SegmentStore.open(folder, *shape, kept, photos)


def unit_parts(
    ids: Sequence[int], embeddings: Embeddings, shape: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Photos and their embeddings, some at a time, each looked at.

    Parameters
    ----------
    ids : sequence of int
        Photos.
    embeddings : Embeddings
        As many.
    shape : tuple of int
        ``(Q, d)``.

    Yields
    ------
    np.ndarray, np.ndarray
        ``[m]`` int64 and ``[m, Q, d]``.

    Raises
    ------
    ValueError
        They are not of this shape, or not finite and of unit length.
    """
    if len(ids) != len(embeddings):
        raise ValueError(f"expected embeddings of {len(ids)} photos, got {len(embeddings)}")
    for start in range(0, len(ids), WRITTEN_AT_ONCE):
        some = np.asarray(ids[start : start + WRITTEN_AT_ONCE], dtype=np.int64)
        part = embeddings[start : start + WRITTEN_AT_ONCE]
        if part.shape != (len(some), *shape):
            raise ValueError(f"expected embeddings {(len(some), *shape)}, got {part.shape}")
        # The margin of a search holds for unit vectors only; NaN fails this test as well.
        lengths = np.einsum("nqd,nqd->nq", part, part, dtype=np.float32, casting="same_kind")
        if not (np.abs(lengths - 1) < 1e-2).all():
            raise ValueError("embeddings must be finite and of unit length")
        yield some, part
