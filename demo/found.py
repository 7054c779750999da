"""What a search gives the page: photos ready to show, like ones folded, and what is gone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from demo.thumbnails import Thumbnails

if TYPE_CHECKING:
    from index import Hit
    from index.verdict import Verdict

MOST = 4096  # hits looked at: where so many are nearly the same photo, fewer are shown


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
    alike : list of str
        Names of photos that are nearly the same and therefore not shown.
    """

    thumbnail: Path
    name: str
    hit: "Hit"
    alike: list[str] = field(default_factory=list)


@dataclass
class Found:
    """What a search gave.

    Parameters
    ----------
    shown : list of Shown
        Best first.
    lost : list of str
        Names of photos that matched and can no longer be shown.
    away : list of str
        Names of those that matched and cannot be shown until their drive is back.
    verdict : Verdict or None
        How well the best photos fit the text; None where there was no text.
    notes : tuple of str
        Sentences on what of the text was not read.
    """

    shown: list[Shown] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    verdict: "Verdict | None" = None
    notes: tuple[str, ...] = ()


def show_hits(
    hits: list["Hit"],
    head: list["Hit"],
    count: int,
    more: Callable[[int], list["Hit"]],
    embeddings_of: Callable[[Sequence["Hit"]], np.ndarray] | None,
    thumbnails: Thumbnails,
) -> Found:
    """Make hits ready for the gallery, asking for more of them until there are enough.

    Parameters
    ----------
    hits : list of Hit
        By similarity.
    head : list of Hit
        The first of them in another order, which are shown first; may be empty.
    count : int
        Photos to show.
    more : callable
        Gives so many hits, or as many as there are.
    embeddings_of : callable, optional
        Gives the embeddings of hits, ``[n, Q, d]``; without it, nothing is folded.
    thumbnails : Thumbnails
        Makes what is shown.

    Returns
    -------
    Found
        ``count`` photos, unless there are fewer that differ among the first `MOST` hits.
    """
    from index import Folded, fold_alike

    placed = {hit.path for hit in head}
    broken: set[Path] = set()
    asked = len(hits)
    while True:
        ordered = head + [hit for hit in hits if hit.path not in placed]
        there = [hit for hit in ordered if not hit.missing and hit.path not in broken]
        if embeddings_of is None:
            folded = [Folded(hit) for hit in there]
        else:
            folded = fold_alike(there, embeddings_of(there))
        if len(folded) < count and len(hits) >= asked and asked < MOST:
            asked = 2 * max(asked, count)
            hits = more(asked)
            continue
        folded = folded[:count]
        small = thumbnails.make_all(own.hit.path for own in folded)
        failed = {own.hit.path for own, made in zip(folded, small, strict=True) if made is None}
        if not failed:
            break
        broken |= failed  # its place is taken by a copy of it, or by the next photo
    found = Found()
    for rank, (own, made) in enumerate(zip(folded, small, strict=True), start=1):
        alike = [hit.path.name for hit in own.alike]
        found.shown.append(Shown(made, own.hit.path.name, replace(own.hit, rank=rank), alike))
    # Photos after the last one shown would not have been shown either.
    end = len(ordered)
    if len(folded) == count:
        end = next(i for i, hit in enumerate(ordered) if hit.path == folded[-1].hit.path)
    unshown = [hit for hit in ordered[:end] if hit.missing or hit.path in broken]
    found.lost = [hit.path.name for hit in unshown if not hit.away]
    found.away = [hit.path.name for hit in unshown if hit.away]
    return found
