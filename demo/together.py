"""The library and a visit searched as if they were one index."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from demo.visits import Visit

if TYPE_CHECKING:
    from index import Hit, PhotoIndex, Where

Known = tuple[bool, int]  # whether a photo is the visit's, and its number there


class Together:
    """What one visitor can find.

    Parameters
    ----------
    index : PhotoIndex
        Of the library.
    visit : Visit, optional
        The visitor's.
    """

    def __init__(self, index: "PhotoIndex", visit: Visit | None) -> None:
        self._index, self._visit = index, visit

    def nearest(
        self, query: np.ndarray, count: int, where: "Where | None", but: Known | None = None
    ) -> list["Hit"]:
        """Return the best photos of both, by similarity; the library's come first among equals.

        Parameters
        ----------
        query : np.ndarray
            ``[d]`` or ``[Q, d]``; see `PhotoIndex.nearest`.
        count : int
            Photos wanted.
        where : Where, optional
            Only among these files.
        but : Known, optional
            A photo to leave out.

        Returns
        -------
        list of Hit
            ``count`` of them unless there are fewer.
        """
        asked = count + (but is not None)
        while True:
            shared = self._index.nearest(query, asked, where)
            own = [] if self._visit is None else self._visit.nearest(query, asked, where)
            # Copies of one upload have its digest for a folder: what both hold is shown once.
            copied = {hit.path.parent.name for hit in shared}
            kept = shared + [hit for hit in own if hit.path.parent.name not in copied]
            kept = [hit for hit in kept if (self._is_own(hit.path), hit.photo) != but]
            if len(kept) >= count or max(len(shared), len(own)) < asked:
                return sorted(kept, key=lambda hit: -hit.score)[:count]
            asked *= 2

    def embeddings_of(self, hits: Sequence["Hit"]) -> np.ndarray:
        """Return the embeddings of hits of both: ``[len(hits), Q, d]`` float32."""
        retriever = self._index.retriever
        found = np.zeros((len(hits), retriever.num_queries, retriever.dim), dtype=np.float32)
        own = np.array([self._is_own(hit.path) for hit in hits], dtype=bool)  # [n]
        for home, rows in ((self._index, np.flatnonzero(~own)), (self._visit, np.flatnonzero(own))):
            if len(rows):
                found[rows] = home.embeddings_of([hits[row] for row in rows])
        return found

    def kept(self, path: Path) -> tuple[Known, np.ndarray] | None:
        """Return which photo a file holds, and its embeddings ``[Q, d]``; None if none of both."""
        from index.lookup import kept_photo

        own = self._is_own(path)
        found = self._visit.kept(path) if own else kept_photo(self._index.folder, path)
        return None if found is None else ((own, found[0]), found[1])

    def _is_own(self, path: Path) -> bool:
        return self._visit is not None and self._visit.holds(path)
