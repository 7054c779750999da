"""The best photos looked at again: ITM reads photo and text together."""

from dataclasses import replace
from typing import TYPE_CHECKING

from index.embed import BATCH_SIZE
from index.hits import Hit

if TYPE_CHECKING:
    from blip2 import Blip2Retriever


def rerank_hits(retriever: "Blip2Retriever", hits: list[Hit], text: str) -> list[Hit]:
    """Order hits by the joint score of ITC and ITM.

    Parameters
    ----------
    retriever : Blip2Retriever
        The model.
    hits : list of Hit
        By similarity.
    text : str
        What was looked for.

    Returns
    -------
    list of Hit
        With their probabilities; those whose file cannot be opened keep their order, at the end.
    """
    from blip2.retrieval import joint_score

    matched = match_hits(retriever, hits, text)
    gone = [hit for hit in matched if hit.missing]
    found = [hit for hit in matched if not hit.missing]

    def joint(hit: Hit) -> float:
        return float(joint_score(hit.score, hit.match, retriever.temperature))

    return sorted(found, key=joint, reverse=True) + sorted(gone, key=lambda hit: -hit.score)


def match_hits(retriever: "Blip2Retriever", hits: list[Hit], text: str) -> list[Hit]:
    """Judge by ITM whether photos belong with a text.

    Parameters
    ----------
    retriever : Blip2Retriever
        The model.
    hits : list of Hit
        In any order.
    text : str
        What was looked for.

    Returns
    -------
    list of Hit
        In that order, with their probabilities; where a file cannot be opened, ``missing`` instead.
    """
    there = [hit for hit in hits if not hit.missing]
    matched = []
    for start in range(0, len(there), BATCH_SIZE):
        matched += _match(retriever, there[start : start + BATCH_SIZE], text)
    judged = iter(matched)
    return [hit if hit.missing else next(judged) for hit in hits]


def _match(retriever: "Blip2Retriever", hits: list[Hit], text: str) -> list[Hit]:
    from blip2.processing import PhotoError

    try:
        scores = retriever.match([hit.path for hit in hits], [text] * len(hits), BATCH_SIZE)
    except PhotoError:
        if len(hits) == 1:
            return [replace(hits[0], missing=True)]
        return [matched for hit in hits for matched in _match(retriever, [hit], text)]
    return [replace(hit, match=p) for hit, p in zip(hits, scores.tolist(), strict=True)]
