"""Figures by type beside the best constant answer, and yes/no questions, worked by hand."""

import pytest

from train.answers import measure_of
from train.breakdown import by_type, kind_of, table, yes_no


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"question": "how many cups are on the table", "answers": ["2"]}, "number"),
        ({"question": "what is the colour of the box", "answers": ["red"]}, "color"),
        ({"question": "What color is it?", "answers": ["red"]}, "color"),
        ({"question": "what is on the table", "answers": ["cup"]}, "object"),
        ({"question": "is it a cup?", "question_type": "is it", "answers": []}, "is it"),
        ({"question": "a?", "question_type": "is it", "answer_type": "yes/no"}, "yes/no"),
    ],
)
def test_a_question_has_the_type_that_data_say_or_that_its_words_do(entry, kind):
    assert kind_of(entry) == kind


def test_each_type_beside_its_best_constant():
    given = [["yes"], ["no"], ["yes"], ["2", "two"], ["3", "three"], ["red"] * 8 + ["pink"] * 2]
    kinds = ["yes/no", "yes/no", "yes/no", "number", "number", "color"]
    figures = by_type(["yes", "no", "no", "two", "4", "Pink."], given, kinds)
    assert list(figures) == ["all", "color", "number", "yes/no"]
    assert [figures[kind]["questions"] for kind in figures] == [6, 1, 2, 3]
    yes = figures["yes/no"]["accuracy"]
    assert yes["score"] == yes["constant_score"] == pytest.approx(2 / 3)
    assert yes["constant"] == "yes" and yes["points"] == pytest.approx(0)
    number = figures["number"]["accuracy"]  # "two" and "2" are one answer
    assert (number["score"], number["constant_score"], number["points"]) == (0.5, 0.5, 0)
    assert number["constant"] == "2"
    # Two of ten said pink: of nine people, two agree eight times and one twice; red is full.
    color = figures["color"]
    pink = (8 * 2 / 3 + 2 * 1 / 3) / 10
    assert color["accuracy"]["score"] == pytest.approx(pink)
    assert color["accuracy"]["points"] == pytest.approx(100 * (pink - 1))
    assert color["exact match"]["score"] == 1.0  # one of those given
    assert color["exact match"]["constant"] == "pink"  # the first by name of two that score 1
    both = figures["all"]
    assert both["accuracy"]["score"] == pytest.approx((1 + 1 + 0 + 1 + 0 + pink) / 6)
    assert both["accuracy"]["constant"] == "yes"
    assert both["accuracy"]["constant_score"] == pytest.approx(2 / 6)
    assert both["exact match"]["score"] == pytest.approx(4 / 6)


def test_a_few_alternatives_are_no_people():
    assert measure_of(["2", "two"])[0] == measure_of(["cup"])[0] == "exact match"
    assert measure_of(["yes"] * 10)[0] == measure_of(list("abcdefghij"))[0] == "VQA accuracy"
    assert measure_of(["yes", "yes", "no"])[0] == "VQA accuracy"


def test_yes_and_no_as_pope_counts_them():
    given = [["yes"]] * 3 + [["no"]] * 4 + [["yes"] * 6 + ["no"] * 4] + [["red"]]
    said = ["yes", "Yes, it is.", "no", "no", "yes", "no", "a dog", "yes", "yes"]
    figures = yes_no(said, given)
    assert figures["questions"] == 8  # that for a colour is none of them
    assert figures["accuracy"] == 5 / 8
    assert figures["recall"] == 3 / 4 and figures["precision"] == 3 / 4
    assert figures["F1"] == pytest.approx(0.75)
    assert figures["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert (figures["yes_share"], figures["true_yes_share"]) == (4 / 8, 4 / 8)
    assert figures["neither_share"] == 1 / 8


def test_yes_and_no_where_one_is_missing():
    assert yes_no(["red"], [["red"]]) is None
    figures = yes_no(["no"], [["yes"]])
    assert figures["precision"] is None and figures["balanced_accuracy"] is None
    assert figures["recall"] == figures["accuracy"] == 0.0


def test_a_model_that_always_says_yes_gains_nothing():
    given = [["yes"], ["no"]] * 5
    said = ["yes"] * 10
    assert yes_no(said, given)["balanced_accuracy"] == 0.5
    types = by_type(said, given, ["yes/no"] * 10)
    lines = table(types, yes_no(said, given))
    assert lines[0].split()[:3] == ["type", "questions", "accuracy"]
    # "no" is as good a constant, and first by name.
    assert lines[1].split() == ["all", "10", *["50.0", "50.0", "+0.0"] * 2, "no"]
    assert "balanced accuracy 50.0" in lines[-1] and "yes share 100.0" in lines[-1]
    assert "true yes share 50.0" in lines[-1] and "precision 50.0" in lines[-1]
