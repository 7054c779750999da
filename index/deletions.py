"""Which files of an index were deleted, and which are merely away with their drive.

A file that is not there counts as deleted if its folder, or where that is gone the nearest folder
above it, was listed without error and is still the same folder. It counts as away where a folder
on its way was a mount point when it was indexed and is none now, and where its root is empty, as
the mount point of a drive that is not connected is.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from index.hits import Hit, inside
from index.listing import Listing, folder_id, is_mount
from index.manifest import Manifest

SUSPICIOUS = 20  # photos: so many are deleted by hand
SHARE = 0.5  # of a root, from which so many deletions at once are not believed


@dataclass
class Deletions:
    """What became of files that are no longer there.

    Parameters
    ----------
    deleted : list of Path
        To be forgotten.
    away : list of Path
        On a drive that is not connected, or in a folder that could not be looked at: kept.
    doubted : dict
        By root, the files that seem deleted and are kept, since they are most of it.
    """

    deleted: list[Path] = field(default_factory=list)
    away: list[Path] = field(default_factory=list)
    doubted: dict[Path, list[Path]] = field(default_factory=dict)


def find_deletions(
    listing: Listing,
    held: Iterable[tuple[Path, int]],
    mounts: Collection[Path],
    *,
    force: bool = False,
) -> Deletions:
    """Tell of the files of an index that are not there what became of them.

    Parameters
    ----------
    listing : Listing
        The folders as they are.
    held : iterable of (Path, int)
        Every file of the index, with the number of its photo; those outside the roots don't count.
    mounts : collection of Path
        Folders that were mount points when the index was made.
    force : bool
        Believe every deletion that can be told from a drive that is away; an empty root, too, then
        is one that was emptied.

    Returns
    -------
    Deletions
    """
    held = list(held)
    found = Deletions()
    gone: dict[Path, int] = {}
    roots = set(listing.roots)
    known: dict[Path, bool] = {}  # by folder: whether it is in a root
    for path, photo in held:
        folder = path.parent
        if folder not in known:
            known[folder] = folder in roots or not roots.isdisjoint(folder.parents)
        if not (known[folder] or path in roots) or not is_gone(path):
            continue
        if was_deleted(path, listing, mounts, empty_too=force):
            gone[path] = photo
        else:
            found.away.append(path)
    doubted = {} if force else _doubted(listing, held, gone)
    kept = {path for files in doubted.values() for path in files}
    found.deleted = [path for path in gone if path not in kept]
    found.doubted = doubted
    return found


def was_deleted(
    path: Path, listing: Listing, mounts: Collection[Path], *, empty_too: bool = False
) -> bool:
    """Tell of a file that is not there whether it was deleted; see this module."""
    if any(folder in mounts and not is_mount(folder) for folder in path.parents):
        return False
    if not empty_too and any(folder in listing.empty_roots for folder in path.parents):
        return False
    for folder in path.parents:
        if folder in listing.folders:
            return folder_id(folder) == listing.folders[folder]
        if os.path.lexists(folder):
            return False  # it was not listed
    return False


def is_gone(path: Path) -> bool:
    """Tell whether a file is not there; where that can't be told, it may be."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # its folder can't be looked into, or a network is away
        return False
    return False


def mark_away(hit: Hit, manifest: Manifest) -> Hit:
    """Tell of a missing photo whether its drive, or the whole root, is not there either.

    Parameters
    ----------
    hit : Hit
        As it was found.
    manifest : Manifest
        Names the folders that were indexed, and those that were mount points then.

    Returns
    -------
    Hit
        With ``away`` set where it is so.
    """
    if not hit.missing:
        return hit
    return replace(hit, away=is_away(hit.path, manifest))


def is_away(path: Path, manifest: Manifest) -> bool:
    """Tell the same of a file that is not there."""
    above = set(path.parents)
    mounts = above.intersection(map(Path, manifest.mounts))
    roots = above.intersection(map(Path, manifest.roots))
    return any(not is_mount(folder) for folder in mounts) or any(map(_is_empty, roots))


def _doubted(
    listing: Listing, held: list[tuple[Path, int]], gone: Mapping[Path, int]
) -> dict[Path, list[Path]]:
    """By root, files that would be most of its photos: those found elsewhere, too, don't count."""
    if len(gone) <= SUSPICIOUS:
        return {}
    elsewhere = {photo for path, photo in held if path not in gone and not is_gone(path)}
    doubted: dict[Path, list[Path]] = {}
    for root in listing.roots:
        photos = {photo for path, photo in held if inside(path, root)}
        lost = {path: photo for path, photo in gone.items() if inside(path, root)}
        numbers = set(lost.values()) - elsewhere
        if len(numbers) > SUSPICIOUS and len(numbers) > SHARE * len(photos):
            doubted[root] = [path for path, photo in lost.items() if photo not in elsewhere]
    return doubted


def _is_empty(folder: Path) -> bool:
    """Tell whether a folder is gone or holds nothing."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
