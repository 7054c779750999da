"""A build split over processes, on one machine or on several that share a file system.

Started by `torchrun` or `accelerate launch`, each process embeds its share of the files into an
index of its own, in a folder beside the index that is built; a process that was killed goes on from
its last commit. When all have finished, the first puts the parts together in one commit: until then
readers see the index as it was.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blip2.errors import UserError
from index.embed import Embedded
from index.folder import IndexFolder
from index.grow import (
    UpdateOptions,
    add_photos,
    changed_files,
    list_for,
    note_folders,
    take_in,
)
from index.listing import list_photos
from index.manifest import write_aside
from index.places import PhotoFile
from index.report import AddReport
from index.search import PhotoIndex
from index.store import VectorStore
from index.upgrade import read_differently, stale_photos

if TYPE_CHECKING:
    from blip2 import Blip2Retriever

PATIENCE = timedelta(days=30)  # the others may have much more to do


@dataclass(frozen=True)
class Share:
    """Which of the processes this is.

    Parameters
    ----------
    rank, world : int
        Its number, from 0, and how many there are.
    """

    rank: int
    world: int

    @classmethod
    def of_environment(cls) -> "Share":
        """Read what `torchrun` and `accelerate launch` tell each process; alone without them."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def of(self, files: list[Path]) -> list[Path]:
        """The files that are this process's to embed: by name, whatever else is to be done."""
        return [f for f in files if zlib.crc32(os.fsencode(f)) % self.world == self.rank]


def build_share(
    out: Path,
    paths: Iterable[Path],
    share: Share,
    retriever: "Blip2Retriever",
    made: tuple[str, str | None] = ("auto", None),
    progress: Callable[[int, int], None] | None = None,
    options: UpdateOptions | None = None,
) -> AddReport | None:
    """Embed a share of the photos, wait for the other processes, and put all together.

    Parameters
    ----------
    out : Path
        Folder of the index.
    paths : iterable of Path
        Photos and folders, the same in every process.
    share : Share
        Which process this is.
    retriever : Blip2Retriever
        The model.
    made : tuple of str
        ``search`` and ``address`` of a new index; see `index.search.PhotoIndex.create`.
    progress : callable, optional
        Called as (files of this share done, files of this share).
    options : UpdateOptions, optional
        As for `index.search.PhotoIndex.update`; contents are not checked here.

    Returns
    -------
    AddReport or None
        Of the whole build, from the first process; None from the others.

    Raises
    ------
    IndexFileError
        If the index or a part cannot be written; the index is as it was.
    UserError
        If the processes do not see the same files.
    """
    options = options or UpdateOptions()
    if share.rank == 0:  # whatever keeps the index from being written is said before the work
        _opened(out, retriever, *made)
    if PhotoIndex.exists(out):
        index = IndexFolder(out, retriever.fingerprint, retriever.name)
        listing = list_for(index, paths, options.exclude)
        stale = read_differently(index, retriever, stale_photos(index))
        files = list(dict.fromkeys([*changed_files(index, listing.files), *stale]))
    else:
        listing = list_photos(paths, options.exclude or ())
        files = listing.files
    parts = Path(f"{os.path.abspath(out)}.parts")
    report = _embed_share(_folder(parts, share), share.of(files), retriever, progress)
    names = b"\0".join(os.fsencode(path) for path in files)
    told = {"files": hashlib.sha256(names).hexdigest(), **_told_of(report)}
    write_aside(_told(parts, share), lambda file: file.write(json.dumps(told).encode()))
    with _together(share) as wait:
        wait()
        if share.rank:
            wait()  # a launcher that sees one process fail ends the others
            return None
        together = _put_together(parts, share.world, files, retriever)
        note_folders(index, listing, options.exclude)
        report = take_in(index, retriever, together, listing, force=options.forget)
        del together  # its embeddings are mapped from files of the parts
        shutil.rmtree(parts, ignore_errors=True)  # a network's disk may keep what was just mapped
        wait()
    known = report.known + len(listing.files) - len(files)
    return replace(report, known=known, refused=listing.unreadable + report.refused)


