"""How each kind of language model wants to be asked: the text around photo and question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class PromptForm:
    """How a model wants its prompt: what stands around the photo, a question and an answer.

    Attributes
    ----------
    before_photo, before_question, before_answer, between_turns : str
        What is written there, special tokens included.
    before_past_answer : str
        Further text before an answer that was already given.
    closing : str
        Ends the prompt.
    caption : str
        What asks for a plain caption.
    question : str
        How a question is put, with ``{}`` for the user's words.
    """

    before_photo: str = ""
    before_question: str = ""
    before_answer: str = ""
    between_turns: str = ""
    before_past_answer: str = ""
    closing: str = ""
    caption: str = ""
    question: str = "{}"

    def text(self, turns: Turns, question: str) -> str:
        """All that follows the photo, up to the answer that is asked for."""
        text = self.before_question
        for asked, answered in turns:
            text += f"{asked}{self.before_answer}{self.before_past_answer}{answered}"
            text += self.between_turns
        return text + question + self.before_answer + self.closing


CHATML = PromptForm(
    before_photo="<|im_start|>user\n",
    before_question="\n",
    before_answer="<|im_end|>\n<|im_start|>assistant\n",
    between_turns="<|im_end|>\n<|im_start|>user\n",
    caption="Describe this photo.",
)
# As published (section 4.1, and the processors of the checkpoints): no chat marks, a question in
# words. OPT reads its beginning-of-text token after the photo, T5 ends what its encoder reads.
OPT_FORM = PromptForm(
    before_question="</s>",
    between_turns=" ",
    before_past_answer=" ",
    caption="a photo of",
    question="Question: {} Answer:",
)
T5_FORM = PromptForm(
    between_turns=" ",
    before_past_answer=" ",
    closing="</s>",
    caption="a photo of",
    question="Question: {} Short answer:",
)


def bare(prompt: str) -> str:
    """The words of a question without the published form in which it is put; else the prompt."""
    for form in (OPT_FORM, T5_FORM):
        before, after = form.question.split("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            return prompt.removeprefix(before).removesuffix(after).strip()
    return prompt
