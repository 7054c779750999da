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

from blip2.decoding import Decoding
from blip2.grounded import QFormerWriter, Words, query_states
from blip2.presence import FURTHER
from blip2.qformer import ImageStates
from blip2.representation import Representation
from blip2.tokenization import TextTokenizer

QUESTION_PIECES = 40  # of a question at most; people ask at greater length than they describe

MOST_WORDS = 25  # what is longer might be cut

_PHOTO = r"(?:photo|photograph|picture|pic|image|scene|shot)"
_IS = r"(?: is| are| was| were|['’]s|['’]re)"
_ONE_QUESTION = re.compile(
    rf"(?:in (?:this|the) {_PHOTO},? )?(?:"
    r"(?:what|which|who|whom|whose|where|when|how (?:many|much|old|big|large|tall|long|far|high|"
    r"fast|is|are|do|does)|(?:in|on|at|to|of) (?:what|which))\b[^.!?;:\n]*[?!]*|"
    # Many leave the mark out; here it tells a question from a statement.
    r"(?:is|are|was|were|does|do|did|can|could|has|have|will|would|should)\b[^.!?;:\n]*\?[?!]*)",
    re.IGNORECASE,
)
# What wants more than a word or two, asks about the whole photo, or speaks of the conversation.
_AT_LENGTH = re.compile(
    r"what an?\b|"
    r"(?:what|how) (?:else|about|if|would|should|might|will|happen(?:s|ed)|stands out)\b|"
    # "Do you think he is cold?" asks about the photo all the same.
    r"(?!(?:would you (?:call|consider|say)|do you think) "
    r"(?:this|that|these|those|the|he|she|it|they|an?)\b)"
    r"(?:can|could|would|will|do|did|have|are|am|should|may) (?:you|we|i)\b|"
    r"(?:how|who|what|where)(?: are| am|['’]re) (?:you|we|i)\b|"
    r"how(?: is|['’]s| do| does| did) (?:you|we|i|it|this|that)\b|"
    r"what (?:do|can|could|did) (?:you|we|i|one|be)\b|"
    rf"what{_IS} (?:this|that|it|they|these|those|happening|going on|shown|seen|depicted|visible|"
    rf"there|here)(?: (?:here|there|(?:in|on|of) (?:this|the|that) {_PHOTO}))*\s*(?:\?|$)|"
    rf"what (?:does|do) (?:this|the|that|it)(?: {_PHOTO})? (?:show|depict|contain|mean)|"
    rf"what{_IS}(?: \w+)? (?:in|on) (?:this|the|that) {_PHOTO}|"
    rf"what{_IS} (?:the|this|that) {_PHOTO}\b|"
    rf"what{_IS} (?:your|(?:the|a) (?:good |best )?(?:caption|title|story|mood|meaning|difference|"
    r"relationship))\b|"
    r"(?:what|how|who)\b.*\blooks? like\b|"
    r"(?:is|was|are) (?:that|this|it) (?:all|right|true|correct|possible)\b|"
    r"is there (?:anything else|a (?:reason|difference|way|chance))\b",
    re.IGNORECASE,
)


_WHERE = rf"(?: (?:here|there|(?:in|on) (?:this|the|that) {_PHOTO}))"
_WHOLE_PHOTO = re.compile(
    rf"what{_IS} (?:in|on) (?:this|the|that) {_PHOTO}\??|"
    rf"what{_IS} (?:shown|seen|depicted|visible|happening|going on){_WHERE}*\??|"
    rf"what (?:do|can) you see{_WHERE}*\??|"
    rf"what does (?:this|the|that) {_PHOTO} (?:show|depict|contain)\??",
    re.IGNORECASE,
)


def asks_to_describe(question: str) -> bool:
    """Whether a text is a question that a plain description of the photo answers.

    Parameters
    ----------
    question : str
        What a user wrote.
    """
    return _WHOLE_PHOTO.fullmatch(" ".join(question.split())) is not None


def asks_in_brief(question: str) -> bool:
    """Whether a text is one question about a photo that a word or two can answer.

    Parameters
    ----------
    question : str
        What a user wrote.
    """
    text = " ".join(question.split())
    if not _ONE_QUESTION.fullmatch(text) or not 3 <= len(text.split()) <= MOST_WORDS:
        return False
    return not _AT_LENGTH.match(text) and not FURTHER.search(text)


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

    def _ranks(self, decoding: Decoding) -> bool:
        return False  # an answer describes no photo

    @property
    def polar(self) -> tuple[int, int] | None:
        """The pieces "yes" and "no", None where there are none."""
        yes, no = self.pieces.piece_id("yes"), self.pieces.piece_id("no")
        return None if yes is None or no is None else (yes, no)

    @torch.inference_mode()
    def odds(self, visual: ImageStates, texts: Sequence[str]) -> Tensor:
        """How much likelier than "no" an answer begins with "yes".

        Parameters
        ----------
        visual : ImageStates
            Of ``B`` photos.
        texts : sequence of str
            ``B`` questions.

        Returns
        -------
        Tensor
            ``[B]``, natural logarithms of ratios, fp64.
        """
        yes, no = self.polar
        first = self.model(**self.inputs(visual, texts)).logits[:, -1]  # [B, V]
        return (first[:, yes] - first[:, no]).double()

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
