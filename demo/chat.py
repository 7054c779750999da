"""The tab for a conversation about a photo; every visitor has their own."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from blip2.errors import UserError
from demo.events import QUIET, RUNS_MODEL
from demo.failures import sentences
from demo.models import Models
from demo.photo import PhotoPanel
from demo.stopping import stopped_by
from demo.uploads import open_received, received_text
from demo.visitors import Visitor, Visitors

if TYPE_CHECKING:
    from blip2 import Blip2
    from blip2.chat import Chat

KEPT_FOR = 2 * 3600  # seconds without a question after which a conversation is forgotten
SUGGESTIONS = (
    "What is in this photo?",
    "Where was it taken?",
    "What colours are there?",
    "Is anybody in the photo?",
)
Messages = list[dict[str, str]]
# Messages come to the browser as they are shown; a text is saved there, without asking the server.
_SAVE = """(messages) => {
  const plain = (content) => typeof content === 'string' ? content
    : Array.isArray(content) ? content.map(plain).join('\\n') : (content?.text ?? '');
  const who = {user: 'You', assistant: 'Model'};
  const lines = (messages ?? []).map(
    (m) => `${who[m.role] ?? m.role}: ${plain(m.content).replaceAll('&lt;', '<')}`);
  const link = document.createElement('a');
  const text = lines.length ? lines.join('\\n\\n') + '\\n' : 'Nothing was said yet.\\n';
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/plain;charset=utf-8'}));
  link.download = 'conversation.txt';
  document.body.appendChild(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""


# An answer that was stopped before its first word says so.
_STOPPED = """(messages) => [(messages ?? []).map((message, i, all) => {
  const text = Array.isArray(message.content) ? message.content[0]?.text : message.content;
  const stopped = [{type: 'text', text: 'Stopped; this question is not kept.'}];
  return i === all.length - 1 && text === '...' ? {...message, content: stopped} : message;
})]"""


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
    chat: "Chat" = field(repr=False)


def build(models: Models, panel: PhotoPanel, visitors: Visitors) -> None:
    """Lay out the tab and connect it.

    Parameters
    ----------
    models : Models
        What answers.
    panel : PhotoPanel
        The photo.
    visitors : Visitors
        Know which photo is before whom.
    """
    photo = panel.photo
    conversation = gr.State(None, time_to_live=KEPT_FOR)
    history = gr.Chatbot(
        label="Conversation",
        show_label=False,
        height=400,
        placeholder="Choose a photo and ask about it.",
        render_markdown=False,
        feedback_options=None,
        allow_tags=False,
        editable="user",
        buttons=["copy", "copy_all"],
        elem_id="chat-history",
    )
    status = gr.HTML(label="About it", elem_id="chat-status", elem_classes="meta")
    with gr.Row(elem_classes="chips"):
        chips = [
            gr.Button(words, size="sm", min_width=0, elem_classes="chip") for words in SUGGESTIONS
        ]
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
        send = gr.Button("Ask", variant="primary", min_width=72, elem_id="chat-send")
        stop = gr.Button("Stop", min_width=72, interactive=False, elem_id="chat-stop")
    with gr.Row(elem_classes="quiet-row"):
        save = gr.Button("Download the conversation", size="sm", min_width=0, elem_id="chat-save")
        clear = gr.Button("Start over", size="sm", min_width=0, elem_id="chat-clear")

    def ask(
        request: gr.Request, photo: Any, question: Any, conversation: Conversation | None
    ) -> Iterator[tuple[Messages, Conversation, str, str]]:
        """Ask about a photo; the same photo continues the conversation."""
        yield from stream_answer(models.blip2, visitors.of(request), photo, question, conversation)

    def ask_again(
        request: gr.Request, photo: Any, conversation: Conversation | None, which: gr.RetryData
    ) -> Iterator[tuple[Messages, Conversation, str, str]]:
        """Ask the last question again; chance has a part in the new answer."""
        turn = turn_of(which.index, conversation)
        yield from stream_answer(
            models.blip2,
            visitors.of(request),
            photo,
            as_said(which.value),
            conversation,
            turn,
            True,
        )

    def ask_otherwise(
        request: gr.Request, photo: Any, conversation: Conversation | None, edited: gr.EditData
    ) -> Iterator[tuple[Messages, Conversation, str, str]]:
        """Ask an edited question; what was said after it is taken back."""
        turn = turn_of(edited.index, conversation)
        yield from stream_answer(
            models.blip2, visitors.of(request), photo, as_said(edited.value), conversation, turn
        )

    answering: dict[str, Any] = {
        "outputs": [history, conversation, question, status],
        "show_progress_on": history,
        **RUNS_MODEL,
    }
    started = [send.click, question.submit, *(chip.click for chip in chips)]
    again: dict[str, Any] = {"api_visibility": "private", **answering}
    with stopped_by(stop, [*started, history.retry, history.edit]) as runs:
        runs.append(
            gr.on(
                [send.click, question.submit],
                ask,
                [photo, question, conversation],
                api_name="ask",
                **answering,
            )
        )
        for chip, words in zip(chips, SUGGESTIONS, strict=True):
            put = chip.click(None, None, question, js=f"() => {words!r}", api_visibility="private")
            runs.append(put.then(ask, [photo, question, conversation], **again))
        runs.append(history.retry(ask_again, [photo, conversation], **again))
        runs.append(history.edit(ask_otherwise, [photo, conversation], **again))

    stop.click(None, history, history, js=_STOPPED, queue=False, api_visibility="private")
    forgotten = [history, conversation, status]
    for event in (clear.click, history.clear):
        event(lambda: ([], None, ""), None, forgotten, cancels=runs, **QUIET)
    # A new photo is a new conversation: `stream_answer` begins it, and an answer about the photo
    # before ends by itself. What is shown goes at once, in the browser.
    photo.change(None, None, [history, status], js="() => [[], '']", **QUIET)
    photo.change(lambda: None, None, conversation, **QUIET)
    save.click(None, history, None, js=_SAVE, **QUIET)


def stream_answer(
    blip2: "Blip2",
    visitor: Visitor,
    photo: Any,
    question: Any,
    conversation: Conversation | None,
    turn: int | None = None,
    vary: bool = False,
) -> Iterator[tuple[Messages, Conversation | None, str, str]]:
    """Answer a question piece by piece.

    Parameters
    ----------
    blip2 : Blip2
        The model.
    visitor : Visitor
        Once they have another photo, the answer ends.
    photo, question : Any
        What the visitor sent, raw.
    conversation : Conversation or None
        What this visitor said before; one about another photo is left behind.
    turn : int, optional
        Take back this turn, from 0, and all after it, and ask in its place.
    vary : bool
        Draw the answer instead of taking the likeliest, so that asking again helps.

    Yields
    ------
    list of dict, Conversation, str, str
        The messages to show, the conversation to keep, what is left in the question box, and a
        line about the conversation.

    Raises
    ------
    gr.Error
        If the photo or the question cannot be used.
    """
    with sentences():
        words = received_text(question, "question")
        path, _ = visitor.received(photo)
        if not visitor.comes_to(path):
            yield [], None, "", ""
            return
        if conversation is None or conversation.photo != path:
            conversation = Conversation(path, blip2.chat(open_received(path)))
        chat = conversation.chat
        if turn is not None:
            chat.turns = chat.turns[:turn]
        before = messages(chat.turns)
        answer = ""
        decoding = {"do_sample": True, "temperature": 0.8} if vary else {}
        yield [*before, *messages([(words, "...")])], conversation, "", ""
        with closing(chat.stream(words, **decoding)) as pieces:
            for piece in pieces:
                if not visitor.wants(path):
                    yield [], None, "", ""
                    return
                answer += piece
                shown = answer.lstrip() or "..."
                yield [*before, *messages([(words, shown)])], conversation, "", ""
        yield messages(chat.turns), conversation, "", forgotten_html(chat.forgotten)


def turn_of(message: Any, conversation: Conversation | None) -> int:
    """Return which turn a message belongs to, from 0.

    Parameters
    ----------
    message : Any
        Number of the message, as the chat history counts them: two a turn. An answer that was
        stopped is shown and not kept, so its turn may be the one after all that are.
    conversation : Conversation or None
        Of this visitor.

    Returns
    -------
    int

    Raises
    ------
    gr.Error
        If the conversation has no such turn: it was forgotten, or never held.
    """
    with sentences():
        turns = conversation.chat.turns if conversation else []
        if not isinstance(message, int) or not 0 <= message // 2 <= len(turns):
            raise UserError("This question is no longer kept; write it into the box below.")
        return message // 2


def messages(turns: list[tuple[str, str]]) -> Messages:
    """Return turns, as (question, answer), in the form that `gr.Chatbot` shows.

    It would draw what looks like HTML; see `as_said` for the way back.
    """
    return [
        {"role": role, "content": words.replace("<", "&lt;")}
        for turn in turns
        for role, words in zip(("user", "assistant"), turn, strict=True)
    ]


def as_said(shown: Any) -> Any:
    """Return a text of the history as it was said."""
    return shown.replace("&lt;", "<") if isinstance(shown, str) else shown


def forgotten_html(turns: int) -> str:
    """Return a line on turns that the model no longer reads; empty where it reads them all."""
    if not turns:
        return ""
    what = "question and its answer" if turns == 1 else f"{turns} questions and their answers"
    return (
        f"<p>The conversation is longer than the model can read at once: for this answer it left "
        f"out the oldest {what}.</p>"
    )
