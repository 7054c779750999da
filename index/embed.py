"""From files to embeddings: threads read and decode photos while the model embeds."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from blip2.errors import UserError
from blip2.processing import PhotoError, open_photo
from index.library_reader import Reader
from index.manifest import file_sha256
from index.places import PhotoFile

if TYPE_CHECKING:
    from torch import Tensor

    from blip2 import Blip2Retriever

BATCH_SIZE = 32
SLOW = 10.0  # seconds that a batch may take; then the next is half as large
# By the SHA-256 of a photo's file: width, height and embeddings [Q, d], or None.
Elsewhere = Callable[[str], tuple[int, int, np.ndarray] | None]


@dataclass
class Embedded:
    """What came of a list of files.

    Parameters
    ----------
    new : list of PhotoFile
        Photos to add, or to embed anew; no two have the same content.
    embeddings : np.ndarray
        ``[len(new), Q, d]`` float32, unit length.
    copies : list of PhotoFile
        Files whose content is known, or in ``new``, but not at this place.
    known : int
        Number of files with known content, ``copies`` and unchanged ones.
    refused : list of (Path, str)
        Files that cannot be used, each with the reason.
    unusable : list of Path
        Those of the refused that were read and hold no photo that can be used.
    notes : list of (Path, str)
        Damaged files that could be used all the same, each with what is wrong.
    files : int
        How many files were looked at.
    """

    embeddings: np.ndarray
    new: list[PhotoFile] = field(default_factory=list)
    copies: list[PhotoFile] = field(default_factory=list)
    known: int = 0
    refused: list[tuple[Path, str]] = field(default_factory=list)
    unusable: list[Path] = field(default_factory=list)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    files: int = 0


@dataclass(frozen=True)
class Reading:
    """Which files are read, and what is done with them.

    Parameters
    ----------
    anew : frozenset of Path
        Files whose photos are embedded, although they are known.
    check : bool
        Compare contents also where size and date are as they were.
    elsewhere : callable, optional
        Gives the embeddings of a photo that another index of the same model holds.
    seconds : float
        After so many no further file is begun.
    """

    anew: frozenset[Path] = frozenset()
    check: bool = False
    elsewhere: Elsewhere | None = None
    seconds: float = float("inf")


@dataclass
class _Read:
    """What one thread made of one file: pixels, or the reason for having none."""

    path: Path
    file: PhotoFile | None = None
    pixels: "Tensor | None" = None  # [3, S, S], until they are embedded
    embeddings: np.ndarray | None = None  # [Q, d], of another index
    reason: str | None = None  # neither file nor reason: unchanged
    unusable: bool = False
    notes: tuple[str, ...] = ()


def embed_files(
    paths: Sequence[Path],
    retriever: "Blip2Retriever",
    library: Reader,
    *,
    reading: Reading | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Read files and embed the photos that are not known yet.

    Parameters
    ----------
    paths : sequence of Path
        Files, as `index.listing.list_photos` lists them.
    retriever : Blip2Retriever
        The model; its ``preprocess`` runs in threads, ``embed_pixels`` in the caller's.
    library : Reader
        Tells which files and which contents are known.
    reading : Reading, optional
        What is looked at again, and how long this may take.
    batch_size : int
        Photos a batch; fewer once one takes longer than `SLOW`.
    workers : int, optional
        Threads that read; as many as cores unless given.
    progress : callable, optional
        Called as (files done, files in all) as work goes on.

    Returns
    -------
    Embedded
        Of the first ``files`` of the paths: of all, unless the time was up.
    """
    reading = reading or Reading()
    outcomes: list[_Read] = []
    waiting: list[_Read] = []
    embeddings: dict[str, np.ndarray] = {}  # by content, [Q, d] each
    until = monotonic() + reading.seconds

    def read(path: Path) -> _Read:
        return _read(path, retriever, library, reading)

    def embed_waiting() -> None:
        nonlocal batch_size
        start = monotonic()
        if waiting:
            embeddings.update(_embed(waiting, retriever))
            waiting.clear()
        if monotonic() - start > SLOW:
            batch_size = max(1, batch_size // 2)
        if progress:
            progress(len(outcomes), len(paths))

    contents: set[str] = set()
    begun = (path for path in paths if not outcomes or monotonic() < until)
    for outcome in _in_order(read, begun, workers or os.cpu_count() or 1, 2 * batch_size):
        outcomes.append(outcome)
        if outcome.file is None or outcome.file.sha256 in contents:
            outcome.pixels = None
        elif outcome.embeddings is not None:
            contents.add(outcome.file.sha256)
            embeddings[outcome.file.sha256] = outcome.embeddings
        elif outcome.pixels is not None:
            contents.add(outcome.file.sha256)
            waiting.append(outcome)
        if len(waiting) >= batch_size or not waiting:
            embed_waiting()
    embed_waiting()
    return _sort_out(outcomes, embeddings, (retriever.num_queries, retriever.dim))


def _in_order(
    read: Callable[[Path], _Read], paths: Iterable[Path], workers: int, ahead: int
) -> Iterator[_Read]:
    """Read files in threads, at most ``ahead`` before the one that is yielded."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-photo")
    try:
        coming: deque[Future[_Read]] = deque()
        for path in paths:
            coming.append(pool.submit(read, path))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(path: Path, retriever: "Blip2Retriever", library: Reader, reading: Reading) -> _Read:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            return _Read(path, reason="It is not a file.")
        anew = path in reading.anew
        mark = status.st_size, status.st_mtime_ns
        if not (anew or reading.check) and library.is_unchanged(path, *mark):
            return _Read(path)
        with path.open("rb") as opened:
            sha256 = file_sha256(opened)
            file = PhotoFile(path, *mark, sha256)
            known = library.photo_of(sha256)
            if known is not None and not anew:
                at = library.photo_at(path)
                same = at is not None and at[0] == known and library.is_unchanged(path, *mark)
                return _Read(path, None if same else file)
            if reading.elsewhere and (found := reading.elsewhere(sha256)) is not None:
                width, height, embeddings = found
                return _Read(path, replace(file, width=width, height=height), None, embeddings)
            opened.seek(0)  # the same open file: what is decoded is what was hashed
            photo = open_photo(opened, retriever.photo_side)
        width, height = photo.info.get("full_size", photo.size)
        file = replace(file, width=width, height=height)
        notes = photo.info.get("notes", ())
        return _Read(path, file, retriever.preprocess(photo), notes=notes)
    except PhotoError as error:
        return _Read(path, reason=str(error), unusable=True)
    except UserError as error:
        return _Read(path, reason=str(error))
    except FileNotFoundError:
        return _Read(path, reason="It does not exist.")
    except OSError as error:
        return _Read(path, reason=f"It cannot be read: {error.strerror or error}.")


def _embed(batch: list[_Read], retriever: "Blip2Retriever") -> Iterator[tuple[str, np.ndarray]]:
    import torch  # late: listing and looking up need no model

    pixels = torch.stack([outcome.pixels for outcome in batch])  # [B, 3, S, S]
    vectors = retriever.embed_pixels(pixels).numpy()  # [B, Q, d]
    expected = (len(batch), retriever.num_queries, retriever.dim)
    assert vectors.shape == expected, f"expected embeddings {expected}, got {vectors.shape}"
    for outcome, own in zip(batch, vectors, strict=True):
        outcome.pixels = None
        if np.isfinite(own).all():
            yield outcome.file.sha256, own


def _sort_out(
    outcomes: list[_Read], embeddings: dict[str, np.ndarray], shape: tuple[int, int]
) -> Embedded:
    result = Embedded(np.empty((0, *shape), dtype=np.float32))
    result.files = len(outcomes)
    placed: set[str] = set()
    for outcome in outcomes:
        file = outcome.file
        result.notes += [(outcome.path, note) for note in outcome.notes]
        if outcome.reason is not None:
            result.refused.append((outcome.path, outcome.reason))
            if outcome.unusable:
                result.unusable.append(outcome.path)
        elif file is None:
            result.known += 1
        elif not file.width or file.sha256 in placed:
            result.known += 1
            result.copies.append(file)
        elif file.sha256 in embeddings:
            placed.add(file.sha256)
            result.new.append(file)
        else:
            result.refused.append((file.path, "The model gives no finite embedding for it."))
    if result.new:
        result.embeddings = np.stack([embeddings[file.sha256] for file in result.new])
    return result
