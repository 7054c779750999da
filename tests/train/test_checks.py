"""Questions by yes and no on what other questions ask openly."""

import random
from collections import Counter

import pytest

from train.checks import Known, make_checks, surely_wrong, take_question


def entry(question, *answers):
    return {"question": question, "answers": list(answers)}


def people(question, **votes):
    return entry(question, *(word.replace("_", " ") for word, n in votes.items() for _ in range(n)))


@pytest.mark.parametrize(
    ("question", "answer", "other", "yes", "no"),
    [
        ("what color is the dog?", "brown", "black", "is the dog brown?", "is the dog black?"),
        ("What color are the  man's shorts ?", "red", "blue", "are the man's shorts red?",
         "are the man's shorts blue?"),
        ("what is the colour of the bed", "red", "white", "is the bed red?", "is the bed white?"),
        ("how many dogs are there?", "two", "3", "are there 2 dogs?", "are there 3 dogs?"),
        ("how many people are holding a kite?", "2", "4", "are there 2 people holding a kite?",
         "are there 4 people holding a kite?"),
        ("what is the boy doing?", "jumping", "sleeping", "is the boy jumping?",
         "is the boy sleeping?"),
        ("what are the dogs doing?", "running", "sitting", "are the dogs running?",
         "are the dogs sitting?"),
        ("what is the man riding?", "bike", "elephant", "is the man riding a bike?",
         "is the man riding an elephant?"),
        ("what is the dog running through?", "grass", "ocean", "is the dog running through grass?",
         "is the dog running through an ocean?"),
        ("what is the woman standing on?", "field", "leaves",
         "is the woman standing on the field?", "is the woman standing on leaves?"),
        ("what kind of animal is this?", "giraffe", "cow", "is this a giraffe?", "is this a cow?"),
        ("what sport is this?", "tennis", "soccer", "is this tennis?", "is this soccer?"),
        ("what is on the left side of the sofa", "lamp", "pillows",
         "is the lamp on the left side of the sofa?",
         "are the pillows on the left side of the sofa?"),
    ],
)  # fmt: skip
def test_an_open_question_as_one_by_yes_and_no(question, answer, other, yes, no):
    asked = take_question(entry(question, answer))
    assert asked.ask(asked.answer) == yes
    assert asked.ask(other) == no
    assert surely_wrong(asked, other, ())


@pytest.mark.parametrize(
    "asked",
    [
        entry("what is the man wearing?", "hat"),  # and shoes, which nobody says
        entry("what is in the photo?", "dog"),
        entry("how many dogs are there?", "1"),  # "is there 1 dogs?"
        entry("how many dogs are there?", "many"),
        entry("what color is the dog?", "brown and white"),
        entry("what color is the dog?", "light brown"),
        entry("what is on the table", "plates, cups, forks"),
        entry("what is the man doing?", "nothing"),
        entry("why is the man running?", "he is late"),
        entry("what is on the table?"),
        people("what color is the car?", black=4, red=3, gray=3),  # people do not agree
    ],
)
def test_what_has_no_clear_answer_is_left_alone(asked):
    assert take_question(asked) is None


def test_most_people_decide():
    asked = take_question(people("what color is the cat?", gray=7, black=2, white=1))
    assert asked.answer == "gray"
    assert asked.right == ["gray"] * 7 + ["black"] * 2 + ["white"]
    assert not surely_wrong(asked, "black", ())
    assert not surely_wrong(asked, "white", ())
    assert surely_wrong(asked, "orange", ())


@pytest.mark.parametrize(
    ("question", "answer", "not_denied"),
    [
        ("what color is the dog?", "brown", "tan"),
        ("what color is the coat?", "turquoise", "blue"),
        ("what color is the wall?", "white", "beige"),
        ("what is the dog doing?", "running", "jumping"),  # a dog may do both
        ("what is the dog doing?", "running", "playing"),
        ("what is the man doing?", "sitting", "eating"),
        ("what is the man doing?", "standing", "smiling"),
        ("what is the man doing?", "skiing", "jumping"),
        ("what is the man riding?", "bike", "bikes"),
        ("what is on the table", "coffee cup", "cups"),
    ],
)
def test_what_may_be_right_as_well_is_not_denied(question, answer, not_denied):
    assert not surely_wrong(take_question(entry(question, answer)), not_denied, ())


def test_captions_that_leave_room_for_a_thing_keep_it_from_being_denied():
    asked = take_question(entry("what is the boy holding?", "ball"))
    assert not surely_wrong(
        asked, "umbrella", ["a", "boy", "on", "a", "beach", "holds", "a", "ball"]
    )
    assert surely_wrong(asked, "guitar", ["a", "boy", "on", "a", "beach", "holds", "a", "ball"])
    # Not a word of the lists: nobody knows what goes with it.
    assert not surely_wrong(asked, "gizmo", ["a", "boy", "on", "a", "beach", "holds", "a", "ball"])
    doing = take_question(entry("what is the dog doing?", "running"))
    assert surely_wrong(doing, "swimming", ["a", "dog", "runs", "on", "grass"])
    assert not surely_wrong(doing, "swimming", ["a", "dog", "runs", "to", "a", "swimmer"])


def test_as_many_are_denied_as_affirmed_and_what_is_denied_is_what_others_have():
    photos = {
        f"{number}": [
            entry("what color is the dog?", ["brown", "black", "white"][number % 3]),
            entry("how many cats are there?", str(2 + number % 4)),
            entry("what is the dog doing?", ["running", "sitting"][number % 2]),
            entry("what is on the table?", ["cup", "lamp", "book"][number % 3]),
        ]
        for number in range(60)
    }
    known = Known()
    for entries in photos.values():
        known.add(entries)
    assert known.answers["color"] == {"brown": 20, "black": 20, "white": 20}
    said = Counter()
    for name, entries in photos.items():
        made = make_checks(entries, (), known, random.Random(name))
        assert made == make_checks(entries, (), known, random.Random(name))
        assert len(made) == 6  # three pairs of the four
        assert {e["question_type"] for e in made} == {"check"}
        assert {e["answer_type"] for e in made} == {"yes/no"}
        truth = {answer for e in entries for answer in e["answers"]}
        for one in made:
            named = set(one["question"].rstrip("?").split()) & {
                "brown", "black", "white", "running", "sitting", "cup", "lamp", "book",
                "2", "3", "4", "5",
            }  # fmt: skip
            assert (named <= truth) == (one["answers"] == ["yes"])
            said[one["answers"][0]] += 1
    assert said == {"yes": 180, "no": 180}


def test_where_nothing_else_is_ever_answered_nothing_is_asked():
    known = Known()
    known.add([entry("what color is the dog?", "brown")])
    assert (
        make_checks([entry("what color is the dog?", "brown")], (), known, random.Random(0)) == []
    )
