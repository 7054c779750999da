"""A conversation about one photo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from blip2.decoding import Decoding
from blip2.memory import Memory
from blip2.processing import clean_text

if TYPE_CHECKING:
    from blip2.generation import Blip2


class Chat:
    """Questions and answers about one photo; photo and past turns are read once.

    Parameters
    ----------
    model : Blip2
        Who answers.
    photo
        Everything that :func:`blip2.processing.open_photo` takes.

    Attributes
    ----------
    turns : list of (str, str)
        Questions with their answers, oldest first. It may be changed between questions, to ask
        one again or another way.
    forgotten : int
        So many of the oldest turns the model did not read for the latest answer, because they no
        longer fit its context.
    """

    def __init__(self, model: Blip2, photo: Any) -> None:
        self.model = model
        self._photo = photo if model.reads_question else None  # megabytes, else never read again
        self.turns: list[tuple[str, str]] = []
        self.forgotten = 0
        self._visual = model.visual_prompt([photo])  # [1, Q, W]
        self._memory = Memory()
        self._states = model.grounding.states_of([photo]) if model.grounding else None
        self._opening: list[tuple[str, str]] | None = None  # written when it is first read

    def ask(self, question: str, **decoding: Any) -> str:
        """Answer a question, mindful of the turns before it.

        Parameters
        ----------
        question : str
            Not empty.
        **decoding
            See :class:`blip2.decoding.Decoding`.

        Raises
        ------
        UserError
            The question is empty or too long, or an option is out of range.
        """
        question, writer, seen, prompt, options = self._asked(question, decoding)
        # Not through `stream`, whose thread costs as much as a few words.
        answer = writer.generate(seen, [prompt], options, self._memory)[0]
        self.turns.append((question, answer))
        return answer

    def stream(self, question: str, **decoding: Any) -> Iterator[str]:
        """Answer a question piece by piece; the turn is kept once the answer has ended.

        Arguments and errors are those of :meth:`ask`; the errors come at once.
        """
        return self._answer(*self._asked(question, decoding))

    def _asked(
        self, question: str, decoding: dict[str, Any]
    ) -> tuple[str, Any, Any, str, Decoding]:
        """The question as it is kept, who answers, what it sees, its prompt, and the decoding."""
        options = Decoding(**decoding)
        question = clean_text(question, "question")
        if witness := self.model.witness(question):
            self.forgotten = 0
            return question, witness[0], self._states, witness[1], options
        if self.model.reads_question:  # other eyes for each question
            self._visual = self.model.visual_prompt([self._photo], [question])
            self._memory = Memory()
        prompt = self._prompt(question, options)
        return question, self.model.language, self._visual, prompt, options

    def _answer(
        self, question: str, writer: Any, seen: Any, prompt: str, options: Decoding
    ) -> Iterator[str]:
        pieces = []
        for piece in writer.stream(seen, prompt, options, self._memory):
            pieces.append(piece)
            yield piece
        self.turns.append((question, "".join(pieces)))

    def _prompt(self, question: str, options: Decoding) -> str:
        """The prompt with as many of the newest turns as fit the model's context."""
        language = self.model.language
        if self._opening is None:
            self._opening = [turn for turns in self.model.opening(self._states) for turn in turns]
        room = language.context - self._visual.shape[1] - options.max_new_tokens - 8
        turns = [(language.question(asked), answered) for asked, answered in self.turns]
        for first in range(len(turns) + 1):
            text = language.prompt(language.question(question), [*self._opening, *turns[first:]])
            if len(language.token_ids(text)) <= room:
                break
        self.forgotten = first
        return text
