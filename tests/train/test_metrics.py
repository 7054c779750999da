"""Recalls against plain loops, caption figures against the formulas of their papers."""

import math
import sys
from collections import Counter

import numpy as np
import pytest

from train import tokenise
from train.metrics import (
    fit_match_temperature,
    match_candidates,
    recalls,
    reranked_recalls,
    score_captions,
)
from train.tokenise import PlainTokeniser, PTBTokeniser, best_tokeniser, java_version


def slow_rank(scores, right):
    """Position of the best right item when each wrong one of equal score stands before it."""
    best = max(scores[i] for i in right)
    return sum(1 for i, score in enumerate(scores) if i not in right and score >= best)


def slow_recalls(scores, owner, texts=None):
    count, photos = scores.shape
    image_ranks = [
        slow_rank(scores[t], {owner[t]}) for t in (range(count) if texts is None else texts)
    ]
    text_ranks = [
        slow_rank(scores[:, p], {t for t in range(count) if owner[t] == p}) for p in range(photos)
    ]
    out = {}
    for k in (1, 5, 10):
        out[f"TR@{k}"] = sum(rank < k for rank in text_ranks) / photos
        out[f"IR@{k}"] = sum(rank < k for rank in image_ranks) / len(image_ranks)
    return out


def slow_rerank_order(scores, again, k):
    """Indices best first: the k best by `scores` in the order of `again`, then the others."""
    first = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(first[:k], key=lambda i: -again[i]) + first[k:]


def a_set(seed, photos=37, each=3, levels=None):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(photos), each)
    rng.shuffle(owner)
    scores = rng.normal(size=(photos * each, photos))
    scores[np.arange(len(owner)), owner] += 1.0  # better than chance, far from perfect
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, owner


def test_recalls_by_hand():
    #                   photo 0    1    2
    scores = np.array([[0.9, 0.1, 0.2],   # text 0 of photo 0: first
                       [0.8, 0.7, 0.1],   # text 1 of photo 1: second
                       [0.3, 0.6, 0.5]])  # text 2 of photo 2: second  # fmt: skip
    result = recalls(scores, np.array([0, 1, 2]))
    assert result["IR@1"] == pytest.approx(1 / 3)
    assert result["IR@5"] == 1.0
    assert result["TR@1"] == 1.0  # each column is highest on the diagonal


@pytest.mark.parametrize("levels", [None, 2])
def test_recalls_against_loops(levels):
    scores, owner = a_set(0, levels=levels)
    result = recalls(scores, owner)
    assert result == pytest.approx(slow_recalls(scores, owner))
    assert 0 < result["IR@1"] < result["IR@5"] < result["IR@10"] < 1
    texts = np.array([5, 0, 77])
    assert recalls(scores, owner, texts) == pytest.approx(slow_recalls(scores, owner, texts))


def test_ties_count_against_the_model():
    owner = np.repeat(np.arange(20), 2)
    assert set(recalls(np.zeros((40, 20)), owner).values()) == {0.0}
    # Its own second caption is no rival of a photo's first.
    assert recalls(np.zeros((2, 1)), np.zeros(2, dtype=int))["TR@1"] == 1.0


def test_rows_beyond_one_block(monkeypatch):
    scores, owner = a_set(1)
    expected = recalls(scores, owner)
    monkeypatch.setattr("train.metrics.ROWS", 7)
    assert recalls(scores, owner) == expected


@pytest.mark.parametrize(
    ("scores", "owner"),
    [
        (np.array([[1.0, np.nan], [0.0, 1.0]]), [0, 1]),
        (np.zeros((2, 2)), [0, 1, 1]),
        (np.zeros((2, 2)), [0, 0]),
        (np.zeros((2, 2)), [0, 2]),
    ],
)
def test_scores_that_mean_nothing_are_refused(scores, owner):
    with pytest.raises(ValueError, match=r"NaN|fit|needs"):
        recalls(scores, np.array(owner))


