"""How an index grows and is brought up to date: photos are committed some at a time."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from index.deletions import Deletions, find_deletions, was_deleted
from index.embed import BATCH_SIZE, Elsewhere, Embedded, Reading, embed_files
from index.folder import Committed, IndexFolder
from index.listing import Listing, list_photos
from index.report import AddReport
from index.upgrade import file_mark, read_differently, stale_photos

if TYPE_CHECKING:
    from blip2 import Blip2Retriever

COMMITTED_AT_ONCE = 2048  # files
COMMIT_SECONDS = 30.0  # what a kill may cost
Progress = Callable[[int, int], None] | None


class NoRetriever(ValueError):
    """There is something to embed, and no model to do it."""


@dataclass(frozen=True)
class UpdateOptions:
    """How an index is brought up to date.

    Parameters
    ----------
    check : bool
        Compare the contents of all files, not only their sizes and dates.
    forget : bool
        Believe that files were deleted also where they are most of a folder.
    exclude : sequence of str, optional
        What to leave out from now on, see `index.listing.list_photos`; as before unless given.
    say : callable, optional
        Gets a sentence on what takes long and was not asked for.
    elsewhere : callable, optional
        Gives the embeddings of a photo that another index of the same model holds.
    """

    check: bool = False
    forget: bool = False
    exclude: Sequence[str] | None = None
    say: Callable[[str], None] | None = None
    elsewhere: Elsewhere | None = None


def add_photos(
    index: IndexFolder,
    retriever: "Blip2Retriever",
    files: Sequence[Path],
    progress: Progress = None,
    reading: Reading | None = None,
) -> AddReport:
    """Embed files and commit them, every `COMMITTED_AT_ONCE` or `COMMIT_SECONDS`.

    Parameters
    ----------
    index : IndexFolder
        Takes them.
    retriever : Blip2Retriever
        The model.
    files : sequence of Path
        As `index.listing.list_photos` lists them.
    progress : callable, optional
        Called as (files done, files in all).
    reading : Reading, optional
        What is looked at again.

    Returns
    -------
    AddReport
    """
    reading = replace(reading or Reading(), seconds=COMMIT_SECONDS)
    report = AddReport(0, 0, [])
    began = index.state().store.position
    done = 0
    while done < len(files):
        some = files[done : done + COMMITTED_AT_ONCE]

        def tell(now: int, total: int, before: int = done) -> None:
            if progress:
                progress(before + now, len(files))

        with index.reading() as library:
            embedded = embed_files(
                some, retriever, library, reading=reading, batch_size=BATCH_SIZE, progress=tell
            )
        report = _together(report, _commit(index, retriever, embedded))
        done += embedded.files
        if done < len(files):  # there will be several segments
            index.begin_build(began)
    index.end_build()
    return report


def update_photos(
    index: IndexFolder,
    retriever: "Blip2Retriever | None",
    paths: Iterable[Path] | Listing,
    progress: Progress,
    options: UpdateOptions | None = None,
) -> AddReport:
    """Bring the index up to date with folders; see `index.search.PhotoIndex.update`."""
    options = options or UpdateOptions()
    listing = paths if isinstance(paths, Listing) else list_for(index, paths, options.exclude)
    roots = {Path(root) for root in index.state().manifest.roots}
    present = [path for path in listing.files if path not in roots]  # a root that is away is none
    files = present if options.check else changed_files(index, present)
    stale = stale_photos(index)
    if (files or stale) and retriever is None:
        raise NoRetriever(f"there are {len(files) + len(stale)} photos to look at")
    note_folders(index, listing, options.exclude)
    anew = read_differently(index, retriever, stale, options.say) if stale else []
    wanted = list(dict.fromkeys([*files, *anew]))
    reading = Reading(frozenset(anew), options.check, options.elsewhere)
    if not wanted and progress:
        progress(len(present), len(present))
    report = add_photos(index, retriever, wanted, progress, reading)
    elsewhere = len(set(wanted).difference(present))  # known, of other folders
    untouched = len(present) - (len(wanted) - elsewhere)
    report = replace(report, known=report.known + untouched - elsewhere)
    return forget_deleted(index, listing, report, force=options.forget)


def note_folders(
    index: IndexFolder, listing: Listing, exclude: Sequence[str] | None = None
) -> None:
    """Note in an index which folders it is of, which are mount points, and what it leaves out."""
    folders = [root for root in listing.roots if root in listing.folders]
    index.settings(folders, sorted(listing.mounts), exclude)


def list_for(
    index: IndexFolder, paths: Iterable[Path], exclude: Sequence[str] | None = None
) -> Listing:
    """List photos, without what the index leaves out or, where given, ``exclude`` names."""
    kept = index.state().manifest.exclude
    return list_photos(paths, kept if exclude is None else exclude)


def forget_deleted(
    index: IndexFolder, listing: Listing, report: AddReport, *, force: bool = False
) -> AddReport:
    """Take out files that were deleted or are left out now, and complete a report.

    Parameters
    ----------
    index : IndexFolder
        Of which files are taken out.
    listing : Listing
        The folders as they are.
    report : AddReport
        What came of the update before.
    force : bool
        See `index.deletions.find_deletions`.

    Returns
    -------
    AddReport
    """
    found, left_out, still = to_forget(index, listing, force=force)
    forget = found.deleted + left_out
    gone = index.commit(None, forget, still).forgotten if forget else 0
    refused = listing.unreadable + report.refused
    report = replace(report, refused=refused, gone=report.gone + gone)
    return _with_missing(report, found, listing)


def to_forget(
    index: IndexFolder, listing: Listing, *, force: bool = False
) -> tuple[Deletions, list[Path], Callable[[Path], bool]]:
    """Find the files to take out of an index.

    Returns
    -------
    Deletions
        What became of files that are not there.
    list of Path
        Files that are there and left out of the listing.
    callable
        Tells of a file whether it is still to be taken out: a folder may be renamed meanwhile.
    """
    mounts = {Path(folder) for folder in index.state().manifest.mounts}
    with index.reading() as library:
        held = library.files()
    found = find_deletions(listing, held, mounts, force=force)
    left_out = [path for path, _ in held if listing.leaves_out(path)]
    there = set(left_out)

    def still(path: Path) -> bool:
        return path in there or was_deleted(path, listing, mounts, empty_too=force)

    return found, left_out, still


def take_in(
    index: IndexFolder,
    retriever: "Blip2Retriever",
    embedded: Embedded,
    listing: Listing,
    *,
    force: bool = False,
) -> AddReport:
    """Add what was embedded elsewhere and take out what was deleted, in one commit.

    Parameters
    ----------
    index : IndexFolder
        The index.
    retriever : Blip2Retriever
        The model.
    embedded : Embedded
        What to add.
    listing : Listing
        The folders as they are.
    force : bool
        See `index.deletions.find_deletions`.

    Returns
    -------
    AddReport
    """
    found, left_out, still = to_forget(index, listing, force=force)
    unusable = set(embedded.unusable)
    forget = [*found.deleted, *left_out, *unusable]
    committed = index.commit(embedded, forget, lambda path: path in unusable or still(path))
    known = len(embedded.new) + len(embedded.copies) - committed.added
    report = _with_missing(_report_of(embedded, committed, known), found, listing)
    return _read_again(index, retriever, committed.read_again, report)


def changed_files(index: IndexFolder, files: Iterable[Path]) -> list[Path]:
    """Return the files that are not known with their size and date, in order."""
    with index.reading() as library:
        known = library.marks()
    marks = [(path, file_mark(path)) for path in files]
    return [path for path, mark in marks if mark is None or known.get(os.fsencode(path)) != mark]


def _commit(index: IndexFolder, retriever: "Blip2Retriever", embedded: Embedded) -> AddReport:
    """Commit what was embedded; a known file that holds no photo any more is taken out."""
    committed = index.commit(embedded, embedded.unusable)
    known = embedded.known + len(embedded.new) - committed.added
    report = _report_of(embedded, committed, known)
    return _read_again(index, retriever, committed.read_again, report)


def _report_of(embedded: Embedded, committed: Committed, known: int) -> AddReport:
    """Report on photos that were embedded and committed."""
    return AddReport(
        added=committed.added,
        known=known,
        refused=embedded.refused,
        gone=committed.forgotten,
        renewed=committed.renewed,
        notes=embedded.notes,
        unusable=embedded.unusable,
    )


def _with_missing(report: AddReport, found: Deletions, listing: Listing) -> AddReport:
    """Add to a report which files are kept although they are not there, and which are not read."""
    return replace(
        report,
        away=len(found.away),
        doubted={root: len(files) for root, files in found.doubted.items()},
        not_read=listing.not_read,
    )


def _read_again(
    index: IndexFolder, retriever: "Blip2Retriever", files: list[Path], report: AddReport
) -> AddReport:
    """Read copies of photos that another process took out meanwhile."""
    if not files:
        return report
    again = add_photos(index, retriever, files)
    return _together(replace(report, known=report.known - len(files)), again)


def _together(one: AddReport, other: AddReport) -> AddReport:
    """The sum of two reports on adding."""
    return replace(
        one,
        added=one.added + other.added,
        known=one.known + other.known,
        refused=one.refused + other.refused,
        gone=one.gone + other.gone,
        renewed=one.renewed + other.renewed,
        notes=one.notes + other.notes,
        unusable=one.unusable + other.unusable,
    )
