"""The photos that the page searches: their index, copies of uploads, and thumbnails to show."""

import hashlib
import importlib.util
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from blip2.assets import cache_dir
from blip2.errors import UserError
from blip2.processing import FORMATS, PhotoError
from demo.uploads import open_received

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from index import AddReport, Hit, PhotoIndex

THUMBNAIL = 720  # pixels, the longer side; also what a click enlarges
RERANKED = 32  # candidates that the slower matching looks at again
FIRST_SHOWN = 12
# Photos that come with installed packages: public domain or free licences, nothing to download.
SAMPLES = {
    "skimage": [
        "data/chelsea.png",
        "data/astronaut.png",
        "data/coffee.png",
        "data/rocket.jpg",
        "data/motorcycle_left.png",
    ],
    "gradio": [
        f"media_assets/images/{name}.jpg" for name in ("cheetah", "cheetah1", "lion", "tower")
    ],
}
_SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}


@dataclass(frozen=True)
class Shown:
    """A photo found, ready for the gallery.

    Parameters
    ----------
    thumbnail : Path
        A small copy, the only thing ever served.
    name : str
        Of the photo's file.
    hit : Hit
        Rank and scores.
    """

    thumbnail: Path
    name: str
    hit: "Hit"


@dataclass
class Found:
    """What a search gave.

    Parameters
    ----------
    shown : list of Shown
        Best first.
    lost : list of str
        Names of photos that matched and can no longer be shown.
    """

    shown: list[Shown] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Library:
    """An index of photos with what the page needs around it.

    Parameters
    ----------
    index : PhotoIndex
        Open.
    folder : Path
        The index folder; uploads are kept in its folder ``uploads``.
    thumbnails : Path
        Folder for thumbnails.
    first : list of Path
        Photos to show before any search.
    """

    def __init__(
        self, index: "PhotoIndex", folder: Path, thumbnails: Path, first: Iterable[Path] = ()
    ) -> None:
        self._index = index
        self._uploads = folder / "uploads"
        self._thumbnails = thumbnails
        self._first = list(first)

    def __len__(self) -> int:
        return len(self._index)

    def first(self) -> list[tuple[Path, str]]:
        """Return thumbnails and names of photos to show before any search."""
        shown = []
        for path in self._first:
            try:
                shown.append((self.thumbnail(path), path.name))
            except UserError:  # refused by the index too, which has said so
                continue
        return shown

    def search(self, text: str, count: int, rerank: bool) -> Found:
        """Find photos by words.

        Parameters
        ----------
        text : str
            What to find.
        count : int
            Photos at most.
        rerank : bool
            Look at the best candidates again with the slower matching.

        Returns
        -------
        Found
        """
        found = Found()
        candidates = max(count, RERANKED) if rerank else 0
        for hit in self._index.search(text, k=count, rerank=candidates):
            try:
                if hit.missing:
                    raise PhotoError("It was deleted.")
                found.shown.append(Shown(self.thumbnail(hit.path), hit.path.name, hit))
            except UserError:  # deleted or damaged since it was indexed: the page says so
                found.lost.append(hit.path.name)
        return found

    def add(
        self,
        files: Iterable[tuple[Path, str]],
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple["AddReport", list[tuple[str, str]]]:
        """Add received photos; copies are kept in the library's folder.

        Parameters
        ----------
        files : iterable of (Path, str)
            Where each lies, and its name.
        progress : callable, optional
            Called as (photos done, photos in all).

        Returns
        -------
        AddReport, list of (str, str)
            What the index did; names of refused files, each with the reason.
        """
        refused: list[tuple[str, str]] = []
        kept: dict[Path, str] = {}
        for path, name in files:
            try:
                kept[self._keep(path, name)] = name
            except UserError as error:
                refused.append((name, str(error)))
        report = self._index.add(list(kept), progress=progress)
        refused += [(kept.get(path, path.name), reason) for path, reason in report.refused]
        return report, refused

    def thumbnail(self, path: Path) -> Path:
        """Return a small copy of a photo, made now if there is none yet.

        Parameters
        ----------
        path : Path
            The photo.

        Returns
        -------
        Path
            A JPEG file, at most `THUMBNAIL` pixels on its longer side.

        Raises
        ------
        UserError
            If the photo is gone or damaged.
        """
        try:
            state = path.stat()
        except OSError:
            raise PhotoError(f"The photo {path.name} is no longer there.") from None
        key = f"{path}|{state.st_size}|{state.st_mtime_ns}"
        small = self._thumbnails / f"{hashlib.sha256(key.encode(errors='replace')).hexdigest()}.jpg"
        if not small.exists():
            photo = open_received(path)
            photo.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            self._thumbnails.mkdir(parents=True, exist_ok=True)
            with _aside(small) as part:
                photo.save(part, "JPEG", quality=86)
        return small

    def _keep(self, path: Path, name: str) -> Path:
        """Copy a received photo, once it has proved to be one, to a name that is safe anywhere."""
        open_received(path)
        with Image.open(path, formats=FORMATS) as header:
            suffix = _SUFFIX.get(header.format, f".{header.format.lower()}")
        stem = re.sub(r"[^\w-]+", "-", Path(name).stem).strip("-")[:60] or "photo"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        kept = self._uploads / digest / f"{stem}{suffix}"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with _aside(kept) as part:
                shutil.copyfile(path, part)
        return kept


def open_library(
    retriever: "Blip2Retriever",
    photos: Path | None,
    folder: Path | None,
    thumbnails: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Library, "AddReport"]:
    """Open the library of the page, indexing what is new.

    Parameters
    ----------
    retriever : Blip2Retriever
        Makes the embeddings.
    photos : Path, optional
        Folder of photos. Without it and without an index, sample photos are taken.
    folder : Path, optional
        Index folder; one in the cache, named by photos and model, unless given.
    thumbnails : Path
        Folder for thumbnails.
    progress : callable, optional
        Called as (photos done, photos in all).

    Returns
    -------
    Library, AddReport
        The library, and what was added to its index now.

    Raises
    ------
    UserError
        If the index cannot be used.
    """
    from index import PhotoIndex
    from index.embed import find_photos

    if photos is not None:
        sources = [photos]
    elif folder is not None and PhotoIndex.exists(folder):
        sources = []
    else:
        sources = sample_photos()
    folder = folder or library_folder(photos, retriever.fingerprint)
    opened = PhotoIndex.open if PhotoIndex.exists(folder) else PhotoIndex.create
    index = opened(folder, retriever)
    report = index.add(sources, progress=progress)
    first = find_photos(sources)[0][:FIRST_SHOWN]
    return Library(index, folder, thumbnails, first), report


def library_folder(photos: Path | None, fingerprint: str) -> Path:
    """Return where the index of a folder of photos is kept, for one retriever.

    Parameters
    ----------
    photos : Path, optional
        The folder; None for the sample photos.
    fingerprint : str
        Of the retriever: an index belongs to exactly one.

    Returns
    -------
    Path
        In the cache of blip2; it need not exist.
    """
    from index.manifest import FORMAT  # an index of another format is built anew beside the old

    place = str(photos.resolve()) if photos else "samples"
    name = re.sub(r"[^\w-]+", "-", photos.resolve().name if photos else "samples")[:40]
    digest = hashlib.sha256(f"{place}|{fingerprint}|{FORMAT}".encode(errors="replace")).hexdigest()[
        :16
    ]
    return cache_dir() / "libraries" / f"{name}-{digest}"


def sample_photos() -> list[Path]:
    """Return the photos that come with installed packages, without importing them."""
    found = []
    for package, names in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        for home in spec.submodule_search_locations or () if spec else ():
            found += [path for name in names if (path := Path(home, name)).is_file()]
    return found


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Give a name to write to, renamed once it is whole."""
    part = path.with_name(f".{path.name}.part")
    yield part
    part.replace(path)