@pytest.mark.parametrize(("k", "texts"), [(1, None), (6, None), (6, [3, 4, 50, 99]), (500, None)])
def test_reranking_against_loops(k, texts):
    scores, owner = a_set(2)
    again = np.random.default_rng(3).normal(size=scores.shape)
    again[np.arange(len(owner)), owner] += 2.0
    asked = []

    def match(pairs):
        asked.extend(map(tuple, pairs.tolist()))
        return again[pairs[:, 1], pairs[:, 0]]

    asking = range(len(scores)) if texts is None else texts
    subset = None if texts is None else np.array(texts)
    matched = match_candidates(scores, match, k, subset)
    result = reranked_recalls(scores, matched, owner, k, subset)

    wanted, image_ranks, text_ranks = set(), [], []
    for t in asking:
        order = slow_rerank_order(scores[t], again[t], k)
        image_ranks.append(order.index(owner[t]))
        wanted |= {(p, t) for p in sorted(range(37), key=lambda p: -scores[t, p])[:k]}
    for p in range(37):
        order = slow_rerank_order(scores[:, p], again[:, p], k)
        text_ranks.append(min(order.index(t) for t in range(len(scores)) if owner[t] == p))
        wanted |= {(p, t) for t in sorted(range(111), key=lambda t: -scores[t, p])[:k]}
    assert set(asked) == wanted and len(asked) == len(wanted)  # each pair once
    assert asked == sorted(asked)
    for n in (1, 5, 10):
        assert result[f"IR@{n}"] == pytest.approx(np.mean([r < n for r in image_ranks]))
        assert result[f"TR@{n}"] == pytest.approx(np.mean([r < n for r in text_ranks]))
    if k == 6 and texts is None:
        assert result["IR@1"] > recalls(scores, owner)["IR@1"]


