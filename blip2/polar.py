"""Questions by yes and no: what ITG would answer, and what ITM thinks of the statement, together.

ITG has learned to answer (:mod:`blip2.answering`), but what is asked by yes and no it has read of a
few thousand photos alone; ITM has learned to tell a photo's text from one that nearly fits it. Each
gives odds, and since they err on different questions their product is right more often than either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from blip2.answering import AnswerWriter
from blip2.presence import PresenceJudge
from blip2.qformer import ImageStates

_VERB = r"(?:is|are|was|were|does|do|did|can|could|has|have|will|would|should)"
# "Is it red or blue?" wants one of them.
_POLAR = re.compile(rf"{_VERB}\s+(?P<said>(?:(?!\bor\b)[^?])+?)\s*\?[?!]*", re.IGNORECASE)
# What only points at the photo, or at whoever is asked: "is this a kitchen?", "would you call it
# clean?"
_POINTING = re.compile(
    r"(?:you (?:call|consider|say|think)\s+)?"
    r"(?:(?:there|it)\s+|(?:this|these|those|that|they|the (?:photo|picture|image))\s+"
    r"(?=(?:a|an|the|in|on|two|\d+)\b))?",
    re.IGNORECASE,
)


def statement(question: str) -> str:
    """What a question by yes and no wants to be affirmed, "" for any other question.

    Parameters
    ----------
    question : str
        What a user wrote.

    Examples
    --------
    >>> statement("Is the man riding a bike?")
    'the man riding a bike'
    >>> statement("Is this a kitchen?")
    'a kitchen'
    """
    found = _POLAR.fullmatch(" ".join(question.split()))
    return found["said"][_POINTING.match(found["said"]).end() :] if found else ""


class PolarJudge(PresenceJudge):
    """Says "yes" or "no" to questions; stands where a language model stands for others.

    Parameters
    ----------
    answerer : AnswerWriter
        Answers by ITG.
    match : callable
        ``(states, texts)`` of ``B`` photos to ``[B]`` probabilities that they belong together.
    """

    def __init__(
        self,
        answerer: AnswerWriter,
        match: Callable[[ImageStates, Sequence[str]], Tensor],
    ) -> None:
        def weigh(visual: ImageStates, questions: Sequence[str]) -> Tensor:  # -> [B]
            fits = match(visual, [statement(text) for text in questions]).double()
            odds = fits.clamp(1e-6, 1 - 1e-6).logit() + answerer.odds(visual, questions).cpu()
            return odds.sigmoid()

        super().__init__(weigh, threshold=0.5)
        self.answerer = answerer

    def look(self, visual: ImageStates, texts: Sequence[str]) -> None:
        """Read photos and questions as they are answered by ITG, and no more."""
        self.answerer.look(visual, texts)
