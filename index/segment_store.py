"""The store of an index in files of its folder: segments, searched exhaustively or by candidates.

Few photos are all compared with a query; of many, FAISS names some hundreds that are then compared
exactly (:mod:`index.segment`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from index.segment import BLOCK, Segment, SegmentRecord, exact_scores, write_segment
from index.store import CANDIDATES_FROM, Embeddings, unit_parts

FANOUT = 8  # segments of like size that are put together into one
TRAINABLE = 1024  # vectors that FAISS can be trained on, whatever was asked for
DEAD = 0.3  # share of removed photos from which a segment is written anew
# What is looked into, in a segment of 100,000 photos: a share of its lists, vectors by their codes,
# photos that are then compared. The latter two grow as the root of its size, for the same recall.
PROBED, VECTORS, COMPARED = 3 / 16, 1536, 192
WRITTEN_AT_ONCE = 1024  # photos


class SegmentStore:
    """Segments of photos in an index folder, none of which is ever changed.

    New photos become a new segment; segments of like size are put together when there are
    ``FANOUT`` of them, so that there are few, and each photo is written again a few times only.

    Parameters
    ----------
    folder : Path
        Of the index.
    queries, dim : int
        Vectors of a photo, and their width.
    segments : sequence of Segment
        Open.
    photos : np.ndarray, optional
        ``[N]`` int64, ascending: those that are in the index; by default all of the segments'.
    search : str
        ``"auto"``, or ``"exhaustive"`` or ``"candidates"`` whatever the size (but for segments of
        some dozen photos, which are always compared one and all).
    following : int
        Number of the next segment; none is used twice.
    """

    def __init__(
        self,
        folder: Path,
        queries: int,
        dim: int,
        segments: Sequence[Segment] = (),
        photos: np.ndarray | None = None,
        search: str = "auto",
        following: int = 1,
    ) -> None:
        self.folder, self.queries, self.dim, self.search = folder, queries, dim, search
        self._following = following
        self.segments = list(segments)
        written = (
            np.concatenate([s.photos for s in segments]) if segments else np.empty(0, np.int64)
        )
        self._photos = np.sort(written) if photos is None else photos
        # Rows of each segment that are in the index; None where all of them are.
        self._live = [
            None
            if len(self._photos) == len(written)
            else np.flatnonzero(_within(s.photos, self._photos))
            for s in segments
        ]

    @classmethod
    def open(
        cls, folder: Path, queries: int, dim: int, kept: dict, photos: np.ndarray | None
    ) -> "SegmentStore":
        """Open the segments that a manifest names.

        Parameters
        ----------
        folder, queries, dim
            As for the class.
        kept : dict
            From :meth:`manifest`.
        photos : np.ndarray, optional
            Those in the index, ascending, where some were removed.

        Raises
        ------
        IndexFileError
            A file is damaged.
        FileNotFoundError
            One is not there.
        """
        segments = [
            Segment(folder, SegmentRecord(**record), queries, dim) for record in kept["segments"]
        ]
        return cls(folder, queries, dim, segments, photos, kept["search"], kept["following"])

    @property
    def kind(self) -> str:
        """How it searches, for `info`."""
        fast = [s.candidates.kind for s in self.segments if s.candidates is not None]
        if not fast:
            return "exhaustive: every photo is compared, exactly"
        return f"{fast[0]} names candidates in {len(fast)} of {len(self.segments)} segments, " \
            "which are compared exactly"  # fmt: skip

    def __len__(self) -> int:
        return len(self._photos)

    def ids(self) -> np.ndarray:
        """Return the photo ids, ascending.

        Returns
        -------
        np.ndarray
            ``[N]`` int64.
        """
        return self._photos

    def manifest(self) -> dict:
        """Return what the manifest keeps of it."""
        return {
            "kind": "segments",
            "search": self.search,
            "following": self._following,
            "segments": [asdict(segment.record) for segment in self.segments],
        }

    def files(self) -> set[str]:
        """Return the names of its files in the index folder."""
        return {name for segment in self.segments for name in segment.record.files()}

    def size(self) -> int:
        """Bytes of its embeddings on the disk."""
        return sum(segment.record.bytes for segment in self.segments)

    def changed(
        self, generation: int, ids: Sequence[int], embeddings: Embeddings, removed: Sequence[int]
    ) -> "SegmentStore":
        """Return a changed store; this one stays as it is, so that searches can go on in it.

        Parameters
        ----------
        generation : int
            Of the index with the changed store; the names of segments tell them apart without it.
        ids : sequence of int
            New photos, ascending, all above those in the store.
        embeddings : Embeddings
            ``[len(ids), Q, d]``, unit length.
        removed : sequence of int
            Photos to leave out.

        Returns
        -------
        SegmentStore
            Its new files are written; they are part of the index once a manifest names them.
        """
        kept = self._photos[~np.isin(self._photos, np.asarray(removed, dtype=np.int64))]
        photos = np.concatenate([kept, np.asarray(ids, dtype=np.int64)])
        writer = _Writer(self.folder, self.queries, self.dim, self.search, self._following)
        segments = list(self.segments)
        if len(ids):
            parts = unit_parts(ids, embeddings, (self.queries, self.dim))
            segments.append(writer.write(parts, len(ids)))
        segments = writer.put_together(segments, photos)
        return SegmentStore(
            self.folder, self.queries, self.dim, segments, photos, self.search, writer.following
        )

    @property
    def position(self) -> int:
        """Number of the next segment."""
        return self._following

    def merged(self, position: int) -> "SegmentStore":
        """Return a store in which the segments of one build are one segment.

        Parameters
        ----------
        position : int
            `position` of the store before the build.

        Returns
        -------
        SegmentStore
            This one where there is nothing to merge.
        """
        own = [segment for segment in self.segments if segment.record.number >= position]
        if len(own) < 2:
            return self
        writer = _Writer(self.folder, self.queries, self.dim, self.search, self._following)
        others = [segment for segment in self.segments if segment.record.number < position]
        segments = writer.put_together([*others, writer.merge(own, self._photos)], self._photos)
        return SegmentStore(
            self.folder,
            self.queries,
            self.dim,
            segments,
            self._photos,
            self.search,
            writer.following,
        )

    def emptied(self, generation: int, queries: int, dim: int) -> "SegmentStore":
        """Return a store without photos, for embeddings of another shape.

        Parameters
        ----------
        generation : int
            Of the index with that store; segments are told apart without it.
        queries, dim : int
            Vectors of a photo, and their width.
        """
        return SegmentStore(self.folder, queries, dim, [], None, self.search, self._following)

    def nearest(
        self, query: np.ndarray, count: int, among: np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """Return the best photos for a query.

        Photos that are compared, all or the candidates, are scored by a matrix product first. Those
        that rounding might put among the best are then scored again in one fixed order of
        summation: the result is that of comparing them one by one, ties by photo id.

        Parameters
        ----------
        query : np.ndarray
            ``[d]`` float32, unit length; or ``[A, d]``, several vectors of one photo, whose
            similarity is the mean over what is best for each.
        count : int
            Photos wanted.
        among : np.ndarray, optional
            ``[M]`` int64, ascending: only these photos.

        Returns
        -------
        list of (int, float)
            Photo id and score, best first; shorter than ``count`` only if there are fewer photos.
        """
        query = np.atleast_2d(np.ascontiguousarray(query, dtype=np.float32))
        assert query.shape[1:] == (self.dim,), f"expected [A, {self.dim}], got {query.shape}"
        if count < 1:
            return []
        # A dot product of d unit-length float32 terms is off by at most d * 2**-24, in any order.
        margin = np.float32(2.1 * (self.dim + 2) * 2.0**-24)
        photos, exact = [], []
        for segment, live in zip(self.segments, self._live, strict=True):
            rows = self._rows(segment, live, query, count, among)
            if not len(rows):
                continue
            scores = segment.scores(query, rows)
            if len(rows) > count:
                last = np.partition(scores, -count)[-count]
                rows = rows[scores >= last - margin]
            photos.append(segment.photos[rows])
            exact.append(_in_blocks(segment, query, rows))
        if not photos:
            return []
        found, scored = np.concatenate(photos), np.concatenate(exact)
        order = np.lexsort((found, -scored))[:count]
        return [(int(found[i]), float(scored[i])) for i in order]

    def embeddings_of(self, photo: int) -> np.ndarray:
        """Return a photo's vectors, ``[Q, d]`` float32.

        Raises
        ------
        KeyError
            The photo is not in the store.
        """
        for segment in self.segments:
            row = int(np.searchsorted(segment.photos, photo))
            if row < len(segment) and segment.photos[row] == photo:
                return segment.read(np.array([row]))[0].astype(np.float32)
        raise KeyError(photo)

    def damage(self) -> list[str]:
        """What is wrong with the files, read as a whole."""
        return [problem for segment in self.segments for problem in segment.damage()]

    def _rows(
        self,
        segment: Segment,
        live: np.ndarray | None,
        query: np.ndarray,
        count: int,
        among: np.ndarray | None,
    ) -> np.ndarray:
        """Rows of a segment to compare: all that may be found, or FAISS's candidates of them."""
        allowed = live
        if among is not None:
            inside = np.flatnonzero(_within(segment.photos, among))
            allowed = inside if live is None else np.intersect1d(inside, live, assume_unique=True)
        size = len(segment) if allowed is None else len(allowed)
        everything = np.arange(len(segment)) if allowed is None else allowed
        wide = max(0.5, (len(segment) / 100_000) ** 0.5)
        compared = max(int(COMPARED * wide), 8 * count)
        if len(query) > 1:  # the mean over several vectors is not led by any one of them
            compared *= 4
        if segment.candidates is None or size <= max(COMPARED * 16, compared):
            return everything
        vectors = max(int(VECTORS * wide), compared * 8) // len(query)
        probes = int(segment.candidates.index.nlist * PROBED)
        while True:
            rows = segment.likely(query, vectors, probes)
            if allowed is not None:
                rows = rows[_within(rows, allowed)]
            if len(rows) >= min(compared, size) // 4 or probes >= segment.candidates.index.nlist:
                break
            vectors, probes = vectors * 4, probes * 4  # siblings crowd, or few are allowed
        # Where even that leaves fewer photos than are wanted, all are compared.
        return rows[:compared] if len(rows) >= min(count, size) else everything


