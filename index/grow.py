"""How an index grows: photos are embedded and committed some thousand at a time."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from index.embed import Embedded, embed_files, find_photos
from index.folder import IndexFolder
from index.hits import inside

if TYPE_CHECKING:
    from blip2 import Blip2Retriever

COMMITTED_AT_ONCE = 2048  # files
Progress = Callable[[int, int], None] | None


class NoRetriever(ValueError):
    """There is something to embed, and no model to do it."""


@dataclass(frozen=True)
class AddReport:
    """What came of adding photos.

    Parameters
    ----------
    added, known : int
        How many are new, and how many files hold known ones.
    refused : list of (Path, str)
        Files that could not be used, each with the reason.
    gone : int
        Files taken out because they are no longer there.
    """

    added: int
    known: int
    refused: list[tuple[Path, str]]
    gone: int = 0


def add_photos(
    index: IndexFolder, retriever: "Blip2Retriever", paths: Iterable[Path], progress: Progress
) -> AddReport:
    """Add photos; see `index.search.PhotoIndex.add`."""
    everything, refused = find_photos(paths)
    added = known = 0
    for start in range(0, len(everything), COMMITTED_AT_ONCE):
        files = everything[start : start + COMMITTED_AT_ONCE]

        def tell(done: int, total: int, start: int = start) -> None:
            if progress:
                progress(start + done, len(everything))

        while files:
            with index.reading() as library:
                embedded = embed_files(files, retriever, library, progress=tell)
            committed = index.commit(embedded)
            refused += embedded.refused
            added += committed.added
            known += embedded.known + len(embedded.new) - committed.added
            known -= len(committed.read_again)
            files = committed.read_again
    return AddReport(added, known, refused)


def update_photos(
    index: IndexFolder,
    retriever: "Blip2Retriever | None",
    paths: Iterable[Path],
    progress: Progress,
) -> AddReport:
    """Bring the index up to date with folders; see `index.search.PhotoIndex.update`."""
    paths = [Path(os.path.abspath(path)) for path in paths]
    files, unread = find_photos(paths)
    changed = changed_files(index, files)
    report = AddReport(0, 0, [])
    if changed:
        if retriever is None:
            raise NoRetriever(f"there are {len(changed)} photos to embed")
        report = add_photos(index, retriever, changed, progress)
    elif progress:
        progress(len(files), len(files))
    known = report.known + len(files) - len(changed)
    forget = gone_files(index, paths, unread)
    gone = index.commit(None, forget).forgotten if forget else 0
    return AddReport(report.added, known, unread + report.refused, gone)


def take_in(
    index: IndexFolder, retriever: "Blip2Retriever", embedded: Embedded, forget: list[Path]
) -> AddReport:
    """Add what was embedded elsewhere and take files out, in one commit."""
    committed = index.commit(embedded, forget)
    known = len(embedded.new) + len(embedded.copies) - committed.added
    report = AddReport(committed.added, known, embedded.refused, committed.forgotten)
    if not committed.read_again:
        return report
    # Another process took the photos of these copies out meanwhile.
    again = add_photos(index, retriever, committed.read_again, None)
    known += again.known - len(committed.read_again)
    refused = report.refused + again.refused
    return replace(report, added=report.added + again.added, known=known, refused=refused)


def changed_files(index: IndexFolder, files: Iterable[Path]) -> list[Path]:
    """Return the files that are not known with their size and date, in order."""
    with index.reading() as library:
        known = library.marks()
    marks = [(path, _mark(path)) for path in files]
    return [path for path, mark in marks if mark is None or known.get(os.fsencode(path)) != mark]


def gone_files(
    index: IndexFolder, paths: Iterable[Path], unread: Iterable[tuple[Path, str]]
) -> list[Path]:
    """Return the files of some folders that are no longer there, but for unreadable folders."""
    tops, closed = list(paths), [top for top, _ in unread]
    with index.reading() as library:
        held = library.files()
    return [
        path
        for path in held
        if any(inside(path, top) for top in tops)
        and _is_gone(path)
        and not any(inside(path, top) for top in closed)
    ]


def _is_gone(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there: its folder can't be looked into, or a network is away
        return False
    return False


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # whoever reads it says what is the matter
        return None
    return status.st_size, status.st_mtime_ns
