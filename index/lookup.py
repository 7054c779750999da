"""Looking into an index without searching it: what it holds, and whether it is whole."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from blip2.processing import READING_VERSION
from index.folder import IndexFolder
from index.manifest import IndexFileError
from index.places import normalised, spellings


def describe(index: IndexFolder) -> dict:
    """Describe an index; see `index.search.PhotoIndex.info`."""
    state = index.state()
    manifest = state.manifest
    with index.library.reading(manifest.generation) as library:
        photos, files = library.counts()
    return {
        "folder": str(index.path),
        "photos": photos,
        "files": files,
        "retriever": manifest.retriever,
        "fingerprint": manifest.fingerprint,
        "queries": manifest.queries,
        "dim": manifest.dim,
        "store": state.store.kind,
        "search": state.store.search,
        "vectors_bytes": state.store.size(),
        "generation": manifest.generation,
        "roots": manifest.roots,
        "exclude": manifest.exclude,
        "written": manifest.written,
    }


def check_whole(index: IndexFolder) -> list[Path]:
    """Compare an index's parts; see `index.search.PhotoIndex.verify`."""
    state = index.load()
    with index.library.reading(state.manifest.generation) as library:
        problems = library.damage()
        if state.store.ids().tolist() != library.ids():
            problems.append("photos and vectors differ")
        problems += state.store.damage()
        if problems:
            raise IndexFileError(
                f"The index {index.path} is damaged: {'; '.join(problems)}. "
                "Restore it from a copy or build it anew in another folder."
            )
        files = library.files()
    return [path for path, _ in files if not os.path.isfile(path)]


def kept_photo(index: IndexFolder, path: str | Path) -> tuple[int, np.ndarray] | None:
    """Look up the photo that a file holds.

    Parameters
    ----------
    index : IndexFolder
        Where to look.
    path : str or Path
        The file, which is not read.

    Returns
    -------
    (int, np.ndarray) or None
        Its number and its embeddings ``[Q, d]`` float32; None if the file is not in the index, or
        was changed since.
    """
    state = index.state()
    with index.library.reading(state.manifest.generation) as library:
        found = next(filter(None, map(library.photo_at, spellings(Path(path)))), None)
    if found is None:
        return None
    photo, place = found
    try:
        status = os.stat(place.path)
    except OSError:  # it is away, or was deleted: what is known of it is all that there is
        return photo, state.store.embeddings_of(photo)
    if (status.st_size, status.st_mtime_ns) != (place.size, place.mtime_ns):
        return None
    return photo, state.store.embeddings_of(photo)


def photo_of_content(index: IndexFolder, sha256: str) -> tuple[int, int, np.ndarray] | None:
    """Look up a photo by its content, for another index of the same model.

    Parameters
    ----------
    index : IndexFolder
        Where to look.
    sha256 : str
        Of its file, in hex.

    Returns
    -------
    (int, int, np.ndarray) or None
        Width, height and embeddings ``[Q, d]`` float32; None if it is not there, or was read by an
        earlier version.
    """
    state = index.state()
    with index.library.reading(state.manifest.generation) as library:
        photo = library.photo_of(sha256)
        if photo is None or library.reading_of(photo) < READING_VERSION:
            return None
        width, height = library.size_of(photo)
    return width, height, state.store.embeddings_of(photo)


def newest_files(index: IndexFolder, count: int) -> list[Path]:
    """Return a file of each of the photos that came last, the newest first.

    Parameters
    ----------
    index : IndexFolder
        Where to look.
    count : int
        Photos at most.
    """
    state = index.state()
    newest = state.store.ids()[::-1][:count].tolist()
    with index.library.reading(state.manifest.generation) as library:
        places = [library.places_of(photo) for photo in newest]
    return [own[0].path for own in places if own]


def known_contents(index: IndexFolder, digests: Iterable[str]) -> set[str]:
    """Return those of some contents that are in the index.

    Parameters
    ----------
    index : IndexFolder
        Where to look.
    digests : iterable of str
        SHA-256 of files, in hex.
    """
    with index.reading() as library:
        return {digest for digest in digests if library.photo_of(digest) is not None}


def filled_folders(index: IndexFolder, top: Path) -> list[Path]:
    """Return the folders directly under one that hold photos of the index, by name.

    Parameters
    ----------
    index : IndexFolder
        Where to look.
    top : Path
        The folder above them; without folders, or gone, it gives none.
    """
    top = Path(os.path.abspath(top))
    try:
        with os.scandir(top) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    with index.reading() as library:
        filled = library.folders_under(top)
    return [top / name for name in names if normalised(name) in filled]
