"""From folders to embeddings: threads read and decode photos while the model embeds."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blip2.errors import UserError
from blip2.processing import SUFFIXES, open_photo
from index.library import Reader
from index.manifest import file_sha256
from index.places import PhotoFile

if TYPE_CHECKING:
    from torch import Tensor

    from blip2 import Blip2Retriever

BATCH_SIZE = 32
DECODED = 2  # times the side that the model sees: what more a JPEG has is not worth its time


@dataclass
class Embedded:
    """What came of a list of files.

    Parameters
    ----------
    new : list of PhotoFile
        Photos to add; no two have the same content.
    embeddings : np.ndarray
        ``[len(new), Q, d]`` float32, unit length.
    copies : list of PhotoFile
        Files whose content is known, or in ``new``, but not at this place.
    known : int
        Number of files with known content, ``copies`` and unchanged ones.
    refused : list of (Path, str)
        Files that cannot be used, each with the reason.
    """

    embeddings: np.ndarray
    new: list[PhotoFile] = field(default_factory=list)
    copies: list[PhotoFile] = field(default_factory=list)
    known: int = 0
    refused: list[tuple[Path, str]] = field(default_factory=list)


@dataclass
class _Read:
    """What one thread made of one file: pixels, or the reason for having none."""

    path: Path
    file: PhotoFile | None = None
    pixels: "Tensor | None" = None  # [3, S, S], until they are embedded
    reason: str | None = None  # neither file nor reason: unchanged


def find_photos(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """List photos, walking folders.

    In folders, files with the suffix of a photo are taken, links are followed, and hidden files and
    folders are left out. A file that is named is taken whatever it is called.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders.

    Returns
    -------
    list of Path, list of (Path, str)
        Absolute paths in order, each once; folders that could not be read, each with the reason.
    """
    found: dict[Path, None] = {}
    refused: list[tuple[Path, str]] = []
    for path in paths:
        path = Path(os.path.abspath(path))
        if os.path.isdir(path):
            found.update(dict.fromkeys(_walk(path, refused)))
        else:
            found[path] = None
    return list(found), refused


def embed_files(
    paths: list[Path],
    retriever: "Blip2Retriever",
    library: Reader,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Read files and embed the photos that are not known yet.

    Parameters
    ----------
    paths : list of Path
        Files, as `find_photos` lists them.
    retriever : Blip2Retriever
        The model; its ``preprocess`` runs in threads, ``embed_pixels`` in the caller's.
    library : Reader
        Tells which files and which contents are known.
    batch_size : int
        Photos a batch.
    workers : int, optional
        Threads that read; as many as cores unless given.
    progress : callable, optional
        Called as (files done, files in all) as work goes on.

    Returns
    -------
    Embedded
    """
    outcomes: list[_Read] = []
    waiting: list[_Read] = []
    embeddings: dict[str, np.ndarray] = {}  # by content, [Q, d] each

    def read(path: Path) -> _Read:
        return _read(path, retriever, library)

    def embed_waiting() -> None:
        if waiting:
            embeddings.update(_embed(waiting, retriever))
            waiting.clear()
        if progress:
            progress(len(outcomes), len(paths))

    contents: set[str] = set()
    for outcome in _in_order(read, paths, workers or os.cpu_count() or 1, 2 * batch_size):
        outcomes.append(outcome)
        if outcome.pixels is not None and outcome.file.sha256 not in contents:
            contents.add(outcome.file.sha256)
            waiting.append(outcome)
        else:
            outcome.pixels = None
        if len(waiting) == batch_size or not waiting:
            embed_waiting()
    embed_waiting()
    return _sort_out(outcomes, embeddings, (retriever.num_queries, retriever.dim))


def _in_order(
    read: Callable[[Path], _Read], paths: list[Path], workers: int, ahead: int
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


def _read(path: Path, retriever: "Blip2Retriever", library: Reader) -> _Read:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            return _Read(path, reason="It is not a file.")
        if library.is_unchanged(path, status.st_size, status.st_mtime_ns):
            return _Read(path)
        with path.open("rb") as opened:
            sha256 = file_sha256(opened)
            file = PhotoFile(path, status.st_size, status.st_mtime_ns, sha256)
            if library.photo_of(sha256) is not None:
                return _Read(path, file)
            opened.seek(0)  # the same open file: what is decoded is what was hashed
            photo = open_photo(opened, DECODED * retriever.photo_side)
        width, height = photo.info.get("full_size", photo.size)
        file = replace(file, width=width, height=height)
        return _Read(path, file, retriever.preprocess(photo))
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
    placed: set[str] = set()
    for outcome in outcomes:
        file = outcome.file
        if outcome.reason is not None:
            result.refused.append((outcome.path, outcome.reason))
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


def _walk(top: Path, refused: list[tuple[Path, str]]) -> Iterator[Path]:
    """Yield the photos of a folder in the order of their names."""
    entered: set[tuple[int, int]] = set()  # a link may lead back to a folder above it

    def refuse(error: OSError) -> None:
        refused.append((Path(error.filename), f"It cannot be read: {error.strerror}."))

    for folder, inner, names in os.walk(top, onerror=refuse, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError as error:
            refuse(error)
            continue
        if (status.st_dev, status.st_ino) in entered:
            inner.clear()  # tells `os.walk` to go no deeper
            continue
        entered.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if name[0] != ".")
        for name in sorted(names):
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(folder, name)
