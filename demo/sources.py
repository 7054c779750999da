"""Photos to try the page with, and where the index of a folder of photos is kept."""

import hashlib
import importlib.util
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.assets import cache_dir

if TYPE_CHECKING:
    import numpy as np

    from index.embed import Elsewhere

# Public domain or free licences, nothing to download.
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


def sample_photos() -> list[Path]:
    """Return the photos that come with installed packages, without importing them."""
    found = []
    for package, names in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        for home in spec.submodule_search_locations or () if spec else ():
            found += [path for name in names if (path := Path(home, name)).is_file()]
    return found


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
    place = str(photos.resolve()) if photos else "samples"
    name = re.sub(r"[^\w-]+", "-", photos.resolve().name if photos else "samples")[:40]
    key = f"{place}|{fingerprint}|3"  # once the format: kept, so that libraries keep their folders
    # Half a surrogate pair, which stands for a byte that is not UTF-8, keeps its own code.
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    return cache_dir() / "libraries" / f"{name}-{digest}"


def known_elsewhere(fingerprint: str, but: Path) -> "Elsewhere | None":
    """Return a look-up of embeddings by content in the other libraries of a model in the cache.

    Parameters
    ----------
    fingerprint : str
        Of the retriever.
    but : Path
        The library that asks.

    Returns
    -------
    callable or None
        As `index.embed.Reading` takes it; None where there is no other library.
    """
    from index.folder import IndexFolder
    from index.lookup import photo_of_content
    from index.manifest import IndexFileError, Manifest

    others = []
    for manifest in sorted((cache_dir() / "libraries").glob("*/manifest.json")):
        # A damaged library has nothing to give; who opens it is told.
        with suppress(IndexFileError):
            folder = manifest.parent
            if folder != but and Manifest.read(folder).fingerprint == fingerprint:
                others.append(IndexFolder(folder))
    if not others:
        return None

    def look_up(sha256: str) -> tuple[int, int, "np.ndarray"] | None:
        for index in others:
            with suppress(IndexFileError, KeyError):
                if (found := photo_of_content(index, sha256)) is not None:
                    return found
        return None

    return look_up
