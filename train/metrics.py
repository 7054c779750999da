"""Figures by which models are compared: recalls of retrieval, and how captions match references.

Scores of retrieval are arrays ``[texts, photos]``; a photo may own several texts. Ties count
against the model: a wrong candidate with the score of the right one stands before it, so that
constant scores give a recall of nothing and not of everything.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from train.tokenise import Tokeniser, best_tokeniser, java_version

AT = (1, 5, 10)
ROWS = 1024  # rows of a score matrix that are ranked at a time, which bounds the memory

# [pairs, 2] of (photo, text) -> [pairs], higher is better
Match = Callable[[np.ndarray], np.ndarray]


def recalls(
    scores: np.ndarray, photo_of_text: np.ndarray, texts: np.ndarray | None = None
) -> dict[str, float]:
    """Recall of the right photo for a text (IR) and of a right text for a photo (TR).

    Parameters
    ----------
    scores : ndarray
        ``[T, P]`` similarity, higher is better.
    photo_of_text : ndarray
        ``[T]`` index of the photo that each text belongs to. Each photo has at least one text.
    texts : ndarray, optional
        Indices of the texts that ask in IR; all by default. TR always chooses among all texts.

    Returns
    -------
    dict
        "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10", each from 0 to 1.

    Raises
    ------
    ValueError
        For shapes that do not fit, scores that are not numbers, or a photo without a text.
    """
    truth = _truth(scores, photo_of_text)
    ask = slice(None) if texts is None else texts
    return _as_recalls(_ranks(scores.T, truth.T), _ranks(scores[ask], truth[ask]))


def match_candidates(
    scores: np.ndarray, match: Match, k_test: int, texts: np.ndarray | None = None
) -> np.ndarray:
    """Score anew the ``k_test`` best photos of each text and the best texts of each photo.

    A pair that is a candidate in both directions is scored once.

    Parameters
    ----------
    scores : ndarray
        ``[T, P]`` similarity that chooses the candidates; of equals the first come first.
    match : callable
        Called once with all pairs ``[N, 2]`` of (photo index, text index), sorted by photo and
        then text; returns their scores ``[N]``.
    k_test : int
        Candidates a query, at least 1.
    texts : ndarray, optional
        Indices of the texts whose photos are re-ranked; all by default.

    Returns
    -------
    ndarray
        ``[T, P]`` of `match`'s scores, minus infinity where no pair was scored.
    """
    image_candidates, text_candidates = _candidates(scores, k_test, texts)
    pairs = np.argwhere((image_candidates | text_candidates).T)  # [N, 2] photo, text
    given = np.asarray(match(pairs), dtype=np.float64)
    if given.shape != (len(pairs),) or np.isnan(given).any():
        raise ValueError(f"match gave {given.shape} scores, or NaN, for {len(pairs)} pairs")
    matched = np.full(scores.shape, -np.inf)
    matched[pairs[:, 1], pairs[:, 0]] = given
    return matched


def reranked_recalls(
    scores: np.ndarray,
    matched: np.ndarray,
    photo_of_text: np.ndarray,
    k_test: int,
    texts: np.ndarray | None = None,
) -> dict[str, float]:
    """Recalls when each query's candidates are put in the order of `matched`.

    All other items follow behind the candidates in their first order.

    Parameters
    ----------
    scores, k_test, texts
        As given to :func:`match_candidates`.
    matched : ndarray
        ``[T, P]`` scores of the candidates.
    photo_of_text : ndarray
        ``[T]`` index of the photo that each text belongs to.

    Returns
    -------
    dict
        As :func:`recalls`; IR over `texts`.
    """
    truth = _truth(scores, photo_of_text)
    image_candidates, text_candidates = _candidates(scores, k_test, texts)
    ask = slice(None) if texts is None else texts
    to_photo = _reranks(scores[ask], matched[ask], image_candidates[ask], truth[ask])
    to_text = _reranks(scores.T, matched.T, text_candidates.T, truth.T)
    return _as_recalls(to_text, to_photo)


def fit_match_temperature(
    scores: np.ndarray,
    matched: np.ndarray,
    photo_of_text: np.ndarray,
    temperature: float,
    k_test: int,
    texts: np.ndarray | None = None,
) -> float:
    """Divisor of ITM's log-odds under which the joint score finds the right candidate likeliest.

    Each query's candidates compete in a softmax over their joint scores; the divisor that gives
    the right ones the highest likelihood is fitted (Guo et al., ICML 2017).

    Parameters
    ----------
    scores, photo_of_text, k_test, texts
        As given to :func:`match_candidates` and :func:`reranked_recalls`.
    matched : ndarray
        ``[T, P]`` probabilities from ITM, with no divisor or with the one that shall be mended.
    temperature : float
        ITC's.

    Returns
    -------
    float
        Between 0.1 and 100, to be multiplied with the divisor in use.
    """
    from scipy.optimize import minimize_scalar

    from blip2.retrieval import log_odds

    truth = _truth(scores, photo_of_text)
    image_candidates, text_candidates = _candidates(scores, k_test, texts)
    odds = log_odds(matched)  # [T, P]
    queries = []
    for of, candidates, right, similar in (
        (odds, image_candidates, truth, scores),
        (odds.T, text_candidates.T, truth.T, scores.T),
    ):
        for row in np.flatnonzero((candidates & right).any(1)):
            among = candidates[row]
            queries.append((of[row, among], similar[row, among] / temperature, right[row, among]))

    def loss(logarithm: float) -> float:
        total = 0.0
        for own, similar, right in queries:
            joint = own / np.exp(logarithm) + similar
            joint -= joint.max()
            total -= np.log(np.exp(joint[right]).sum() / np.exp(joint).sum())
        return total

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(100)), method="bounded")
    return float(np.exp(found.x))


@dataclass
class CaptionScores:
    """How captions match their references.

    ``metrics`` holds "BLEU-1" to "BLEU-4", "METEOR", "ROUGE-L" and "CIDEr" over all photos, METEOR
    None where it did not run, and then ``note`` says why. ``cider`` has one figure a photo.
    """

    metrics: dict[str, float | None]
    cider: list[float]
    tokeniser: str
    note: str | None = None


def score_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokeniser: Tokeniser | None = None,
    meteor: bool = True,
) -> CaptionScores:
    """Score one caption a photo with the official code of the COCO caption evaluation.

    Parameters
    ----------
    captions : sequence of str
        One a photo; an empty one scores nothing.
    references : sequence of sequences of str
        At least one a photo. CIDEr weighs words by how few photos' references hold them, so it
        depends on the set of photos, and is 0 for a single one.
    tokeniser : Tokeniser, optional
        The best there is by default.
    meteor : bool
        False leaves METEOR out, whose Java program takes ten seconds to start.

    Raises
    ------
    ValueError
        Without captions, or where a photo has no reference.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if not captions or len(captions) != len(references) or not all(references):
        raise ValueError(f"{len(captions)} captions and {len(references)} sets of references")
    tokeniser = tokeniser or best_tokeniser()
    flat = iter(tokeniser([text for texts in references for text in texts]))
    truth = {i: [next(flat) for _ in texts] for i, texts in enumerate(references)}
    result = {i: [text] for i, text in enumerate(tokeniser(captions))}

    # The official code prints as it goes; standard output belongs to the caller.
    with contextlib.redirect_stdout(sys.stderr):
        bleu, _ = Bleu(4).compute_score(truth, result, verbose=0)
        rouge, _ = Rouge().compute_score(truth, result)
        cider, each = Cider().compute_score(truth, result)
        found, note = _meteor(truth, result) if meteor else (None, "METEOR was not asked for")
    metrics: dict[str, float | None] = {f"BLEU-{n + 1}": float(bleu[n]) for n in range(4)}
    metrics |= {"METEOR": found, "ROUGE-L": float(rouge), "CIDEr": float(cider)}
    return CaptionScores(metrics, [float(value) for value in each], tokeniser.name, note)


