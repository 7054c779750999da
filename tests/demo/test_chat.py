import gradio as gr
import pytest

from demo.chat import stream_answer


def ask(blip2, photo, question, conversation=None):
    """Ask to the end; returns the last messages, the conversation and what is left in the box."""
    return list(stream_answer(blip2, photo, question, conversation))[-1]


def test_an_answer_is_streamed_after_its_question(blip2, sent):
    steps = list(stream_answer(blip2, sent("a.png", "blue"), " What colour? ", None))
    question = {"role": "user", "content": "What colour?"}
    assert all(messages[0] == question for messages, _, _ in steps)
    answers = [messages[1]["content"] for messages, _, _ in steps]
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
    with pytest.raises(gr.Error, match="not a picture"):
        ask(blip2, sent("b.png", b"text"), "Two?", conversation)
    messages, _, _ = ask(blip2, photo, "Three?", conversation)
    assert messages[-1]["content"] == "red; before you asked One?"
