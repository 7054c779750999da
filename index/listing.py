"""Folders listed: the photos in them, what is left out, and which folders are mount points."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from blip2.processing import SUFFIXES
from index.places import caseless

# Recycle bins, thumbnails and the bookkeeping of NAS boxes and operating systems, whatever the
# case. Names that begin with a dot (.Trash, .thumbnails) are left out with all hidden ones.
NOT_PHOTOS = (
    "@eaDir",
    "#recycle",
    "@Recycle",
    "@Recently-Snapshot",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "__MACOSX",
    "lost+found",
    "Thumbs.db",
)
NO_MEDIA = ".nomedia"  # a file of this name leaves out its folder, as on Android
# Pictures and videos that are not read here: a report counts them, so that nobody misses them.
_RAW = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2",
    ".srf", ".srw", ".x3f",
)  # fmt: skip
_PICTURES = (
    ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".psd", ".psb", ".xcf", ".svg", ".eps", ".exr",
    ".hdr", ".ico", ".tga", ".dds", ".pcx", ".ppm", ".pgm", ".heics", ".avci",
)  # fmt: skip
_VIDEOS = (
    ".3gp", ".avi", ".insv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".webm", ".wmv",
)  # fmt: skip
NOT_READ = frozenset(_RAW + _PICTURES + _VIDEOS)


@dataclass
class Listing:
    """What was found in folders, at one moment.

    Parameters
    ----------
    roots : list of Path
        The files and folders that were named, absolute, links resolved but for a file's own name.
    files : list of Path
        Photos, each once: those in folders by name, and whatever file was named.
    unreadable : list of (Path, str)
        Folders that could not be listed, each with the reason.
    folders : dict
        Every folder that was listed without error, with its device and inode.
    mounts : set of Path
        Folders among these, and above the roots, on which another file system is mounted.
    empty_roots : set of Path
        Roots that hold nothing at all.
    excluded : set of Path
        Files and folders that were left out by name, pattern or `NO_MEDIA`.
    suffixes : Counter
        How many files are no photos by their names, by suffix.
    """

    roots: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    folders: dict[Path, tuple[int, int]] = field(default_factory=dict)
    mounts: set[Path] = field(default_factory=set)
    empty_roots: set[Path] = field(default_factory=set)
    excluded: set[Path] = field(default_factory=set)
    suffixes: Counter[str] = field(default_factory=Counter)

    @property
    def not_read(self) -> dict[str, int]:
        """Pictures and videos of kinds that are not read here: numbers by suffix."""
        return {suffix: n for suffix, n in sorted(self.suffixes.items()) if suffix in NOT_READ}

    def leaves_out(self, path: Path) -> bool:
        """Tell whether a file was left out, by itself or with a folder above it."""
        if not self.excluded:
            return False
        return path in self.excluded or not self.excluded.isdisjoint(path.parents)


def list_photos(paths: Iterable[Path], exclude: Sequence[str] = ()) -> Listing:
    """List photos, walking folders.

    In folders, files with the suffix of a photo are taken and links are followed. Hidden files and
    folders, `NOT_PHOTOS`, folders with a file `NO_MEDIA` and what ``exclude`` names are left out.
    A file that is named is taken whatever it is called.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders; they need not exist.
    exclude : sequence of str
        Patterns as the shell has them, whatever the case: of a file's or folder's name, or, where
        there is a slash in it, of its path below the root.

    Returns
    -------
    Listing
    """
    listing = Listing()
    found: dict[Path, None] = {}
    patterns = [caseless(pattern) for pattern in exclude if pattern.strip("/")]
    above: set[Path] = set()
    for path in paths:
        root = resolve_root(path)
        listing.roots.append(root)
        above.update(root.parents)
        if os.path.isdir(root):
            _walk(root, patterns, listing, found)
        else:
            found[root] = None
    listing.mounts.update(folder for folder in above if is_mount(folder))
    listing.files = list(found)
    return listing


def resolve_root(path: Path) -> Path:
    """Return the absolute path of what a user names, the same however it is reached.

    Links are resolved, those of a named file only in its folder, so that a photo keeps its name.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir() or not path.is_symlink():
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def is_mount(folder: Path) -> bool:
    """Tell whether another file system begins at a folder, also behind a link."""
    if folder == folder.parent:
        return False  # there is always one at the root
    try:
        return os.path.ismount(folder) or os.stat(folder).st_dev != os.stat(folder.parent).st_dev
    except OSError:
        return False


def folder_id(folder: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a folder, None where it can't be looked at."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _walk(root: Path, patterns: list[str], listing: Listing, found: dict[Path, None]) -> None:
    """List the photos of a folder in the order of their names."""
    entered: set[tuple[int, int]] = set()  # a link may lead back to a folder above it

    def refuse(error: OSError) -> None:
        reason = f"It cannot be read: {error.strerror}."
        listing.unreadable.append((Path(error.filename), reason))

    for name, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        folder = Path(name)
        own = folder_id(folder)
        if own is None or own in entered:
            inner.clear()  # tells `os.walk` to go no deeper
            continue
        entered.add(own)
        listing.folders[folder] = own
        if is_mount(folder):
            listing.mounts.add(folder)
        if folder == root and not inner and not names:
            listing.empty_roots.add(root)
        if NO_MEDIA in names:
            listing.excluded.add(folder)
            inner.clear()
            continue
        inner[:] = _kept(folder, inner, root, patterns, listing)
        for name in _kept(folder, names, root, patterns, listing):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                found[folder / name] = None
            else:
                listing.suffixes[suffix] += 1


def _kept(
    folder: Path, names: list[str], root: Path, patterns: list[str], listing: Listing
) -> list[str]:
    """Names of a folder that are not left out, in order."""
    kept = []
    for name in sorted(names):
        if name[0] == ".":
            continue
        if caseless(name) in _NOT_PHOTOS or _matches(folder / name, root, patterns):
            listing.excluded.add(folder / name)
        else:
            kept.append(name)
    return kept


def _matches(path: Path, root: Path, patterns: list[str]) -> bool:
    if not patterns:
        return False
    name, below = caseless(path.name), caseless(str(path.relative_to(root)))
    return any(
        fnmatchcase(below if "/" in pattern.strip("/") else name, pattern.strip("/"))
        for pattern in patterns
    )


_NOT_PHOTOS = frozenset(caseless(name) for name in NOT_PHOTOS)
