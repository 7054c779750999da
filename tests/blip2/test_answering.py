"""Questions answered by the Q-Former itself: which, and against the plain loop."""

import pytest
import torch

from blip2.answering import AnswerWriter, asks_in_brief, asks_to_describe
from blip2.attention import photo_maps, watch
from blip2.decoding import Decoding
from blip2.presence import thing_asked_for
from tests.blip2.test_grounded import blip2, photos, representation, retriever, seen
from tests.blip2.test_grounded import tokenizer as tokenizer

QUESTIONS = ["what is the dog on ?", "is the cat red ?", "what jumps in the snow ?"]


@pytest.mark.parametrize(
    "question",
    [
        "What color is the cat's collar?",
        "What color is it?",
        "How many people are there?",
        "how many people are wearing a red hat?",
        "Is the train occupied?",
        "Does this look like a recent photograph?",
        "Would you call this a colorful room?",
        "Do you think he is cold?",
        "What is the man doing?",
        "Where is the dog?",
        "What is on the table?",
        "what is on the right side of the cabinet?",
        "Is this a kitchen?",
        "Who is holding the ball?",
        "What sport is being played?",
        "What is this person doing?",
        "What are these people doing?",
        "What are they doing?",
        "What's the dog doing?",
        "What is this animal?",
        "What is that on the table?",
        "What is shown on the screen?",
        "What animal is in this photo?",
        "What color is the dog??",
        "In this photo, what color is the car?",
        "what is on the right side of the black chair",
        "how many drawers are there",
    ],
)
def test_what_a_word_can_answer_is_asked_in_brief(question):
    assert asks_in_brief(question)
    assert asks_in_brief(f"  {question}\n")


@pytest.mark.parametrize(
    "text",
    [
        "Describe this photo.",
        "What is in this photo?",
        "What is this?",
        "What does this photo show?",
        "What is happening?",
        "What is happening in this picture?",
        "What do you see?",
        "What is depicted here?",
        "What about the cat?",
        "What color?",
        "What else is there?",
        "Can you describe the cat?",
        "Would you say something about the cat?",
        "Do you think so?",
        "How would you describe it?",
        "Why is the man smiling?",
        "Is the cat red",  # or is it?
        "What is this",
        "what is happening in this picture",
        "What a lovely cat!",
        "What color is the cat? Answer at length.",
        "What color is the cat? And the dog?",
        "What's happening here?",
        "What’s going on in this photo?",
        "What can be seen in this photo?",
        "What is the picture about?",
        "What are we looking at?",
        "What stands out in this photo?",
        "What is a good caption for this photo?",
        "What does the dog look like?",
        "Who does he look like?",
        "What happened here?",
        "What will happen next?",
        "What is the difference between the two dogs?",
        "How many people are there and what are they doing?",
        "Is there a dog and what color is it?",
        "Is the dog happy, and why?",
        "Is there a reason for that?",
        "Is there anything else?",
        "How are you?",
        "Who are you?",
        "What is your name?",
        "How do you know that?",
        "Is that right?",
        "What is the man " + "in the red shirt " * 8 + "doing?",
        "Write a short caption.",
        "a dog?",
        "",
    ],
)
def test_all_else_is_for_the_language_model(text):
    assert not asks_in_brief(text)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("What is in this photo?", True),
        ("what's in the picture", True),
        ("What is happening?", True),
        ("What’s going on in this photo?", True),
        ("What do you see?", True),
        ("What can you see in this picture?", True),
        ("What does this photo show?", True),
        ("What is shown here?", True),
        ("What is in this photo, in one sentence?", False),
        ("What is on the table?", False),
        ("What is this?", False),
        ("What do you see on the left?", False),
        ("What does the sign show?", False),
        ("Describe this photo in detail.", False),
    ],
)
def test_what_asks_for_the_whole_photo_is_described(tokenizer, text, whole):
    assert asks_to_describe(text) is whole
    model = blip2(retriever(tokenizer))
    said = model.generate(photos()[0], text, max_new_tokens=8)
    assert (said == model.caption(photos()[0], max_new_tokens=8)) is whole


def plain_answer(model, words, states, row, question, most):
    """One piece after the other, everything read again from the photo on, nothing padded."""
    own = states.select(torch.tensor([row]))
    ids, mask = words([question])
    answer = torch.tensor([[model.dec_token_id]])
    with torch.no_grad():
        for _ in range(most):
            cache = model.qformer(own, ids, mask, "bidirectional").cache
            text = model.qformer.decode(answer, torch.ones_like(answer), cache)
            piece = int(model.lm_logits(text[:, -1]).argmax())
            if piece == words.sep_token_id:
                break
            answer = torch.cat([answer, torch.tensor([[piece]])], 1)
    return words.decode(answer[:, 1:])[0]


def test_answers_are_those_of_the_plain_loop(tokenizer):
    """Questions of unequal length in one batch, so that there is padding between."""
    model = representation()
    states = seen(model)
    asked = [QUESTIONS[row % 3] for row in range(6)]
    greedy = Decoding(max_new_tokens=6, min_new_tokens=0)
    said = AnswerWriter(model, tokenizer).generate(states, asked, greedy)
    plain = [plain_answer(model, tokenizer, states, row, asked[row], 6) for row in range(6)]
    assert said == plain
    assert len(set(said)) > 2
    other = AnswerWriter(model, tokenizer).generate(states, asked[1:] + asked[:1], greedy)
    assert other != said  # it reads what is asked


def test_beams_of_a_batch_are_those_of_each_question(tokenizer):
    model = representation()
    states, writer = seen(model, 3), AnswerWriter(model, tokenizer)
    beams = Decoding(num_beams=3, max_new_tokens=4)
    alone = [
        writer.candidates(states.select(torch.tensor([row])), [asked], beams, 2)[0]
        for row, asked in enumerate(QUESTIONS)
    ]
    for one, other in zip(writer.candidates(states, QUESTIONS, beams, 2), alone, strict=True):
        assert [text for text, _ in one] == [text for text, _ in other]
        assert [s for _, s in one] == pytest.approx([s for _, s in other], abs=1e-4)


def test_stage_1_answers_where_it_was_taught_to(tokenizer):
    taught, short = retriever(tokenizer, answers_questions=True), {"max_new_tokens": 4}
    model, untaught = blip2(taught), blip2(retriever(tokenizer))
    photo = photos()[1]
    question = "what is the dog on?"
    expected = taught.answerer.generate(taught.states_of([photo]), [question], Decoding(**short))[0]
    assert model.generate(photo, question, **short) == expected
    assert untaught.grounding.answerer is None
    assert untaught.generate(photo, question, **short) != expected
    assert model.generate(photo, f"Question: {question} Answer:", **short) == expected
    # Descriptions, presence and everything else go where they went.
    for other in ("", "is there a dog?", "what is this?"):
        assert model.generate(photo, other, **short) == untaught.generate(photo, other, **short)
    assert thing_asked_for("is there a dog?") == "a dog"
    # The heat map is of queries that have read the question.
    maps = [model.attention(photo, text) for text in ("", question, "what is the cat on?")]
    with watch(taught.model.qformer) as looked, torch.no_grad():
        taught.model.read_question(taught.states_of([photo]), *tokenizer([question]))
    torch.testing.assert_close(maps[1], photo_maps(looked, taught.encoder)[0])
    assert not torch.allclose(maps[0], maps[1], atol=1e-4)
    assert not torch.allclose(maps[1], maps[2], atol=1e-4)
    chat = model.chat(photo)
    assert chat.ask(question, **short) == expected
    assert "".join(chat.stream(question, **short)) == expected
