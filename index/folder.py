"""An index folder: its committed state, and the one way to change it.

The order of writing that makes a change all or nothing is told in `index.manifest`.
"""

import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np

from blip2.processing import READING_VERSION
from index import library as rows
from index import manifest as manifests
from index.embed import Embedded
from index.library import Library
from index.library_reader import Reader
from index.locking import LOCK, locked, written
from index.manifest import IndexFileError, Manifest
from index.places import PhotoFile
from index.store import Embeddings, VectorStore, new_store, open_store

_VECTORS = re.compile(r"((embeddings|rows)-\d+\.npy|candidates-\d+\.faiss)(\.tmp)?")
# What a `create` that was killed can have left.
_BEGUN = {rows.NAME, f"{rows.NAME}-journal", LOCK, f"{manifests.NAME}.tmp"}


class OtherWeightsError(IndexFileError):
    """An index that was made by a model of the same name with other weights."""


@dataclass(frozen=True)
class State:
    """One generation of an index, never changed once made: searches go on in it."""

    manifest: Manifest
    store: VectorStore
    stamp: tuple[int, int, int]  # of the manifest's file: another one means another generation


@dataclass(frozen=True)
class Committed:
    """What a commit changed.

    Parameters
    ----------
    added, renewed : int
        Photos that are new, and known ones with new embeddings.
    forgotten : int
        Files taken out.
    read_again : list of Path
        Files whose content another process took out meanwhile.
    """

    added: int
    forgotten: int
    read_again: list[Path]
    renewed: int = 0


