from pathlib import Path

import gradio as gr
import pytest

from demo.chat import as_said, stream_answer, turn_of
from demo.visitors import Visitor


def ask(blip2, photo, question, conversation=None, **more):
    """Ask to the end; returns the last messages, the conversation and the line about it."""
    steps = list(stream_answer(blip2, Visitor(), photo, question, conversation, **more))
    shown, conversation, _, line = steps[-1]
    return shown, conversation, line


def said(shown):
    return [message["content"] for message in shown]


def test_an_answer_is_streamed_after_its_question(blip2, sent):
    steps = list(stream_answer(blip2, Visitor(), sent("a.png", "blue"), " What colour? ", None))
    question = {"role": "user", "content": "What colour?"}
    assert all(messages[0] == question for messages, *_ in steps)
    answers = [messages[1]["content"] for messages, *_ in steps]
    assert answers[:3] == ["...", "blue;", "blue; before"]
    assert answers[-1] == "blue; before you asked nothing"
    assert steps[0][2] == "", "the question stays in its box"


def test_a_conversation_goes_on_about_the_same_photo(blip2, sent):
    photo = sent("a.png", "red")
    _, conversation, _ = ask(blip2, photo, "One?")
    messages, again, _ = ask(blip2, photo, "Two?", conversation)
    assert again is conversation
    assert [message["content"] for message in messages] == [
        "One?",
        "red; before you asked nothing",
        "Two?",
        "red; before you asked One?",
    ]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert len(blip2.chats) == 1, "the photo was encoded twice"


def test_a_new_photo_is_a_new_conversation(blip2, sent):
    _, conversation, _ = ask(blip2, sent("a.png", "red"), "One?")
    messages, other, _ = ask(blip2, sent("b.png", "blue"), "Two?", conversation)
    assert other is not conversation
    assert [message["content"] for message in messages] == [
        "Two?",
        "blue; before you asked nothing",
    ]


def test_visitors_do_not_hear_each_other(blip2, sent):
    photo = sent("a.png")
    _, ann, _ = ask(blip2, photo, "Ann asks?")
    _, bob, _ = ask(blip2, photo, "Bob asks?")
    anns, _, _ = ask(blip2, photo, "And?", ann)
    bobs, _, _ = ask(blip2, photo, "And?", bob)
    assert anns[-1]["content"] == "red; before you asked Ann asks?"
    assert bobs[-1]["content"] == "red; before you asked Bob asks?"


@pytest.mark.parametrize("question", ["", "  ", None])
def test_an_empty_question_is_refused(blip2, sent, question):
    with pytest.raises(gr.Error, match="question is empty; write a few words"):
        ask(blip2, sent("a.png"), question)
    assert blip2.chats == []


def test_a_long_question_is_refused(blip2, sent):
    with pytest.raises(gr.Error, match="question has 10,000 characters"):
        ask(blip2, sent("a.png"), "y" * 10_000)


def test_a_bad_photo_is_refused_and_the_old_conversation_kept(blip2, sent):
    photo = sent("a.png")
    _, conversation, _ = ask(blip2, photo, "One?")
    with pytest.raises(gr.Error, match="not in a format"):
        ask(blip2, sent("b.png", b"text"), "Two?", conversation)
    messages, _, _ = ask(blip2, photo, "Three?", conversation)
    assert messages[-1]["content"] == "red; before you asked One?"


def test_asking_again_replaces_the_last_answer_and_leaves_it_to_chance(blip2, sent):
    photo = sent("a.png", "red")
    _, conversation, _ = ask(blip2, photo, "One?")
    _, conversation, _ = ask(blip2, photo, "Two?", conversation)
    turn = turn_of(2, conversation)
    shown, _, _ = ask(blip2, photo, "Two?", conversation, turn=turn, vary=True)
    assert said(shown) == [
        "One?",
        "red; before you asked nothing",
        "Two?",
        "red; before you asked One?",
    ]
    assert [bool(d.get("do_sample")) for d in blip2.chats[0].decodings] == [False, False, True]


def test_an_edited_question_takes_back_what_came_after_it(blip2, sent):
    photo = sent("a.png", "red")
    conversation = None
    for question in ("One?", "Two?", "Three?"):
        _, conversation, _ = ask(blip2, photo, question, conversation)
    shown, _, _ = ask(blip2, photo, "Other?", conversation, turn=turn_of(2, conversation))
    assert said(shown) == [
        "One?",
        "red; before you asked nothing",
        "Other?",
        "red; before you asked One?",
    ]


def test_words_that_look_like_html_stay_words(blip2, sent):
    """The history draws HTML; the model and a question that is edited get what was written."""
    shown, conversation, _ = ask(blip2, sent("a.png"), "Is 1 < 2 <b>?</b>")
    assert said(shown)[0] == "Is 1 &lt; 2 &lt;b>?&lt;/b>"
    assert conversation.chat.turns[0][0] == "Is 1 < 2 <b>?</b>" == as_said(said(shown)[0])


def test_a_stopped_question_can_be_asked_again(blip2, sent):
    """It is shown after all turns and is none of them."""
    photo = sent("a.png", "red")
    _, conversation, _ = ask(blip2, photo, "One?")
    stopped = stream_answer(blip2, Visitor(), photo, "Two?", conversation)
    next(stopped)
    next(stopped)
    stopped.close()
    shown, _, _ = ask(blip2, photo, "Two?", conversation, turn=turn_of(2, conversation), vary=True)
    assert said(shown)[2:] == ["Two?", "red; before you asked One?"]


@pytest.mark.parametrize("message", [4, -1, "2", None, [9]])
def test_a_turn_that_is_not_kept_is_refused(blip2, sent, message):
    _, conversation, _ = ask(blip2, sent("a.png"), "One?")
    with pytest.raises(gr.Error, match="no longer kept; write it into the box below"):
        turn_of(message, conversation)
    with pytest.raises(gr.Error, match="no longer kept"):
        turn_of(2, None)


def test_turns_that_no_longer_fit_are_said(blip2, sent):
    photo, conversation, lines = sent("a.png"), None, []
    for question in ("One?", "Two?", "Three?", "Four?", "Five?"):
        _, conversation, line = ask(blip2, photo, question, conversation)
        lines.append(line)
    assert lines[:3] == ["", "", ""]
    assert "left out the oldest question and its answer" in lines[3]
    assert "left out the oldest 2 questions and their answers" in lines[4]


def test_an_answer_about_a_photo_that_has_gone_ends(blip2, sent):
    red, blue = sent("a.png", "red"), sent("b.png", "blue")
    visitor = Visitor(photo=Path(red["path"]))
    steps = stream_answer(blip2, visitor, red, "One?", None)
    next(steps)
    next(steps)
    visitor.photo = Path(blue["path"])
    assert list(steps) == [([], None, "", "")]
    assert blip2.chats[0].turns == [], "the broken answer is kept"
