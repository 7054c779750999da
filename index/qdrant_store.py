"""The store of an index in a Qdrant server, for libraries that outgrow one machine.

A photo is one point with Q vectors, which Qdrant compares by MAX_SIM: for each vector that asks the
best of the photo's, added up, which is this package's similarity times the vectors that ask. The
server shards and replicates a collection over machines; the index folder keeps what little says
which points belong to it.

Every point carries the generation that ``added`` it and, once it is taken out, the one that
``removed`` it, as the rows in SQLite do (:mod:`index.library`): a search names its generation and
sees the points of that state alone. What a killed writer left is of a generation that no manifest
names; the next writer takes it back.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from index.manifest import IndexFileError
from index.store import CANDIDATES_FROM, Embeddings, unit_parts

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter

SENT_AT_ONCE = 64  # points a request: some 5 MB of JSON, for 32 vectors of 256 numbers
TIMEOUT = 60  # seconds
IN_MEMORY = ":memory:"  # the engine of the client library, gone with the process: for tests


@lru_cache(maxsize=8)
def connect(address: str) -> "QdrantClient":
    """Return the client of a server.

    Parameters
    ----------
    address : str
        ``http://host:6333`` or ``https://...``; the environment's ``QDRANT_API_KEY`` is its key.

    Returns
    -------
    QdrantClient

    Raises
    ------
    IndexFileError
        The library is not installed, or it is no address.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise IndexFileError(
            "An index in Qdrant needs its client library; install it with "
            "`pip install qdrant-client`."
        ) from error
    if address == IN_MEMORY:
        return QdrantClient(IN_MEMORY)
    key = os.environ.get("QDRANT_API_KEY") or None
    try:
        return QdrantClient(url=address, api_key=key, timeout=TIMEOUT, check_compatibility=False)
    except ValueError as error:
        raise IndexFileError(
            f"{address} is not the address of a Qdrant server ({error}); give one such as "
            "http://localhost:6333."
        ) from error