def _meteor(truth: dict, result: dict) -> tuple[float | None, str | None]:
    """METEOR, or None and the reason: captions that took an hour shall not be lost over it."""
    if java_version() is None:
        return None, "METEOR needs Java, which is not installed"
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        score, _ = scorer.compute_score(truth, result)
    # A Java process that died shows as a broken pipe or as an answer that is no number.
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):  # unsent words go nowhere
            scorer.meteor_p.stdin.close()
        if scorer.lock.locked():  # left so by the failure; its end would wait for it for ever
            scorer.lock.release()
        return None, f"METEOR failed in Java ({error})"
    return float(score), None


def _truth(scores: np.ndarray, photo_of_text: np.ndarray) -> np.ndarray:
    """``[T, P]``, True where the text belongs to the photo."""
    if scores.ndim != 2 or photo_of_text.shape != scores.shape[:1]:
        raise ValueError(f"scores {scores.shape} do not fit {photo_of_text.shape} texts")
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN")
    truth = photo_of_text[:, None] == np.arange(scores.shape[1])
    if not truth.any(0).all() or not truth.any(1).all():
        raise ValueError("each photo needs a text, and each text a photo")
    return truth


def _candidates(
    scores: np.ndarray, k_test: int, texts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """``[T, P]`` twice: the best photos of each text, the best texts of each photo."""
    if k_test < 1:
        raise ValueError(f"k_test is {k_test}; it must be at least 1")
    image_candidates = np.zeros(scores.shape, dtype=bool)
    ask = np.arange(len(scores)) if texts is None else texts
    image_candidates[ask] = _best(scores[ask], k_test)
    return image_candidates, _best(scores.T, k_test).T


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """``[N, M]``, True at the k highest of each row; of equals the first."""
    best = np.zeros(scores.shape, dtype=bool)
    for start in range(0, len(scores), ROWS):
        rows = slice(start, start + ROWS)
        order = np.argsort(-scores[rows], axis=1, kind="stable")[:, :k]
        np.put_along_axis(best[rows], order, True, axis=1)
    return best


def _ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``[N]``: how many wrong items stand before the best right one of each row of ``[N, M]``."""
    ranks = np.empty(len(scores), dtype=np.int64)
    for start in range(0, len(scores), ROWS):
        rows = slice(start, start + ROWS)
        right = np.where(truth[rows], scores[rows], -np.inf).max(1, keepdims=True)
        ranks[rows] = ((scores[rows] >= right) & ~truth[rows]).sum(1)
    return ranks


def _reranks(
    scores: np.ndarray, matched: np.ndarray, candidates: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Ranks after re-ranking; a right item that is no candidate keeps its first rank."""
    first = _ranks(scores, truth)
    right = np.where(truth & candidates, matched, -np.inf).max(1, keepdims=True)
    again = ((matched >= right) & candidates & ~truth).sum(1)
    return np.where((truth & candidates).any(1), again, first)


def _as_recalls(text_ranks: np.ndarray, image_ranks: np.ndarray) -> dict[str, float]:
    out = {f"TR@{k}": float((text_ranks < k).mean()) for k in AT}
    return out | {f"IR@{k}": float((image_ranks < k).mean()) for k in AT}