class _Writer:
    """Writes segments, each with the next number."""

    def __init__(self, folder: Path, queries: int, dim: int, search: str, following: int) -> None:
        self.folder, self.queries, self.dim = folder, queries, dim
        self.search, self.following = search, following

    def write(self, parts: Iterable, total: int) -> Segment:
        """A segment of photos and their embeddings, in parts."""
        number, self.following = self.following, self.following + 1
        enough = total * self.queries >= TRAINABLE
        fast = {"auto": total >= CANDIDATES_FROM, "exhaustive": False, "candidates": enough}
        record = write_segment(
            self.folder, number, parts, (total, self.queries, self.dim), fast[self.search]
        )
        return Segment(self.folder, record, self.queries, self.dim)

    def put_together(self, segments: list[Segment], photos: np.ndarray) -> list[Segment]:
        """Merge segments of like size where there are many, and drop what was removed."""
        live = [int(_within(s.photos, photos).sum()) for s in segments]
        segments = [s for s, count in zip(segments, live, strict=True) if count]
        live = [count for count in live if count]
        for position, (segment, count) in enumerate(zip(segments, live, strict=True)):
            if count < (1 - DEAD) * len(segment):
                segments[position] = self.merge([segment], photos)
        while True:
            tiers: dict[int, list[int]] = {}
            for position, count in enumerate(live):
                tiers.setdefault(int(np.log(max(count, 64)) / np.log(FANOUT)), []).append(position)
            crowded = next((rows for _, rows in sorted(tiers.items()) if len(rows) >= FANOUT), None)
            if crowded is None and self.search == "auto":
                # Many small segments: together they are worth FAISS's candidates.
                plain = [p for p, segment in enumerate(segments) if segment.candidates is None]
                if sum(live[p] for p in plain) >= CANDIDATES_FROM:
                    crowded = plain
            if crowded is None:
                return segments
            merged = self.merge([segments[position] for position in crowded], photos)
            left = [p for p in range(len(segments)) if p not in crowded]
            segments = [*(segments[p] for p in left), merged]
            live = [*(live[p] for p in left), len(merged)]

    def merge(self, segments: list[Segment], photos: np.ndarray) -> Segment:
        """One segment of those photos of several that are in an ascending array."""
        total = sum(int(_within(segment.photos, photos).sum()) for segment in segments)

        def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            # Photos of different segments may interleave; each part takes the lowest that are left.
            numbers = np.concatenate([np.full(len(s), i) for i, s in enumerate(segments)])
            rows = np.concatenate([np.arange(len(s)) for s in segments])
            ids = np.concatenate([s.photos for s in segments])
            kept = np.flatnonzero(_within(ids, photos))
            order = kept[np.argsort(ids[kept], kind="stable")]
            for start in range(0, len(order), WRITTEN_AT_ONCE):
                some = order[start : start + WRITTEN_AT_ONCE]
                block = np.empty((len(some), self.queries, self.dim), dtype=np.float16)
                for number, segment in enumerate(segments):
                    here = np.flatnonzero(numbers[some] == number)
                    if len(here):
                        block[here] = segment.read(rows[some[here]])
                yield ids[some], block

        return self.write(parts(), total)


def _in_blocks(segment: Segment, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Exact scores, a bounded number of photos at a time."""
    blocks = range(0, len(rows), BLOCK)
    return np.concatenate([exact_scores(query, segment.read(rows[b : b + BLOCK])) for b in blocks])


def _within(ids: np.ndarray, sorted_ids: np.ndarray) -> np.ndarray:
    """Which of ``ids`` are in an ascending array: ``[n]`` bool."""
    if not len(sorted_ids):
        return np.zeros(len(ids), dtype=bool)
    places = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return sorted_ids[places] == ids
