"""Where the model looked, as pictures: a photo that glows where the Q-Former's queries attended."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from blip2 import Blip2

SIDE = 640  # pixels, the longer side of a picture
GROUPS = 4
# Queries are alike where less than this part of their attention lies elsewhere. Under it two
# pictures look the same: of mini's queries 14 do on every sample photo, while 7 and 11 stand out.
ALIKE = 0.1
LISTED = 4  # numbers in a name
# From violet over red and amber to pale yellow: lightness rises evenly, so that the order of the
# colours can be read without a key, in print and by the colour-blind.
STOPS = (0.0, 0.3, 0.6, 0.85, 1.0)
COLOURS = ((52, 16, 92), (150, 36, 104), (229, 92, 48), (251, 178, 60), (252, 246, 186))
TINT = 0.62  # of the hottest colour; the rest is the photo
DARK = 0.5  # brightness of the photo where nobody looked


def heat_maps(
    blip2: "Blip2", photo: Image.Image, prompt: str = ""
) -> list[tuple[Image.Image, str]]:
    """Draw where the queries looked, all together and by groups that look alike.

    A map is the attention of the Q-Former over the encoder's cells: where the queries took in the
    most, not why a word was said. A cell also knows of its surroundings, so that a hot spot beside
    a thing may well speak of it. Each picture has a contrast of its own: dark is least, not none.

    Parameters
    ----------
    blip2 : Blip2
        Whose queries are asked.
    photo : PIL.Image.Image
        Mode "RGB".
    prompt : str
        As for :meth:`blip2.Blip2.attention`.

    Returns
    -------
    list of (PIL.Image.Image, str)
        Pictures of at most 640 pixels on the longer side, and what each shows: first all queries,
        then up to four groups, the largest first. Where all look alike there are no groups.

    Raises
    ------
    UserError
        As :meth:`blip2.Blip2.attention`.
    """
    # Shown as they are. Divided by the mean over queries, which takes out the spots that draw all,
    # most of mini's maps came out as background: what the queries share is more often the thing.
    maps = blip2.attention(photo, prompt).numpy()  # [Q, rows, columns]
    scale = min(1.0, SIDE / max(photo.size))
    size = [max(1, round(side * scale)) for side in photo.size]
    small = photo.resize(size, Image.Resampling.LANCZOS)
    pictures = [(overlay(small, maps.mean(0)), f"All {len(maps)} queries")]
    groups = group_queries(maps)
    if len(groups) > 1:
        pictures += [(overlay(small, maps[group].mean(0)), group_name(group)) for group in groups]
    return pictures


def group_queries(maps: np.ndarray) -> list[list[int]]:
    """Put queries together that look at the same parts of a photo.

    Seeds are found farthest first, from the query that is nearest to all; each query goes to its
    nearest seed. The same maps give the same groups.

    Parameters
    ----------
    maps : np.ndarray
        ``[Q, rows, columns]``, each with sum 1.

    Returns
    -------
    list of list of int
        At most four groups of positions in ``maps``, the largest first. Each query is in one.
    """
    flat = maps.reshape(len(maps), -1)  # [Q, N]
    apart = np.stack([np.abs(flat - one).sum(-1) / 2 for one in flat])  # [Q, Q], of the attention
    seeds = [int(apart.sum(1).argmin())]
    while len(seeds) < GROUPS and apart[seeds].min(0).max() > ALIKE:
        seeds.append(int(apart[seeds].min(0).argmax()))
    nearest = apart[seeds].argmin(0)  # [Q]
    groups = [np.flatnonzero(nearest == seed).tolist() for seed in range(len(seeds))]
    return sorted(groups, key=lambda group: (-len(group), group))


def group_name(group: list[int]) -> str:
    """Say which queries a group holds, counted from 1."""
    numbers = [str(query + 1) for query in group]
    if len(numbers) > LISTED:
        return f"{len(numbers)} queries: {', '.join(numbers[: LISTED - 1])} ..."
    return f"{'Query' if len(numbers) == 1 else 'Queries'} {', '.join(numbers)}"


def overlay(photo: Image.Image, heat: np.ndarray) -> Image.Image:
    """Lay a map over a photo: grey and dim where it is low, warm and in colour where it is high.

    Parameters
    ----------
    photo : PIL.Image.Image
        Mode "RGB", ``W x H``.
    heat : np.ndarray
        ``[rows, columns]``, not negative, over the whole photo.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", ``W x H``.
    """
    warm = warmth(heat, photo.size)[..., None]  # [H, W, 1]
    colour = np.asarray(photo, np.float32)  # [H, W, 3]
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]  # [H, W, 1]
    seen = (grey + (colour - grey) * warm) * (DARK + (1 - DARK) * warm)
    ramp = [np.interp(warm[..., 0], STOPS, channel) for channel in zip(*COLOURS, strict=True)]
    tint = TINT * warm
    return Image.fromarray((seen * (1 - tint) + np.stack(ramp, -1) * tint).astype(np.uint8))


def warmth(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretch a map to a picture of ``size`` (width, height), from 0 for low to 1 for high.

    Cells grow smoothly into each other. The ends are percentiles: one hot cell does not darken
    the rest, and a map that is almost even is not blown up to one with contrast.
    """
    cells = Image.fromarray(heat.astype(np.float32) / heat.mean())  # 1 is an even look
    smooth = np.asarray(cells.resize(size, Image.Resampling.BICUBIC)).clip(0)  # [H, W]
    low, high = np.percentile(smooth, (30, 99))
    return ((smooth - low) / max(high - low, 0.25)).clip(0, 1)