@dataclass(frozen=True)
class QdrantStore:
    """The points of a collection at one generation.

    Parameters
    ----------
    address, collection : str
        Where they are.
    queries, dim : int
        Vectors of a photo, and their width.
    search : str
        ``"exhaustive"``, ``"candidates"`` (Qdrant's HNSW), or ``"auto"`` by size.
    generation : int
        Of the index when its vectors were last changed.
    photos : int
        How many there are.
    """

    address: str
    collection: str
    queries: int
    dim: int
    search: str
    generation: int
    photos: int

    @classmethod
    def create(
        cls, address: str, collection: str, queries: int, dim: int, search: str
    ) -> "QdrantStore":
        """Make a collection.

        Raises
        ------
        IndexFileError
            The server does not answer or refuses.
        """
        client = connect(address)
        from qdrant_client import models

        with _answered(address):
            client.create_collection(
                collection,
                vectors_config=models.VectorParams(
                    size=dim,
                    distance=models.Distance.DOT,  # of unit vectors: the cosine
                    datatype=models.Datatype.FLOAT16,
                    on_disk=True,
                    multivector_config=models.MultiVectorConfig(
                        comparator=models.MultiVectorComparator.MAX_SIM
                    ),
                ),
            )
            if address != IN_MEMORY:  # which has no indexes of payload
                for name in ("added", "removed"):
                    client.create_payload_index(
                        collection, name, models.PayloadSchemaType.INTEGER, wait=True
                    )
        return cls(address, collection, queries, dim, search, 0, 0)

    @classmethod
    def open(cls, queries: int, dim: int, kept: dict) -> "QdrantStore":
        """Open what a manifest names, and make sure that its photos are there.

        Raises
        ------
        IndexFileError
            The server does not answer, or holds another number of photos.
        """
        fields = ("address", "collection", "search", "generation", "photos")
        named = {name: kept[name] for name in fields}
        store = cls(queries=queries, dim=dim, **named)
        with _answered(store.address):
            found = store._client.count(store.collection, store._visible(), exact=True).count
        if found != store.photos:
            raise IndexFileError(
                f"The collection {store.collection} at {store.address} holds {found} photos "
                f"instead of {store.photos}; restore it from a snapshot or build the index anew."
            )
        return store

    @property
    def kind(self) -> str:
        """Where it is and how it searches, for `info`."""
        how = "exhaustive" if self._exact else "HNSW"
        return f"Qdrant at {self.address}, collection {self.collection}: MAX_SIM, {how}"

    def __len__(self) -> int:
        return self.photos

    def ids(self) -> np.ndarray:
        """Return the photo ids, ascending.

        Returns
        -------
        np.ndarray
            ``[N]`` int64.
        """
        found: list[int] = []
        following = None
        with _answered(self.address):
            while True:
                points, following = self._client.scroll(
                    self.collection,
                    self._visible(),
                    limit=10_000,
                    offset=following,
                    with_payload=False,
                )
                found += [point.id for point in points]
                if following is None:
                    return np.array(sorted(found), dtype=np.int64)

    def changed(
        self, generation: int, ids: Sequence[int], embeddings: Embeddings, removed: Sequence[int]
    ) -> "QdrantStore":
        """Return a changed store; this one stays as it is, so that searches can go on in it.

        Parameters
        ----------
        generation : int
            Of the index with the changed store.
        ids : sequence of int
            New photos, all above those in the store.
        embeddings : Embeddings
            ``[len(ids), Q, d]``, unit length; sent in half precision.
        removed : sequence of int
            Photos to leave out.

        Returns
        -------
        QdrantStore

        Raises
        ------
        IndexFileError
            The server does not answer or refuses.
        """
        from qdrant_client import models

        now = self.generation

        def since(name: str, **bounds: int) -> models.Filter:
            span = models.Range(**bounds)
            return models.Filter(must=[models.FieldCondition(key=name, range=span)])

        with _answered(self.address):
            # What a killed writer left, and what was taken out before the generation that a
            # reader, one behind, may still look at.
            self._client.delete(self.collection, since("added", gt=now))
            self._client.delete_payload(self.collection, ["removed"], since("removed", gt=now))
            self._client.delete(self.collection, since("removed", lt=now))
            for photos, part in unit_parts(ids, embeddings, (self.queries, self.dim)):
                halves = part.astype(np.float16).astype(np.float32)
                self._client.upload_points(
                    self.collection,
                    (
                        models.PointStruct(
                            id=int(photo), vector=own.tolist(), payload={"added": generation}
                        )
                        for photo, own in zip(photos, halves, strict=True)
                    ),
                    batch_size=SENT_AT_ONCE,
                    wait=True,
                )
            gone = [int(photo) for photo in removed]
            if gone:
                self._client.set_payload(self.collection, {"removed": generation}, gone)
        total = self.photos + len(ids) - len(gone)
        return QdrantStore(
            self.address, self.collection, self.queries, self.dim, self.search, generation, total
        )

    @property
    def position(self) -> int:
        """Return 0: a collection is one piece, however it was written."""
        return 0

    def merged(self, position: int) -> "QdrantStore":
        """Return this store: the server merges its segments by itself."""
        return self

    def emptied(self, generation: int, queries: int, dim: int) -> "QdrantStore":
        """Return a store without photos, in a collection of its own.

        Parameters
        ----------
        generation : int
            Of the index with that store; the collection is named by it.
        queries, dim : int
            Vectors of a photo, and their width.
        """
        name = f"{self.collection.rpartition('@')[0] or self.collection}@{generation}"
        with _answered(self.address):
            self._client.delete_collection(name)  # of a writer that was killed
        return QdrantStore.create(self.address, name, queries, dim, self.search)

    def nearest(
        self, query: np.ndarray, count: int, among: np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """Return the best photos for a query, as `index.segment_store.SegmentStore.nearest` does.

        Parameters
        ----------
        query : np.ndarray
            ``[d]`` or ``[A, d]`` float32.
        count : int
            Photos wanted.
        among : np.ndarray, optional
            ``[M]`` int64: only these photos.

        Returns
        -------
        list of (int, float)
            Photo id and score, best first, ties by photo id.
        """
        from qdrant_client import models

        query = np.atleast_2d(np.asarray(query, dtype=np.float32))
        if count < 1 or not self.photos or (among is not None and not len(among)):
            return []
        wanted = self._visible()
        if among is not None:
            wanted.must.append(models.HasIdCondition(has_id=among.tolist()))
        limit = count + 1
        how = None if self.address == IN_MEMORY else models.SearchParams(exact=self._exact)
        with _answered(self.address):
            while True:
                found = self._client.query_points(
                    self.collection,
                    query=query.tolist(),
                    query_filter=wanted,
                    search_params=how,
                    limit=limit,
                    with_payload=False,
                ).points
                # A tie for the last place may be wider than what was asked for.
                if len(found) < limit or found[-1].score < found[count - 1].score:
                    break
                limit *= 2
        best = sorted(((point.id, point.score / len(query)) for point in found), key=_order)
        return best[:count]

    def embeddings_of(self, photo: int) -> np.ndarray:
        """Return a photo's vectors, ``[Q, d]`` float32.

        Raises
        ------
        KeyError
            The photo is not in the store.
        """
        with _answered(self.address):
            points = self._client.retrieve(self.collection, [photo], with_vectors=True)
        if not points:
            raise KeyError(photo)
        return np.array(points[0].vector, dtype=np.float32)

    def manifest(self) -> dict:
        """Return what the manifest keeps of it."""
        return {
            "kind": "qdrant",
            "address": self.address,
            "collection": self.collection,
            "search": self.search,
            "generation": self.generation,
            "photos": self.photos,
        }

    def files(self) -> set[str]:
        """Return nothing: it has no files in the index folder."""
        return set()

    def size(self) -> int:
        """Return the bytes of its embeddings in half precision."""
        return self.photos * self.queries * self.dim * 2

    def damage(self) -> list[str]:
        """Return nothing: the server looks after its files."""
        return []

    @property
    def _client(self) -> "QdrantClient":
        return connect(self.address)

    @property
    def _exact(self) -> bool:
        few = self.photos < CANDIDATES_FROM
        return {"auto": few, "exhaustive": True, "candidates": False}[self.search]

    def _visible(self) -> "Filter":
        """The points of this generation."""
        from qdrant_client import models

        until = models.Range(lte=self.generation)
        return models.Filter(
            must=[models.FieldCondition(key="added", range=until)],
            must_not=[models.FieldCondition(key="removed", range=until)],
        )


def _order(found: tuple[int, float]) -> tuple[float, int]:
    return -found[1], found[0]


@contextmanager
def _answered(address: str) -> Iterator[None]:
    connect(address)  # says so where the library is missing
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, QdrantException) as error:
        reason = " ".join(str(error).split())[:200]
        raise IndexFileError(
            f"The Qdrant server at {address} cannot be used ({reason}); see that it runs, and that "
            "QDRANT_API_KEY is right if it wants a key."
        ) from error
