import pytest

from blip2.decoding import Decoding
from blip2.errors import UserError
from demo.decoding import BEAM, CANDIDATES, GREEDY, NUCLEUS, OPTIONS, read_decoding

SET = {
    "candidates": 3,
    "num_beams": 7,
    "temperature": 0.7,
    "top_p": 0.8,
    "min_new_tokens": 5,
    "max_new_tokens": 42,
    "length_penalty": 0.5,
    "repetition_penalty": 1.3,
}
FOR_ALL = {"min_new_tokens": 5, "max_new_tokens": 42, "repetition_penalty": 1.3}


def read(strategy, **changed):
    return read_decoding(strategy, *(SET | changed).values())


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (GREEDY, (1, FOR_ALL)),
        (BEAM, (3, FOR_ALL | {"num_beams": 7, "length_penalty": 0.5})),
        (NUCLEUS, (3, FOR_ALL | {"do_sample": True, "temperature": 0.7, "top_p": 0.8})),
    ],
)
def test_a_strategy_takes_its_own_options_and_no_others(strategy, expected):
    assert list(SET) == list(OPTIONS)
    assert read(strategy) == expected


def test_all_options_are_known_to_the_model():
    for strategy in (GREEDY, BEAM, NUCLEUS):
        Decoding(**read(strategy)[1])


def test_whole_numbers_reach_the_model_as_whole_numbers():
    _, decoding = read(BEAM, num_beams=5.0, max_new_tokens=30.0, repetition_penalty=1)
    assert type(decoding["num_beams"]) is int
    assert type(decoding["max_new_tokens"]) is int
    assert type(decoding["repetition_penalty"]) is float


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_new_tokens": 100_000}, "Maximum length must be a number from 4 to 120"),
        ({"repetition_penalty": float("nan")}, "Repetition penalty must be a number from 1 to 2"),
        ({"max_new_tokens": "30"}, "Maximum length must be a number"),
        ({"max_new_tokens": None}, "Maximum length must be a number"),
        ({"max_new_tokens": True}, "Maximum length must be a number"),
        ({"min_new_tokens": 43}, "Minimum length is above Maximum length; lower it"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(changed, named):
    with pytest.raises(UserError, match=named):
        read(GREEDY, **changed)


def test_more_candidates_than_beams_are_refused_with_a_way_out():
    with pytest.raises(UserError, match="4 candidates need at least as many beams; there are 3"):
        read(BEAM, candidates=4, num_beams=3)
    assert read(NUCLEUS, candidates=4, num_beams=3)[0] == 4


def test_options_of_other_strategies_are_not_looked_at():
    wrong = {"num_beams": -1, "temperature": -1, "top_p": -1, "length_penalty": 99, CANDIDATES: 0}
    assert read(GREEDY, **wrong) == (1, FOR_ALL)
    with pytest.raises(UserError, match="Temperature"):
        read(NUCLEUS, temperature=-1)


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="Greedy, Beam search, Nucleus sampling"):
        read("beam")


def test_defaults_lie_within_their_ranges():
    for option in OPTIONS.values():
        assert option.read(option.default) == option.default
