"""Photos to try the page with, and where the index of a folder of photos is kept."""

import hashlib
import importlib.util
import re
from pathlib import Path

from blip2.assets import cache_dir

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
    from index.manifest import FORMAT  # an index of another format is built anew beside the old

    place = str(photos.resolve()) if photos else "samples"
    name = re.sub(r"[^\w-]+", "-", photos.resolve().name if photos else "samples")[:40]
    key = f"{place}|{fingerprint}|{FORMAT}"
    # Half a surrogate pair, which stands for a byte that is not UTF-8, keeps its own code.
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    return cache_dir() / "libraries" / f"{name}-{digest}"
