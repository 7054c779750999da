"""Questions answered by the Q-Former itself: ITG after it has read what is asked (section 4.3).

For visual question answering the paper lets queries and question read each other, so that the
queries look for what is asked. Stage 1 can be taught to go on from there: its text branch decodes
the answer over both, as it decodes a caption over the queries alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from blip2.grounded import QFormerWriter, Words, query_states
from blip2.qformer import ImageStates
from blip2.representation import Representation
from blip2.tokenization import TextTokenizer

QUESTION_PIECES = 40  # of a question at most; people ask at greater length than they describe

_ASKS = (
    r"what|which|who|whom|whose|where|when|how (?:many|much|old|big|large|tall|long|far|high|"
    r"fast|is|are|do|does)|in what|on what|at what|in which|on which|to what|of what|"
    r"is|are|was|were|does|do|did|can|could|has|have|will|would|should"
)
_ONE_QUESTION = re.compile(rf"(?:{_ASKS})\b[^.!?;:\n]*\?", re.IGNORECASE)
# What wants more than a word or two, or speaks of the conversation.
_AT_LENGTH = re.compile(
    r"(?:what|how) (?:else|about|if|would|could|should|can you|do you think|did you)\b|"
    r"(?:can|could|would|will|do|did|have|are|should) (?:you|we|i)\b|"
    r"what (?:is|'s|are|was) (?:this|that|it|they|these|those|happening|going on|shown|seen|"
    r"depicted|visible|there|here)\b|"
    r"what (?:do|can|could|would|did) (?:you|we|i|one)\b|"
    r"what does (?:this|the|it) ?(?:photo|picture|image|scene)? ?(?:show|depict|contain|look)|"
    r"what(?: is|'s| are)(?: \w+)? (?:in|on) (?:this|the|that) "
    r"(?:photo|picture|image|photograph|scene)|"
    r"what happens\b",
    re.IGNORECASE,
)


def asks_in_brief(question: str) -> bool:
    """Whether a text is one question about a photo that a word or two can answer.

    Parameters
    ----------
    question : str
        What a user wrote.
    """
    text = " ".join(question.split())
    if not _ONE_QUESTION.fullmatch(text) or len(text.split()) < 3:
        return False
    return not _AT_LENGTH.match(text)


class AnswerWriter(QFormerWriter):
    """Answers questions in a word or two; stands where a language model stands for others.

    Parameters
    ----------
    representation : Representation
        A stage 1 that was taught to (``Blip2Config.answers_questions``).
    tokenizer : TextTokenizer
        Its word pieces.
    """

    def __init__(self, representation: Representation, tokenizer: TextTokenizer) -> None:
        super().__init__(representation, tokenizer, Words(tokenizer))
        self.questions = tokenizer.with_length(QUESTION_PIECES)

    def inputs(self, visual: ImageStates, texts: Sequence[str]) -> dict[str, Tensor]:
        """``[DEC]``, which opens every answer, and what queries and questions offer to it."""
        model = self.model.representation
        device = visual.layers[0].key.device
        ids, mask = (tensor.to(device) for tensor in self.questions(list(texts)))
        cache, seen = model.read_question(visual, ids, mask)
        start = torch.full((len(visual), 1), model.dec_token_id, device=device)
        return {
            "input_ids": start,
            "attention_mask": torch.ones_like(start),
            "query_states": query_states(cache),
            "read_mask": seen,
        }
