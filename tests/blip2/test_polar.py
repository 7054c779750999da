"""Questions by yes and no: what they state, and how two heads weigh them."""

import math

import pytest
import torch
from tokenizers import Tokenizer

from blip2.answering import AnswerWriter, asks_in_brief
from blip2.attention import photo_maps, watch
from blip2.decoding import Decoding
from blip2.polar import PolarJudge, statement
from blip2.tokenization import TextTokenizer
from tests.blip2.test_grounded import blip2, photos, representation, retriever, seen
from tests.tiny import text_tokenizer


@pytest.fixture
def tokenizer(tmp_path) -> TextTokenizer:
    """The tiny one, whose words "describe" and "photo" are called "yes" and "no"."""
    renamed = text_tokenizer().to_str()
    for word, other in {"describe": "yes", "photo": "no", "bike": "or"}.items():
        renamed = renamed.replace(f'"{word}"', f'"{other}"')
    Tokenizer.from_str(renamed).save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(tmp_path, 16)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Is the man riding a bike?", "the man riding a bike"),
        ("Is this a kitchen?", "a kitchen"),
        ("are there 2 dogs on the grass ?", "2 dogs on the grass"),
        ("Is it cold outside?", "cold outside"),
        ("Are they in the water??", "in the water"),
        ("Is this motorcycle new?", "this motorcycle new"),
        ("Does the  dog\nhave a collar?", "the dog have a collar"),
        ("Has the train stopped?!", "the train stopped"),
        ("Would you call this a colorful room?", "a colorful room"),
        ("Do you think he is cold?", "he is cold"),
        ("Is the dog over there on the bed?", "the dog over there on the bed"),
        # Neither answer would be yes or no.
        ("Is the car red or blue?", ""),
        ("What color is the car?", ""),
        ("How many dogs are there?", ""),
        ("In this photo, is the car red?", ""),
        ("Is the car red", ""),
        ("Is?", ""),
        ("Island?", ""),
        ("", ""),
    ],
)
def test_what_is_to_be_affirmed(question, said):
    assert statement(question) == said


def test_the_odds_are_those_of_the_first_piece(tokenizer):
    model = representation()
    states, questions = seen(model), ["is the dog red ?", "is the cat in the snow ?"] * 3
    odds = AnswerWriter(model, tokenizer).odds(states, questions)
    yes, no = tokenizer.piece_id("yes"), tokenizer.piece_id("no")
    for row, question in enumerate(questions):
        ids, mask = tokenizer([question])
        start = torch.tensor([[model.dec_token_id]])
        with torch.no_grad():
            own = states.select(torch.tensor([row]))
            cache = model.qformer(own, ids, mask, "bidirectional").cache
            text = model.qformer.decode(start, torch.ones_like(start), cache)
            chances = model.lm_logits(text[0, -1]).double().softmax(-1)
        assert float(odds[row]) == pytest.approx(math.log(chances[yes] / chances[no]), abs=1e-4)
    assert odds.std() > 0.01


def test_both_heads_have_a_say():
    class Answerer:
        def odds(self, visual, questions):
            assert questions == ["is the dog red ?"] * 4
            return torch.tensor([2.0, 2.0, -2.0, 0.0], dtype=torch.float64)

    def match(visual, texts):
        assert texts == ["the dog red"] * 4
        return torch.tensor([0.5, 0.01, 0.9999, 0.75])

    judge = PolarJudge(Answerer(), match)
    questions = ["is the dog red ?"] * 4
    assert judge.generate("photos", questions, Decoding()) == ["yes", "no", "yes", "yes"]
    found = judge.candidates("photos", questions, Decoding(), 2)
    odds = [2.0, 2 + math.log(1 / 99), -2 + math.log(9999), math.log(3)]
    for (best, other), expected in zip(found, odds, strict=True):
        assert {best[0], other[0]} == {"yes", "no"}
        assert math.exp(best[1]) + math.exp(other[1]) == pytest.approx(1)
        assert best[1] - other[1] == pytest.approx(abs(expected), abs=1e-3)
    sure = PolarJudge(Answerer(), lambda _, texts: torch.ones(4))
    assert sure.generate("photos", questions, Decoding()) == ["yes"] * 4


def test_yes_and_no_are_judged_and_all_else_is_answered(tokenizer):
    taught, short = retriever(tokenizer, answers_questions=True), {"max_new_tokens": 4}
    model, photo = blip2(taught), photos()[1]
    polar, other = "is the dog red?", "what is the dog on?"
    assert asks_in_brief(polar) and asks_in_brief(other)
    assert model.witness(polar) == (model.polar_judge, polar)
    assert model.witness(other) == (taught.answerer, other)
    assert model.witness("is the dog red or blue?") == (taught.answerer, "is the dog red or blue?")
    assert model.witness("is there a dog?") == (model.judge, "a dog")
    states = taught.states_of([photo])
    odds = float(taught.answerer.odds(states, [polar])[0])
    fits = float(taught.match_states(states, ["the dog red"])[0])
    expected = "yes" if odds + math.log(fits / (1 - fits)) > 0 else "no"
    chat = model.chat(photo)
    assert model.generate(photo, polar, **short) == chat.ask(polar) == expected
    assert "".join(chat.stream(polar)) == expected
    # The heat map is of queries that have read the question.
    with watch(taught.model.qformer) as looked, torch.no_grad():
        taught.model.read_question(states, *tokenizer([polar]))
    torch.testing.assert_close(model.attention(photo, polar), photo_maps(looked, taught.encoder)[0])


def test_where_no_answer_is_yes_questions_are_answered_as_others(tmp_path):
    text_tokenizer().save(str(tmp_path / "tokenizer.json"))
    model = blip2(retriever(TextTokenizer(tmp_path, 16), answers_questions=True))
    assert model.polar_judge is None
    assert model.witness("is the dog red?") == (model.grounding.answerer, "is the dog red?")