def test_a_right_photo_outside_the_candidates_stays_behind_them():
    scores = np.array([[0.1, 0.9, 0.8], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    owner = np.array([0, 1, 2])
    perfect = match_candidates(scores, lambda p: (p[:, 0] == owner[p[:, 1]]) * 1.0, 2)
    assert reranked_recalls(scores, perfect, owner, 2)["IR@1"] == pytest.approx(2 / 3)


def test_the_divisor_of_a_head_that_is_too_sure():
    """Photos are drawn as a calibrated head says; one three times as sure is divided by three."""
    draw = np.random.default_rng(2)
    scores = draw.normal(0, 0.2, (1500, 30))
    odds, temperature = draw.normal(0, 1.5, (1500, 30)), 0.1
    joint = np.exp(odds + scores / temperature)
    owner = np.array([draw.choice(30, p=row / row.sum()) for row in joint])
    assert set(owner) == set(range(30))
    sure = 1 / (1 + np.exp(-3 * odds))
    fitted = fit_match_temperature(scores, sure, owner, temperature, 30)
    assert 2.5 < fitted < 3.5

    def loss(divisor):  # one query at a time, no candidate left out of the reference's choice
        total = 0.0
        for t in range(1500):
            weights = [math.exp(3 * odds[t, p] / divisor + scores[t, p] / 0.1) for p in range(30)]
            total -= math.log(weights[owner[t]] / sum(weights))
        for p in range(30):
            among = sorted(range(1500), key=lambda t: -scores[t, p])[:30]
            weights = {t: math.exp(3 * odds[t, p] / divisor + scores[t, p] / 0.1) for t in among}
            right = sum(w for t, w in weights.items() if owner[t] == p)
            total -= math.log(right / sum(weights.values())) if right else 0.0
        return total

    assert loss(fitted) < min(loss(0.97 * fitted), loss(1.03 * fitted))


def test_a_match_that_gives_no_number_is_refused():
    scores, _ = a_set(4)
    with pytest.raises(ValueError, match="NaN"):
        match_candidates(scores, lambda pairs: np.full(len(pairs), np.nan), 4)
    with pytest.raises(ValueError, match="pairs"):
        match_candidates(scores, lambda pairs: np.zeros(3), 4)


# Captions -----------------------------------------------------------------------------------

CAPTIONS = ["a dog runs on the beach", "two men play a guitar outside", "a red car"]
REFERENCES = [
    ["a brown dog runs along the beach", "the dog is running on sand", "a dog runs on a beach"],
    ["two men play guitar", "men making music outside in the park"],
    ["a red car is parked on the street", "the red car", "a car"],
]


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_bleu(captions, references, top):
    """Papineni et al. 2002, with the reference nearest in length."""
    logs, length, wanted = 0.0, 0, 0
    for n in range(1, top + 1):
        right = total = 0
        for caption, refs in zip(captions, references, strict=True):
            have = grams(caption.split(), n)
            most = Counter()
            for ref in refs:
                most |= grams(ref.split(), n)
            right += sum((have & most).values())
            total += sum(have.values())
        logs += math.log(right / total)
    for caption, refs in zip(captions, references, strict=True):
        size = len(caption.split())
        length += size
        wanted += min((abs(len(r.split()) - size), len(r.split())) for r in refs)[1]
    return min(1.0, math.exp(1 - wanted / length)) * math.exp(logs / top)


def slow_cider(captions, references):
    """Vedantam et al. 2015, CIDEr-D: clipped counts, a penalty of length, times 10."""
    photos = len(captions)
    known = [
        set().union(*(grams(r.split(), n) for r in refs for n in range(1, 5)))
        for refs in references
    ]
    frequency = Counter(gram for grams_of_photo in known for gram in grams_of_photo)

    def vector(words, n):
        return {
            gram: count * (math.log(photos) - math.log(max(1, frequency[gram])))
            for gram, count in grams(words, n).items()
        }

    def norm(v):
        return math.sqrt(sum(value * value for value in v.values()))

    out = []
    for caption, refs in zip(captions, references, strict=True):
        total = 0.0
        for ref in refs:
            words, right = caption.split(), ref.split()
            penalty = math.exp(-((len(words) - len(right)) ** 2) / (2 * 6.0**2))
            for n in range(1, 5):
                have, want = vector(words, n), vector(right, n)
                dot = sum(
                    min(v, want.get(gram, 0.0)) * want.get(gram, 0.0) for gram, v in have.items()
                )
                if norm(have) and norm(want):
                    total += penalty * dot / (norm(have) * norm(want)) / 4
        out.append(10 * total / len(refs))
    return out


def slow_rouge(caption, refs):
    """Lin 2004: longest common subsequence, best precision and recall, beta 1.2."""

    def common(a, b):
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return 1 + common(a[:-1], b[:-1])
        return max(common(a[:-1], b), common(a, b[:-1]))

    words = caption.split()
    found = [(common(words, r.split()), len(r.split())) for r in refs]
    precision = max(n for n, _ in found) / len(words)
    recall = max(n / size for n, size in found)
    return (1 + 1.44) * precision * recall / (recall + 1.44 * precision)


def test_caption_figures_against_their_formulas():
    scores = score_captions(CAPTIONS, REFERENCES, PlainTokeniser(), meteor=False)
    for n in range(1, 5):
        assert scores.metrics[f"BLEU-{n}"] == pytest.approx(slow_bleu(CAPTIONS, REFERENCES, n))
    expected = slow_cider(CAPTIONS, REFERENCES)
    assert scores.cider == pytest.approx(expected)
    assert scores.metrics["CIDEr"] == pytest.approx(np.mean(expected))
    rouge = [slow_rouge(c, r) for c, r in zip(CAPTIONS, REFERENCES, strict=True)]
    assert scores.metrics["ROUGE-L"] == pytest.approx(np.mean(rouge))


def test_a_caption_equal_to_its_references_is_perfect_and_punctuation_does_not_count():
    references = [["A dog runs on the wet beach ."], ["two men play the old guitar"]]
    captions = ["a dog runs, on the wet beach!", "Two men play the old guitar."]
    scores = score_captions(captions, references, meteor=False)
    assert scores.metrics["BLEU-4"] == pytest.approx(1.0, abs=1e-6)
    assert scores.metrics["CIDEr"] == pytest.approx(10.0)
    assert scores.metrics["ROUGE-L"] == pytest.approx(1.0)


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    scores = score_captions(["", *CAPTIONS[1:]], REFERENCES, meteor=False)
    assert scores.cider[0] == 0.0 and scores.cider[1] > 0
    with pytest.raises(ValueError, match="references"):
        score_captions(["a dog"], [[]])


def test_the_report_says_which_tokeniser_ran_and_stdout_stays_clean(capfd):
    scores = score_captions(CAPTIONS, REFERENCES)
    assert capfd.readouterr().out == ""
    if java_version():
        assert "PTB" in scores.tokeniser and "Stanford" in scores.tokeniser
        assert 0.2 < scores.metrics["METEOR"] < 0.7 and scores.note is None
    else:
        assert scores.tokeniser == PlainTokeniser.name
        assert scores.metrics["METEOR"] is None and "Java" in scores.note


@pytest.fixture
def java_that(tmp_path, monkeypatch):
    """Put a stand-in for Java alone on the PATH, or nothing."""

    def put(script: str | None) -> None:
        if script is not None:
            (tmp_path / "java").write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
            (tmp_path / "java").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        java_version.cache_clear()

    yield put
    java_version.cache_clear()


def test_without_java(java_that):
    java_that(None)
    assert java_version() is None
    scores = score_captions(CAPTIONS, REFERENCES)
    assert scores.tokeniser == PlainTokeniser.name
    assert scores.metrics["METEOR"] is None and "not installed" in scores.note
    assert scores.metrics["CIDEr"] == pytest.approx(np.mean(slow_cider(CAPTIONS, REFERENCES)))


def test_a_java_that_does_not_run_counts_as_none(java_that):
    java_that("sys.exit('no runtime present')")
    assert java_version() is None and isinstance(best_tokeniser(), PlainTokeniser)


def test_a_java_that_dies_at_work_loses_no_captions_and_hides_nothing(java_that):
    java_that("sys.stderr.write('fake 17'); sys.exit('-version' not in sys.argv)")
    assert java_version() == "fake 17"
    scores = score_captions(CAPTIONS, REFERENCES, PlainTokeniser())
    assert scores.metrics["METEOR"] is None and "failed in Java" in scores.note
    assert scores.metrics["BLEU-1"] > 0
    with pytest.raises(tokenise.UserError, match="0 lines for 1 captions"):
        PTBTokeniser()(["a dog"])


TOKENISED = {
    "A man , in an Orange hat .": "a man in an orange hat",
    "It's the dogs' ball; he can't see it!": "it 's the dogs ball he ca n't see it",
    "We cannot say they're gonna": "we can not say they 're gon na",
    'a "smart" t-shirt -- size 3,000...': "a smart t-shirt size 3,000",
    "Mr. Smith at 3:30 p.m. on St. Mary": "mr. smith at 3:30 p.m. on st. mary",
    "two (2) cats & a dog / wolf": "two -lrb- 2 -rrb- cats & a dog / wolf",
    "“curly” it’s — …": "curly it 's",
    "a line\nbroken\x0bthree\u2028times": "a line broken three times",
    " ": "",
}


def test_words_without_java():
    assert PlainTokeniser()(list(TOKENISED)) == list(TOKENISED.values())
    assert PlainTokeniser()([]) == PTBTokeniser()([]) == []


def test_the_best_tokeniser_here_splits_the_same():
    assert best_tokeniser()(list(TOKENISED)) == list(TOKENISED.values())
