import pytest

from blip2.errors import UserError
from demo.decoding import BEAM, GREEDY, NUCLEUS, OPTIONS, read_decoding

VALUES = (7, 0.7, 0.8, 42, 1.3)  # beams, temperature, top-p, length, penalty


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (GREEDY, {"max_new_tokens": 42, "repetition_penalty": 1.3}),
        (BEAM, {"num_beams": 7, "max_new_tokens": 42, "repetition_penalty": 1.3}),
        (
            NUCLEUS,
            {
                "do_sample": True,
                "temperature": 0.7,
                "top_p": 0.8,
                "max_new_tokens": 42,
                "repetition_penalty": 1.3,
            },
        ),
    ],
)
def test_a_strategy_takes_its_own_options_and_no_others(strategy, expected):
    assert read_decoding(strategy, *VALUES) == expected


def test_whole_numbers_reach_the_model_as_whole_numbers():
    decoding = read_decoding(BEAM, 5.0, 1, 0.9, 30.0, 1)
    assert type(decoding["num_beams"]) is int
    assert type(decoding["max_new_tokens"]) is int
    assert type(decoding["repetition_penalty"]) is float


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((5, 1, 0.9, 100_000, 1), "Maximum length must be a number from 4 to 120"),
        ((5, 1, 0.9, 30, float("nan")), "Repetition penalty must be a number from 1 to 2"),
        ((5, 1, 0.9, "30", 1), "Maximum length must be a number"),
        ((5, 1, 0.9, None, 1), "Maximum length must be a number"),
        ((5, 1, 0.9, True, 1), "Maximum length must be a number"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(values, named):
    with pytest.raises(UserError, match=named):
        read_decoding(GREEDY, *values)


def test_options_of_other_strategies_are_not_looked_at():
    read_decoding(GREEDY, -1, -1, -1, 30, 1)
    with pytest.raises(UserError, match="Temperature"):
        read_decoding(NUCLEUS, -1, -1, 0.9, 30, 1)


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="Greedy, Beam search, Nucleus sampling"):
        read_decoding("beam", *VALUES)


def test_defaults_lie_within_their_ranges():
    for option in OPTIONS.values():
        assert option.read(option.default) == option.default
