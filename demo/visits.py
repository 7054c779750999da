"""What visitors send to be searched: clean copies of it, and the private library of a visit."""

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from blip2.errors import UserError
from demo.decoder import LONGEST
from demo.thumbnails import write_jpeg
from demo.uploads import open_received, received_digest

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from index import AddReport, Hit, PhotoIndex, Where

QUALITY = 92
MAX_VISIT_PHOTOS = 500
ENDED = "This visit has ended and its photos were deleted; reload the page to begin another."
Refused = list[tuple[str, str]]
T = TypeVar("T")


class Visit:
    """Photos that one visitor added for themself, in an index that goes with the visit.

    One thread may add while others search. Nothing is on the disk before the first photo is added,
    and nothing after `close`, after which searches find nothing here.

    Parameters
    ----------
    scratch : Path
        Temporary folder; the visit gets one in its ``visits``, of a name that cannot be guessed.
        It must not be served.
    retriever : Blip2Retriever
        Makes the embeddings.
    forget : callable
        Called with the folder of the visit once that is deleted, to delete thumbnails of it.
    """

    def __init__(
        self, scratch: Path, retriever: "Blip2Retriever", forget: Callable[[Path], None]
    ) -> None:
        self.folder = scratch.absolute() / "visits" / secrets.token_urlsafe(24)
        self.closed = False
        self._retriever = retriever
        self._forget = forget
        self._index: PhotoIndex | None = None
        self._writing = threading.Lock()

    def __len__(self) -> int:
        return self._or(0, len)

    def holds(self, path: Path) -> bool:
        """Tell whether a file is one of the visit's."""
        return self.folder in path.parents

    def add(
        self,
        files: Sequence[tuple[Path, str]],
        progress: Callable[[int, int], None] | None = None,
        known: Callable[[str], bool] = lambda digest: False,
    ) -> tuple["AddReport", Refused]:
        """Add received photos; see `demo.library.Library.add`.

        Raises
        ------
        UserError
            If the visit has ended, or would hold more than `MAX_VISIT_PHOTOS` photos.
        """
        from index import PhotoIndex

        with self._writing:
            self._go_on()
            room = MAX_VISIT_PHOTOS - len(self)
            if len(files) > room:
                raise UserError(
                    f"A visit holds at most {MAX_VISIT_PHOTOS} photos and yours has room for "
                    f"{room} more, not {len(files)}; add fewer."
                )
            if self._index is None or not PhotoIndex.exists(self.folder / "index"):
                shutil.rmtree(self.folder, ignore_errors=True)  # what a cleaner of /tmp left
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._index = PhotoIndex.create(self.folder / "index", self._retriever)

            def tell(done: int, total: int) -> None:
                self._go_on()
                if progress:
                    progress(done, total)

            return add_copies(self._index, files, self.folder / "uploads", tell, known)

    def nearest(self, query: np.ndarray, count: int, where: "Where | None") -> list["Hit"]:
        """Return the visit's best photos, none once it has ended; see `PhotoIndex.nearest`."""
        return self._or([], lambda index: index.nearest(query, count, where))

    def embeddings_of(self, hits: Sequence["Hit"]) -> np.ndarray:
        """Return embeddings of hits, zeros once the visit has ended: ``[len(hits), Q, d]``."""
        shape = len(hits), self._retriever.num_queries, self._retriever.dim
        return self._or(np.zeros(shape, np.float32), lambda index: index.embeddings_of(hits))

    def kept(self, path: Path) -> tuple[int, np.ndarray] | None:
        """Return number and embeddings of the photo that a file holds; see `index.lookup`."""
        from index.lookup import kept_photo

        return self._or(None, lambda index: kept_photo(index.folder, path))

    def newest(self, count: int) -> list[Path]:
        """Return the photos that were added last, the newest first."""
        from index.lookup import newest_files

        return self._or([], lambda index: newest_files(index.folder, count))

    def close(self) -> None:
        """End the visit: everything of it is deleted. May be called again."""
        self.closed = True  # an `add` that is at work stops at its next step
        with self._writing:
            self._index = None
            shutil.rmtree(self.folder, ignore_errors=True)
            self._forget(self.folder)

    def _go_on(self) -> None:
        if self.closed:
            raise UserError(ENDED)

    def _or(self, nothing: T, ask: Callable[["PhotoIndex"], T]) -> T:
        """Ask the index; a visit that ends meanwhile or was cleared away is empty."""
        index = self._index
        if index is None:
            return nothing
        try:
            return ask(index)
        except (UserError, OSError, KeyError):
            return nothing


def add_copies(
    index: "PhotoIndex",
    files: Iterable[tuple[Path, str]],
    uploads: Path,
    progress: Callable[[int, int], None] | None,
    known: Callable[[str], bool],
) -> tuple["AddReport", Refused]:
    """Add copies of received photos to an index.

    Parameters
    ----------
    index : PhotoIndex
        Takes them.
    files : iterable of (Path, str)
        Where each lies, and its name.
    uploads : Path
        Folder for the copies.
    progress : callable, optional
        Called as (steps done, steps in all): each photo is opened, then embedded.
    known : callable
        Tells by the SHA-256 of a file whether it is to be had already, so that no copy is made.

    Returns
    -------
    AddReport, list of (str, str)
        What the index did; names of refused files, each with the reason.
    """
    refused: Refused = []
    kept: dict[Path, str] = {}
    there = 0
    files = list(files)
    for done, (path, name) in enumerate(files):
        if progress:
            progress(done, 2 * len(files))
        try:
            digest = received_digest(path)
            if known(digest):
                there += 1
            else:
                copy = keep_copy(path, name, uploads / digest)
                there += copy in kept
                kept[copy] = name
        except UserError as error:
            refused.append((name, str(error)))

    def embedded(done: int, total: int) -> None:
        if progress:
            progress(len(files) + len(files) * done // max(total, 1), 2 * len(files))

    report = index.add(list(kept), progress=embedded)
    refused += [(kept.get(path, path.name), reason) for path, reason in report.refused]
    return replace(report, known=report.known + there), refused


def keep_copy(path: Path, name: str, folder: Path) -> Path:
    """Write a received photo anew: the index never opens a file that a stranger made.

    Parameters
    ----------
    path : Path
        Where it lies.
    name : str
        Its name with the visitor, of which the copy keeps what is safe anywhere.
    folder : Path
        For copies of this very file; where there is one already, that is it.

    Returns
    -------
    Path
        A JPEG file of pixels alone, at most `LONGEST` pixels on its longer side.

    Raises
    ------
    UserError
        If the photo cannot be used.
    """
    from index.places import normalised

    for copy in sorted(folder.glob("[!.]*.jpg")):
        return copy
    photo = open_received(path)
    stem = re.sub(r"[^\w-]+", "-", normalised(Path(name).stem)).strip("-")[:60] or "photo"
    kept = folder / f"{stem}.jpg"
    write_jpeg(photo, kept, LONGEST, QUALITY)
    return kept
