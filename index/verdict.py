"""Whether any photo fits a text: what ITM thinks of the best candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index.hits import Hit
from index.rerank import match_hits

if TYPE_CHECKING:
    from blip2 import Blip2Retriever

# A text fits no photo if the best joint score of similarity and ITM is below this: so are 0.2 % of
# captions of photos in a library of 1,000 (Flickr8k dev, mini-itm) and 28 % of 43 absent subjects;
# fewer where more photos are judged, as re-ranking does. At 8.5 it would be 70 % of these, and 4 %
# of the captions (tests/benchmarks/thresholds.py), but photos of other kinds than Flickr8k's have
# lower scores: "a wild animal" finds the sample cheetahs at 7.3.
MIN_SCORE = 7.0
SURE_MATCH = 0.8  # probability by ITM that settles it, whatever the similarity
CANDIDATES = 4  # best photos by similarity that are judged


@dataclass(frozen=True)
class Verdict:
    """How well the best of some photos fit a text.

    Attributes
    ----------
    match : float
        Of their probabilities by ITM, the greatest.
    score : float
        Of their joint scores, the greatest; see `blip2.retrieval.joint_score`.
    """

    match: float
    score: float

    @property
    def fits(self) -> bool:
        """Whether one of them seems to fit."""
        return self.fits_at(MIN_SCORE)

    def fits_at(self, min_score: float) -> bool:
        """The same with another limit than `MIN_SCORE`."""
        return self.match >= SURE_MATCH or self.score >= min_score


def verdict_of(hits: Sequence[Hit], temperature: float) -> Verdict | None:
    """Compare hits that have a probability by ITM; None if there are none.

    Parameters
    ----------
    hits : sequence of Hit
        In any order.
    temperature : float
        Of the retriever.
    """
    from blip2.retrieval import joint_score  # late: it needs torch

    judged = [hit for hit in hits if hit.match is not None]
    if not judged:
        return None
    scores, matches = [hit.score for hit in judged], [hit.match for hit in judged]
    return Verdict(max(matches), float(joint_score(scores, matches, temperature).max()))


def judge_hits(retriever: "Blip2Retriever", hits: Sequence[Hit], text: str) -> Verdict | None:
    """Tell whether any photo fits a text, looking at no more photos than that takes.

    Hits that were re-ranked have been judged already. Of the first `CANDIDATES` the others are
    judged: first the best, and the rest only if that does not fit.

    Parameters
    ----------
    retriever : Blip2Retriever
        The model.
    hits : sequence of Hit
        Best first.
    text : str
        What was looked for.

    Returns
    -------
    Verdict or None
        None where no photo could be judged.
    """
    judged = [hit for hit in hits if hit.match is not None]
    there = [hit for hit in hits if not hit.missing][:CANDIDATES]
    waiting = [hit for hit in there if hit.match is None]
    verdict = verdict_of(judged, retriever.temperature)
    for some in (waiting[:1], waiting[1:]):
        if verdict is not None and verdict.fits:
            break
        judged += match_hits(retriever, some, text)
        verdict = verdict_of(judged, retriever.temperature)
    return verdict
