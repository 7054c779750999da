"""What a search gives the page: photos ready to show, like ones folded, and what is gone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from demo.thumbnails import Thumbnails

if TYPE_CHECKING:
    from blip2 import Blip2Retriever
    from index import Hit

# A text fits no photo if the best joint score of similarity and ITM is below this: so are 0.2 % of
# captions of photos in a library of 1,000 (Flickr8k dev, mini-itm) and 28 % of 43 absent subjects;
# fewer where more photos are judged, as re-ranking does. At 8.5 it would be 70 % of these, and 4 %
# of the captions (tests/benchmarks/thresholds.py), but photos of other kinds than Flickr8k's have
# lower scores: "a wild animal" finds the sample cheetahs at 7.3.
NO_MATCH = 7.0
SURE = 0.8  # probability by ITM that settles it, whatever the similarity
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
    best : float or None
        Of the probabilities by ITM of the best photos, the greatest; None where there was no text.
    fit : float or None
        Of their joint scores, the greatest.
    """

    shown: list[Shown] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    best: float | None = None
    fit: float | None = None

    @property
    def poor(self) -> bool:
        """Whether no photo seems to fit the text."""
        return self.poor_at(NO_MATCH)

    def poor_at(self, line: float) -> bool:
        """The same with another line than `NO_MATCH`."""
        return self.best is not None and self.best < SURE and self.fit < line

    def judge(self, hits: Sequence["Hit"], temperature: float) -> None:
        """Set ``best`` and ``fit`` by hits, those with a probability; see `joint_score`."""
        from blip2.retrieval import joint_score  # late: it needs torch

        judged = [hit for hit in hits if hit.match is not None]
        if judged:
            scores, matches = [hit.score for hit in judged], [hit.match for hit in judged]
            self.best = max(matches)
            self.fit = float(joint_score(scores, matches, temperature).max())


def judge_first(
    found: Found, retriever: "Blip2Retriever", hits: Sequence["Hit"], text: str
) -> None:
    """Judge the first hit by ITM, and the others where it does not fit: one settles it for all.

    Parameters
    ----------
    found : Found
        What was found; ``best`` and ``fit`` are those of the hits judged.
    retriever : Blip2Retriever
        The model.
    hits : sequence of Hit
        The likeliest first.
    text : str
        What was looked for.
    """
    from index.rerank import match_hits

    judged: list[Hit] = []
    for some in (hits[:1], hits[1:]):
        judged += match_hits(retriever, list(some), text)
        found.judge(judged, retriever.temperature)
        if found.best is not None and not found.poor:
            return


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