def _opened(
    folder: Path, retriever: "Blip2Retriever", search: str = "auto", address: str | None = None
) -> IndexFolder:
    """An index, made where there is none."""
    if not PhotoIndex.exists(folder):
        PhotoIndex.create(folder, retriever, search, address)
    return IndexFolder(folder, retriever.fingerprint, retriever.name)


def _embed_share(
    folder: Path,
    files: list[Path],
    retriever: "Blip2Retriever",
    progress: Callable[[int, int], None] | None,
) -> AddReport:
    """Bring the index of a share up to date."""
    part = _opened(folder, retriever, "exhaustive")  # it is not searched
    wanted = set(files)
    with part.reading() as library:
        others = [path for path, _ in library.files() if path not in wanted]
    if others:  # of an earlier start, with other files
        part.commit(None, others)
    return add_photos(part, retriever, files, progress)


def _put_together(
    parts: Path, world: int, files: list[Path], retriever: "Blip2Retriever"
) -> Embedded:
    """What all processes embedded, in the order of the files."""
    shares = [Share(rank, world) for rank in range(world)]
    told = [json.loads(_told(parts, share).read_text()) for share in shares]
    if len({one["files"] for one in told}) > 1:
        raise UserError(
            "The processes of this build do not see the same files; give every one the same "
            "folders, on a file system that they share."
        )
    refused, notes = (
        [(_path_of(name), text) for one in told for name, text in one[what]]
        for what in ("refused", "notes")
    )
    unusable = [_path_of(name) for one in told for name in one["unusable"]]
    held: list[tuple[PhotoFile, VectorStore, int]] = []
    for share in shares:
        part = IndexFolder(_folder(parts, share), retriever.fingerprint, retriever.name)
        with part.reading() as library:
            photos = library.photo_files()
        held += [(file, part.state().store, photo) for file, photo in photos]
    order = {path: number for number, path in enumerate(files)}
    held.sort(key=lambda one: order[one[0].path])
    rows: list[tuple[VectorStore, int]] = []
    together = Embedded(_Rows(rows), refused=refused, notes=notes, unusable=unusable)
    contents: set[str] = set()
    for file, store, photo in held:
        if file.sha256 in contents:
            together.copies.append(file)
            continue
        contents.add(file.sha256)
        together.new.append(file)
        rows.append((store, photo))
    return together


def _told_of(report: AddReport) -> dict[str, list]:
    """What a share tells of its files; a name need not be Unicode, so that it is hex."""
    return {
        "refused": [[_hex(path), reason] for path, reason in report.refused],
        "notes": [[_hex(path), note] for path, note in report.notes],
        "unusable": [_hex(path) for path in report.unusable],
    }


def _hex(path: Path) -> str:
    return os.fsencode(path).hex()


def _path_of(name: str) -> Path:
    return Path(os.fsdecode(bytes.fromhex(name)))


class _Rows:
    """Embeddings of photos that lie in several indexes, read when they are asked for."""

    def __init__(self, rows: list[tuple[VectorStore, int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: np.ndarray) -> np.ndarray:
        own = [self.rows[row] for row in some]
        return np.stack([store.embeddings_of(photo) for store, photo in own])  # [n, Q, d]


def _folder(parts: Path, share: Share) -> Path:
    return parts / f"{share.rank}-of-{share.world}"


def _told(parts: Path, share: Share) -> Path:
    return parts / f"{share.rank}-of-{share.world}.json"


@contextmanager
def _together(share: Share) -> Iterator[Callable[[], None]]:
    """Give a function that waits until every process has called it."""
    if share.world == 1:
        yield lambda: None
        return
    from torch import distributed

    def wait() -> None:
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise UserError(
                "Another process of this build has failed; see what it says, and start all again."
            ) from error

    try:
        distributed.init_process_group(
            "gloo", rank=share.rank, world_size=share.world, timeout=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "The processes of this build do not find each other; start them with torchrun."
        ) from error
    try:
        yield wait
    finally:
        distributed.destroy_process_group()
