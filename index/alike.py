"""Photos that are nearly the same, folded into one: a copy saved anew, scaled, or cropped a little.

Embeddings say what is in a photo: two tennis players on two courts may be as alike as a photo and a
poor copy of it. So photos whose embeddings are alike are looked at as well, at a few pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from blip2.errors import UserError
from index.hits import Hit

# Chosen on 1,000 photos of Flickr8k (dev) with mini-itm: of 200 at JPEG quality 40, at half the
# size (112 pixels), cropped by 5 % or a tenth brighter, 98 % or more fold, and of different photos
# none. By embeddings alone, 535 would fold into another photo (tests/benchmarks/thresholds.py).
ALIKE = 0.8  # likeness of embeddings
LOOK = 0.8  # correlation of pixels
SIDE = 12  # pixels that are compared
EVEN = 4.0  # grey levels of contrast below which a photo counts as one colour
REMEMBERED = 10_000  # photos, 1.7 kB each


@dataclass
class Folded:
    """A photo found, with those that are nearly the same.

    Parameters
    ----------
    hit : Hit
        The first of them.
    alike : list of Hit
        The others, in their order.
    """

    hit: Hit
    alike: list[Hit] = field(default_factory=list)


def fold_alike(
    hits: Sequence[Hit], embeddings: np.ndarray, threshold: float = ALIKE
) -> list[Folded]:
    """Put each photo that is nearly the same as an earlier one under it.

    A photo is compared with those that lead alone, so that no chain of small changes puts
    different photos together; of several it goes to the one that is most like it.

    Parameters
    ----------
    hits : sequence of Hit
        In the order in which they are to be shown.
    embeddings : np.ndarray
        ``[len(hits), Q, d]`` float32, as `PhotoIndex.embeddings_of` returns them; a photo of zeros
        is like no other.
    threshold : float
        Likeness from which two photos are looked at. A file that cannot be opened folds with none.

    Returns
    -------
    list of Folded
        In the same order; together they hold every hit once.
    """
    if len(hits) != len(embeddings):
        raise ValueError(f"expected embeddings of {len(hits)} photos, got {len(embeddings)}")
    folded: list[Folded] = []
    leaders = np.empty_like(embeddings)  # [n, Q, d], of which the first len(folded) are filled
    for hit, own in zip(hits, embeddings, strict=True):
        alike = likeness(own, leaders[: len(folded)])  # [len(folded)]
        near = [folded[i] for i in np.argsort(-alike, kind="stable") if alike[i] >= threshold]
        same = next((leader for leader in near if look_alike(hit, leader.hit)), None)
        if same is not None:
            same.alike.append(hit)
            continue
        leaders[len(folded)] = own
        folded.append(Folded(hit))
    return folded


def likeness(photo: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tell how alike the embeddings of photos are, whichever of two is asked about.

    Each embedding of a photo looks for the best of the other photo's; the mean of that, as in
    `PhotoIndex.similar`, is taken in both directions.

    Parameters
    ----------
    photo : np.ndarray
        ``[Q, d]`` float32, unit length.
    others : np.ndarray
        ``[n, Q, d]`` float32, unit length.

    Returns
    -------
    np.ndarray
        ``[n]`` float32, 1 for the same embeddings.
    """
    cosines = others @ photo.T  # [n, Q, Q]: theirs by its own
    return (cosines.max(axis=1).mean(axis=1) + cosines.max(axis=2).mean(axis=1)) / 2  # [n]


def look_alike(one: Hit, other: Hit) -> bool:
    """Tell whether two photos look the same from afar, but for brightness and contrast."""
    pictures = [_pixels(hit.path, hit.size, hit.modified) for hit in (one, other)]
    return all(p is not None for p in pictures) and float(pictures[0] @ pictures[1]) >= LOOK


@lru_cache(REMEMBERED)
def _pixels(path: Path, size: int, modified: str) -> np.ndarray | None:
    """A photo at `SIDE` pixels, as a unit vector without its mean colour."""
    from blip2.processing import open_photo

    try:
        photo = open_photo(path, enough=4 * SIDE).resize((SIDE, SIDE), Image.Resampling.BOX)
    except UserError:
        return None
    pixels = np.asarray(photo, dtype=np.float32).reshape(-1, 3)  # [SIDE * SIDE, 3]
    contrast = (pixels - pixels.mean(axis=0)).ravel()
    # One more number, the same for all: photos of one colour have noise for contrast.
    vector = np.append(contrast, EVEN * len(contrast) ** 0.5)
    return vector / np.linalg.norm(vector)
