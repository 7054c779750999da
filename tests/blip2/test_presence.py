"""Which questions ask whether something is there, and how they are answered."""

import math

import pytest
import torch

from blip2.decoding import Decoding
from blip2.presence import PresenceJudge, thing_asked_for


@pytest.mark.parametrize(
    ("question", "thing"),
    [
        ("Is there a dog in this photo?", "a dog"),
        ("are there dogs in the image ?", "dogs"),
        ("Are there any people?", "people"),
        (" is there a dog on a beach? ", "a dog on a beach"),
        ("Do you see a red ball in the picture?", "a red ball"),
        ("Can you see snow?", "snow"),
        ("Is there a dog?!", "a dog"),
        ("Is there an inn on the hill in this scene?", "an inn on the hill"),
        ("Does this photo show a cat?", "a cat"),
        ("Is there an otherwise empty street?", "an otherwise empty street"),
        # What no thing could be matched for, what asks for more, and what is no question.
        ("Is there anything red?", ""),
        ("Are there more dogs than cats?", ""),
        ("Is there any more cake?", ""),
        ("Are there any other animals?", ""),
        ("Are there any?", ""),
        ("Are there any in the photo?", ""),
        ("Can you see what he is holding?", ""),
        ("Do you see it?", ""),
        ("Is there no dog?", ""),
        ("Is there a reason to be happy?", ""),
        ("Is there a dog and what colour is it?", ""),
        ("Is there another dog?", ""),
        ("How many dogs are there?", ""),
        ("Is there a dog? What colour is it?", ""),
        ("Is the dog there?", ""),
        ("Is there a dog", ""),
        ("What is there in this photo?", ""),
        ("", ""),
    ],
)
def test_only_questions_whether_a_thing_is_there_name_one(question, thing):
    assert thing_asked_for(question) == thing


def test_what_matching_doubts_is_denied():
    asked = []

    def match(states, texts):
        asked.append((states, texts))
        return torch.tensor([0.5, 0.1, 0.25])

    judge = PresenceJudge(match, threshold=0.25)
    things = ["a dog", "a cat", "snow"]
    assert judge.generate("photos", things, Decoding()) == ["yes", "no", "no"]
    assert asked == [("photos", things)]
    both = judge.candidates("photos", things, Decoding(), 2)
    assert [answer for answer, _ in both[0]] == ["yes", "no"]
    assert [answer for answer, _ in both[1]] == ["no", "yes"]
    assert [score for _, score in both[2]] == pytest.approx([math.log(0.5)] * 2)  # even odds
    assert math.exp(both[0][0][1]) == pytest.approx(0.75)  # odds of 1, where 1/3 is even
    assert [len(answers) for answers in judge.candidates("photos", things, Decoding(), 1)] == [
        1
    ] * 3
    assert list(judge.stream("photos", "a dog", Decoding())) == ["yes"]