class IndexFolder:
    """The files of an index, as a chain of states.

    Parameters
    ----------
    path : Path
        The folder, made by `create`.
    fingerprint, retriever : str, optional
        Fingerprint and name of the model that the index must belong to; any model if None.
    """

    def __init__(
        self, path: Path, fingerprint: str | None = None, retriever: str | None = None
    ) -> None:
        self.path = Path(os.path.abspath(path))
        self.library = Library(self.path)
        self._fingerprint = fingerprint
        self._retriever = retriever
        self._loading = Lock()
        self._state = self.load()

    @staticmethod
    def create(
        path: Path,
        *,
        retriever: str,
        fingerprint: str,
        queries: int,
        dim: int,
        search: str = "auto",
        address: str | None = None,
    ) -> None:
        """Make an index without photos.

        Parameters
        ----------
        path : Path
            A folder that is empty or not there yet.
        retriever, fingerprint : str
            Name and fingerprint of the model.
        queries, dim : int
            Vectors of a photo, and their width.
        search, address : str
            See `index.store.new_store`.

        Raises
        ------
        IndexFileError
            If there is an index or something else in it, or it cannot be written.
        """
        path = Path(os.path.abspath(path))
        with written(path, "could not be made"):
            path.mkdir(parents=True, exist_ok=True)
            _refuse_taken(path)
            with locked(path):
                _refuse_taken(path)
                for name in _BEGUN - {LOCK}:
                    (path / name).unlink(missing_ok=True)
                name = uuid.uuid4().hex
                store = new_store(path, name, (queries, dim), search, address)
                Library(path).create(name)
                empty = Manifest(
                    library=name,
                    generation=0,
                    retriever=retriever,
                    fingerprint=fingerprint,
                    queries=queries,
                    dim=dim,
                    photos=0,
                    store=store.manifest(),
                    written=manifests.now(),
                )
                empty.write(path)

    def state(self) -> State:
        """Return the committed state; read anew where another process has changed it."""
        if self._stamp() != self._state.stamp:
            with self._loading:
                if self._stamp() != self._state.stamp:
                    self._state = self.load()
        return self._state

    def reading(self) -> AbstractContextManager[Reader]:
        """Open the library at the committed state."""
        return self.library.reading(self.state().manifest.generation)

    def load(self) -> State:
        """Read the committed state from the disk and make sure that its parts belong together.

        Raises
        ------
        IndexFileError
            If it is absent, damaged, or of another model.
        """
        while True:
            stamp = self._stamp()
            manifest = Manifest.read(self.path)
            self._check_model(manifest)
            try:
                self.library.check(manifest.library, manifest.generation, manifest.photos)
                store = self._open_store(manifest)
            except (OSError, IndexFileError) as error:
                if Manifest.read(self.path) != manifest:
                    continue  # a writer committed meanwhile and deleted what we came for
                if isinstance(error, OSError):
                    raise IndexFileError(
                        f"The index {self.path} is damaged: {Path(error.filename or '').name} "
                        f"cannot be read ({error.strerror}); restore it from a copy or build the "
                        "index anew in another folder."
                    ) from error
                raise
            return State(manifest, store, stamp)

    def _open_store(self, manifest: Manifest) -> VectorStore:
        photos = None
        segments = manifest.store.get("segments")
        if segments is not None and sum(s["photos"] for s in segments) != manifest.photos:
            with self.library.reading(manifest.generation) as reader:  # some were removed
                photos = np.array(reader.ids(), dtype=np.int64)
        shape = manifest.queries, manifest.dim
        store = open_store(self.path, shape, manifest.store, photos)
        if len(store) != manifest.photos:
            raise IndexFileError(
                f"The index {self.path} is damaged: its store holds {len(store)} photos instead "
                f"of {manifest.photos}; restore it from a copy."
            )
        return store

    def commit(
        self,
        embedded: Embedded | None,
        forget: Sequence[Path] = (),
        still: Callable[[Path], bool] = lambda path: True,
    ) -> Committed:
        """Change the index: wholly, or, if anything fails or the process dies, not at all.

        Parameters
        ----------
        embedded : Embedded, optional
            Photos to add.
        forget : sequence of Path
            Files to take out; a folder means all files in it.
        still : callable
            Tells of each of these, once nothing else can change the index, whether to do it.

        Returns
        -------
        Committed

        Raises
        ------
        IndexFileError
            If it cannot be written.
        IndexBusyError
            If another process keeps writing for `index.manifest.BUSY_TIMEOUT` seconds.
        """
        with self._changing() as state:
            manifest = state.manifest
            if embedded is None:
                shape = (0, manifest.queries, manifest.dim)
                embedded = Embedded(np.empty(shape, dtype=np.float32))
            new: list[PhotoFile] = []
            chosen: list[int] = []  # rows of `embedded.embeddings`
            renewed: dict[str, int] = {}
            copies: list[PhotoFile] = []
            again: list[Path] = []
            with self.library.reading(manifest.generation) as reader:
                forgotten = {
                    row for path in forget if still(path) for row in reader.places_under(path)
                }
                # Another writer may have added or removed the same photos since they were read.
                for i, file in enumerate(embedded.new):
                    known = reader.photo_of(file.sha256)
                    if known is not None and reader.reading_of(known) >= READING_VERSION:
                        copies.append(file)
                        continue
                    new.append(file)
                    chosen.append(i)
                    if known is not None:
                        renewed[file.sha256] = known
                contents = {file.sha256 for file in new}
                for file in embedded.copies:
                    known = file.sha256 in contents or reader.photo_of(file.sha256) is not None
                    copies.append(file) if known else again.append(file.path)
            if new or copies or forgotten:
                change = self.library.apply(manifest.generation, new, copies, forgotten, renewed)
                store = state.store
                if change.added or change.removed:
                    vectors = Chosen(embedded.embeddings, chosen)
                    following = manifest.generation + 1
                    store = store.changed(following, change.added, vectors, change.removed)
                self._publish(state, store, generation=manifest.generation + 1)
            return Committed(len(new) - len(renewed), len(forgotten), again, len(renewed))

    def confirm_reading(self, photos: Sequence[int]) -> None:
        """Note that photos would be read today as they were when they were embedded."""
        with self._changing():
            self.library.confirm_reading(photos)

    def settings(
        self, roots: Sequence[Path], mounts: Sequence[Path], exclude: Sequence[str] | None
    ) -> None:
        """Note which folders were indexed, which of them were mount points, and what to leave out.

        Parameters
        ----------
        roots, mounts : sequence of Path
            Added to those that are known.
        exclude : sequence of str, optional
            Patterns in the place of those that are kept; None leaves these.
        """
        manifest = self.state().manifest
        known = {
            "roots": sorted({*manifest.roots, *map(str, roots)}),
            "mounts": sorted({*manifest.mounts, *map(str, mounts)}),
            "exclude": manifest.exclude if exclude is None else list(exclude),
        }
        if any(getattr(manifest, name) != value for name, value in known.items()):
            with self._changing() as state:
                self._publish(state, state.store, **known)

    def begin_build(self, position: int) -> None:
        """Note from which segment on a build writes, so that its segments can be merged."""
        with self._changing() as state:
            if state.manifest.build_began is None:
                self._publish(state, state.store, build_began=position)

    def end_build(self) -> None:
        """Merge the segments of a build that has ended, or of one that was killed before."""
        if self.state().manifest.build_began is None:
            return
        with self._changing() as state:
            if (position := state.manifest.build_began) is not None:
                store = state.store.merged(position)
                self._publish(state, store, build_began=None)

    def start_over(self, retriever: str, fingerprint: str, queries: int, dim: int) -> None:
        """Take all photos out, for a model of other weights to embed them anew.

        Parameters
        ----------
        retriever, fingerprint : str
            Name and fingerprint of the model.
        queries, dim : int
            Vectors of a photo, and their width.
        """
        with self._changing() as state:
            manifest = state.manifest
            with self.library.reading(manifest.generation) as reader:
                everything = reader.all_places()
            self.library.apply(manifest.generation, [], [], everything)
            self._publish(
                state,
                state.store.emptied(manifest.generation + 1, queries, dim),
                generation=manifest.generation + 1,
                retriever=retriever,
                fingerprint=fingerprint,
                queries=queries,
                dim=dim,
                build_began=None,
            )
            self._fingerprint, self._retriever = fingerprint, retriever

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """Hold the lock, with the state as the last writer left it and no files of dead ones."""
        with written(self.path, "is as it was, since it could not be changed"), locked(self.path):
            state = self.state()
            self._tidy(state.store)
            yield state

    def _publish(self, old: State, store: VectorStore, **changes: object) -> None:
        following = replace(old.manifest, written=manifests.now(), **changes)
        if store is not old.store:
            following = replace(following, store=store.manifest(), photos=len(store))
        following.write(self.path)
        self._state = State(following, store, self._stamp())
        self._tidy(store)

    def _tidy(self, store: VectorStore) -> None:
        """Delete segments of no use any more, and those of killed writers."""
        needed = store.files()
        for name in os.listdir(self.path):
            if _VECTORS.fullmatch(name) and name not in needed:
                (self.path / name).unlink()

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self.path / manifests.NAME)
        except OSError:  # `Manifest.read` says what is the matter
            return (0, 0, 0)
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def _check_model(self, manifest: Manifest) -> None:
        if self._fingerprint in (None, manifest.fingerprint):
            return
        if self._retriever == manifest.retriever:
            raise OtherWeightsError(
                f"The index {self.path} was made with other weights of {manifest.retriever}; "
                f"embed its photos anew with `python -m index build PHOTOS --out {self.path}`."
            )
        raise IndexFileError(
            f"The index {self.path} was made with the retriever {manifest.retriever}, not with "
            f"{self._retriever}; use that one or build the index anew in another folder."
        )


class Chosen:
    """Some rows of embeddings, read when a slice of them is taken; see `index.store.Embeddings`."""

    def __init__(self, embeddings: Embeddings, rows: Sequence[int]) -> None:
        self.embeddings, self.rows = embeddings, np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice) -> np.ndarray:
        return self.embeddings[self.rows[some]]


def _refuse_taken(folder: Path) -> None:
    names = set(os.listdir(folder))
    if manifests.NAME in names:
        raise IndexFileError(
            f"There is an index in {folder} already; "
            f"add photos to it with `python -m index add {folder} PHOTOS`."
        )
    if not names <= _BEGUN:
        raise IndexFileError(
            f"The folder {folder} is not empty; give the index a new folder of its own."
        )
