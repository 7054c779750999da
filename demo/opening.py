"""The library of the page opened: made, brought up to date, and told of what is missing in it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from demo.library import FIRST_SHOWN, Library
from demo.sources import known_elsewhere, library_folder, sample_photos

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from index import AddReport


def open_library(
    retriever: "Blip2Retriever",
    photos: Path | None,
    folder: Path | None,
    thumbnails: Path,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Library, "AddReport"]:
    """Open the library of the page and bring it up to date with its folder.

    Photos of a library that has moved to another folder are known by their content, and not
    embedded again.

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
    scratch : Path, optional
        Folder for the private photos of visits; see `demo.library.Library`.
    say : callable, optional
        Gets a sentence on what takes long and was not asked for.

    Returns
    -------
    Library, AddReport
        The library, and what came of bringing it up to date.

    Raises
    ------
    UserError
        If the index cannot be used.
    """
    from index import PhotoIndex
    from index.grow import UpdateOptions
    from index.listing import list_photos

    if photos is not None:
        sources = [photos]
    elif folder is not None and PhotoIndex.exists(folder):
        sources = []
    else:
        sources = sample_photos()
    folder = folder or library_folder(photos, retriever.fingerprint)
    opened = PhotoIndex.open if PhotoIndex.exists(folder) else PhotoIndex.create
    index = opened(folder, retriever)
    elsewhere = known_elsewhere(retriever.fingerprint, folder)
    options = UpdateOptions(say=say, elsewhere=elsewhere)
    listing = list_photos(sources, index.folder.state().manifest.exclude)
    report = index.update(listing, progress, options)
    first = listing.files[:FIRST_SHOWN]
    library = Library(index, folder, thumbnails, first, photos, scratch)
    library.report = report
    return library, report
