"""Whether any photo fits: what is judged, and when that is enough."""

from pathlib import Path

import pytest

from index import Hit
from index.verdict import CANDIDATES, MIN_SCORE, SURE_MATCH, Verdict, judge_hits, verdict_of
from tests.index.fake_retriever import FakeRetriever, paint


def hits_of(paths: list[Path]) -> list[Hit]:
    return [Hit(rank, path, 0.5, None, False) for rank, path in enumerate(paths, start=1)]


@pytest.fixture
def blue(tmp_path) -> list[Hit]:
    """Six hits of blue photos."""
    return hits_of([paint(tmp_path / f"{number}.png", "blue") for number in range(6)])


def judged(retriever: FakeRetriever) -> list[str]:
    return [path.name for path in retriever.matched]


def test_the_limits():
    assert Verdict(SURE_MATCH, -9).fits and Verdict(0.1, MIN_SCORE).fits
    assert not Verdict(SURE_MATCH - 0.01, MIN_SCORE - 0.01).fits
    assert Verdict(0.1, 5).fits_at(5) and not Verdict(0.1, 5).fits_at(5.1)


def test_the_greatest_of_each_counts(tmp_path):
    one = Hit(1, tmp_path, 0.9, 0.2, False)
    other = Hit(2, tmp_path, 0.1, 0.6, False)
    verdict = verdict_of([one, other, Hit(3, tmp_path, 1.0, None, True)], temperature=0.1)
    assert verdict.match == 0.6
    assert verdict.score == pytest.approx(9 - 1.386, abs=1e-3)  # log-odds of 0.2
    assert verdict_of([Hit(1, tmp_path, 1.0, None, False)], 0.1) is None


def test_the_first_settles_it(blue):
    retriever = FakeRetriever()
    assert judge_hits(retriever, blue, "blue").fits
    assert judged(retriever) == ["0.png"]


def test_a_few_are_judged_where_nothing_fits(blue):
    retriever = FakeRetriever()
    assert not judge_hits(retriever, blue, "green").fits
    assert judged(retriever) == [f"{number}.png" for number in range(CANDIDATES)]


def test_what_was_re_ranked_is_not_judged_again(blue, tmp_path):
    retriever = FakeRetriever()
    reranked = [Hit(1, blue[0].path, 0.5, 0.9, False), *blue[1:]]
    assert judge_hits(retriever, reranked, "blue").fits and judged(retriever) == []
    reranked = [Hit(1, blue[0].path, 0.5, 0.1, False), *blue[1:]]
    assert not judge_hits(retriever, reranked, "green").fits
    assert judged(retriever) == ["1.png", "2.png", "3.png"]


def test_photos_that_are_gone_are_passed_over(blue, tmp_path):
    retriever = FakeRetriever()
    blue[0].path.unlink()  # not yet known to be missing
    gone = [Hit(1, tmp_path / "gone.png", 0.9, None, True), *blue]
    assert judge_hits(retriever, gone, "blue").fits
    assert judge_hits(retriever, gone[:2], "blue") is None
    assert judge_hits(retriever, [], "blue") is None
