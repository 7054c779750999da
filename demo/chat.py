"""The tab for a conversation about a photo; every visitor has their own."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demo.models import MODEL_QUEUE, Models
from demo.uploads import open_received, photo_box, received_file, received_text, sentences

if TYPE_CHECKING:
    from blip2 import Blip2
    from blip2.chat import Chat

KEPT_FOR = 2 * 3600  # seconds without a question after which a conversation is forgotten
Messages = list[dict[str, str]]


@dataclass
class Conversation:
    """One visitor's conversation.

    Parameters
    ----------
    photo : Path
        What it is about. Gradio names uploads by their content, so the same path is the same photo.
    chat : Chat
        The turns so far.
    """

    photo: Path
    chat: "Chat"


def build(models: Models, samples: list[Path]) -> None:
    """Lay out the tab and connect it.

    Parameters
    ----------
    models : Models
        What answers.
    samples : list of Path
        Photos to offer.
    """
    conversation = gr.State(None, time_to_live=KEPT_FOR)
    with gr.Row(equal_height=False, elem_classes="halves"):
        with gr.Column(min_width=320):
            photo = photo_box(samples, "chat")
        with gr.Column(min_width=320):
            history = gr.Chatbot(
                label="Conversation",
                show_label=False,
                height=436,
                placeholder="Choose a photo and ask about it.",
                render_markdown=False,
                feedback_options=None,
                allow_tags=False,
                buttons=["copy_all"],
                elem_id="chat-history",
            )
            with gr.Row(elem_classes="ask-row"):
                question = gr.Textbox(
                    label="Question",
                    show_label=False,
                    placeholder="Ask about the photo",
                    lines=1,
                    max_lines=4,
                    scale=6,
                    container=False,
                    elem_id="chat-question",
                )
                send = gr.Button("Ask", variant="primary", min_width=84, elem_id="chat-send")
            clear = gr.Button("Start over", size="sm", elem_id="chat-clear", elem_classes="quiet")

    def ask(
        photo: Any, question: Any, conversation: Conversation | None
    ) -> Iterator[tuple[Messages, Conversation, str]]:
        """Ask about a photo; the same photo continues the conversation."""
        yield from stream_answer(models.blip2, photo, question, conversation)

    asking = gr.on(
        [send.click, question.submit],
        ask,
        [photo, question, conversation],
        [history, conversation, question],
        preprocess=False,
        show_progress="minimal",
        show_progress_on=history,
        api_name="ask",
        **MODEL_QUEUE,
    )
    # A new photo is a new conversation. An answer still being written must not come back after it.
    for event in (clear.click, history.clear, photo.change):
        event(
            lambda: ([], None),
            None,
            [history, conversation],
            cancels=[asking],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )


def stream_answer(
    blip2: "Blip2", photo: Any, question: Any, conversation: Conversation | None
) -> Iterator[tuple[Messages, Conversation, str]]:
    """Answer a question piece by piece.

    Parameters
    ----------
    blip2 : Blip2
        The model.
    photo, question : Any
        What the visitor sent, raw.
    conversation : Conversation or None
        What this visitor said before; one about another photo is left behind.

    Yields
    ------
    list of dict, Conversation, str
        The messages to show, the conversation to keep, and what is left in the question box.

    Raises
    ------
    gr.Error
        If the photo or the question cannot be used.
    """
    with sentences():
        words = received_text(question, "question")
        path, _ = received_file(photo)
        if conversation is None or conversation.photo != path:
            conversation = Conversation(path, blip2.chat(open_received(path)))
        before = messages(conversation.chat.turns)
        answer = ""
        yield [*before, *messages([(words, "...")])], conversation, ""
        with closing(conversation.chat.stream(words)) as pieces:
            for piece in pieces:
                answer += piece
                yield [*before, *messages([(words, answer.lstrip() or "...")])], conversation, ""
        yield messages(conversation.chat.turns), conversation, ""


def messages(turns: list[tuple[str, str]]) -> Messages:
    """Return turns, as (question, answer), in the form that `gr.Chatbot` shows."""
    return [
        {"role": role, "content": words}
        for turn in turns
        for role, words in zip(("user", "assistant"), turn, strict=True)
    ]
