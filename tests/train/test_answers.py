"""Answers are normalised and scored as the official VQA evaluation does."""

import itertools
import random

import pytest

from train.answers import best_constant, exact_match, normalise, score_answers, vqa_accuracy


@pytest.mark.parametrize(
    ("said", "compared"),
    [
        ("A dog.", "dog"),
        ("The two dogs", "2 dogs"),
        ("none", "0"),
        ("ten\n", "10"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("black/white", "black white"),  # a mark between letters becomes a space
        ("black / white", "black white"),  # beside a space it vanishes
        ("red, white", "red white"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),  # a comma between digits: all marks vanish
        ("1,000-2", "10002"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("12:30", "12:30"),  # colons stay
        ("yes!", "yes"),
        ("an the a", ""),
        ("  Left \t side ", "left side"),
    ],
)
def test_an_answer_as_it_is_compared(said, compared):
    assert normalise(said) == compared


def plain_accuracy(answer, people):
    """The paper's definition: the mean over all choices of nine of ten people."""
    scores = []
    for others in itertools.combinations(range(len(people)), len(people) - 1):
        agreeing = sum(people[i] == answer for i in others)
        scores.append(min(1, agreeing / 3))
    return sum(scores) / len(scores)


def test_accuracy_against_the_definition():
    draw = random.Random(0)
    seen = set()
    for _ in range(300):
        people = draw.choices(["red", "blue", "green"], weights=[5, 3, 1], k=10)
        answer = draw.choice(["red", "blue", "green", "black"])
        expected = plain_accuracy(answer, people)
        assert vqa_accuracy(answer.upper() + ".", people) == pytest.approx(expected)
        seen.add(round(expected, 3))
    assert {0.0, 0.3, 0.6, 0.9, 1.0} <= seen


def test_people_lose_punctuation_only_where_they_differ():
    """So "t-shirt" of ten people is not what "t shirt" of the model is compared with."""
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10) == 0.0
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1.0


def test_one_answer_is_matched_exactly():
    assert exact_match("The garbage bin.", ["garbage bin"]) == 1.0
    assert exact_match("bin", ["garbage bin"]) == 0.0


def test_figures_by_type_and_the_best_that_looks_at_nothing():
    given = [["yes"] * 10, ["no"] * 10, ["yes"] * 7 + ["no"] * 3, ["2"] * 10, ["cup"], ["a cup"]]
    types = ["yes/no", "yes/no", "yes/no", "number", "any", "any"]
    scores = score_answers(["yes", "yes", "no", "two", "cup", "box"], given, types)
    assert scores.each == pytest.approx([1, 0, 0.9, 1, 1, 0])
    several, single = scores.metrics["VQA accuracy"], scores.metrics["exact match"]
    assert several["yes/no"] == pytest.approx(1.9 / 3) and several["number"] == 1.0
    assert several["all"] == pytest.approx(2.9 / 4)
    assert single == {"all": 0.5, "any": 0.5, "best constant": {"all": 1.0, "any": 1.0}}
    # "yes" scores 1 + 0 + 1, "no" 0 + 1 + 0.9.
    assert scores.constants["VQA accuracy"] == {"yes/no": "yes", "number": "2"}
    assert several["best constant"]["yes/no"] == pytest.approx(2 / 3)
    assert several["best constant"]["all"] == pytest.approx(3 / 4)


def test_the_best_constant_against_trying_all():
    draw = random.Random(1)
    words = ["red", "blue", "green", "white"]
    for _ in range(50):
        given = [draw.choices(words, k=10) for _ in range(6)]
        sums = {word: sum(vqa_accuracy(word, people) for people in given) for word in words}
        best, value = best_constant(given)
        assert value == pytest.approx(max(sums.values())) and sums[best] == pytest.approx(value)
