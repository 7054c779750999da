"""Questions that ask whether something is there, answered by matching (ITM, section 3.2).

Stage 1 learns to tell a photo's own text from one that nearly fits it. A frozen language model has
to read as much from a visual prompt, and a small one guesses; so what asks for no more than that is
put to ITM, and what is not there is denied.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from blip2.decoding import Decoding
from blip2.qformer import ImageStates

# What these begin or hold is no thing that a photo could show: "is there anything red?", "are there
# more dogs than cats?", "can you see what he holds?", "do you see it?".
_NO_THING = (
    r"any(?:thing|one|body)|some(?:thing|one|body)|enough|more|fewer|less|other|another|too|no|not|"
    r"nothing|nobody|none|what|who|whom|whose|where|why|how|which|when|if|whether|that|this|these|"
    r"those|it|them|him|her|one|only|a (?:reason|difference|way|chance)|in|on|of"
)
_PHOTO = "(?:photo|picture|image|photograph|scene)"
_ASKED = re.compile(
    rf"(?:(?:is|are) there|(?:do|can) you see|does (?:the|this) {_PHOTO} (?:show|have)) "
    rf"(?!(?:any )?(?:{_NO_THING})\b)(?:any )?(?P<thing>[^?!.,;:]+?)"
    rf"(?: (?:in|on) (?:the|this) {_PHOTO})?\s*[?!]+",
    re.IGNORECASE,
)
# Two questions in one.
FURTHER = re.compile(
    r"\b(?:and|or|but),? (?:what|who|where|when|why|how|which|is|are|does|do)\b", re.IGNORECASE
)


def thing_asked_for(question: str) -> str:
    """What a question wants to know to be there, such as "a dog on a beach"; "" for any other."""
    found = _ASKED.fullmatch(" ".join(question.split()))
    thing = found["thing"].strip() if found else ""
    return "" if thing.lower() == "any" or FURTHER.search(thing) else thing


class PresenceJudge:
    """Says "yes" or "no" to things; stands where a language model stands for other questions.

    Parameters
    ----------
    match : callable
        ``(states, texts)`` of ``B`` photos to ``[B]`` probabilities that they belong together.
    threshold : float
        Above this probability a thing is there.
    """

    def __init__(self, match: Callable[[ImageStates, Sequence[str]], Tensor], threshold: float):
        # At 0 or 1 there would be no odds to weigh.
        self.match, self.threshold = match, min(max(threshold, 1e-6), 1 - 1e-6)

    def look(self, visual: ImageStates, texts: Sequence[str]) -> None:
        """Read photos and what is asked of them, and no more, for whoever watches."""
        self.match(visual, texts)

    def generate(
        self, visual: ImageStates, texts: Sequence[str], decoding: Decoding, memory: Any = None
    ) -> list[str]:
        """Answer for each of ``B`` photos whether its text names what is there."""
        return ["yes" if p > self.threshold else "no" for p in self.match(visual, texts).tolist()]

    def candidates(
        self,
        visual: ImageStates,
        texts: Sequence[str],
        decoding: Decoding,
        number: int,
        stopped: threading.Event | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Both answers with their log-probability, where the threshold is even odds."""
        found = []
        for probability in self.match(visual, texts).double().clamp(1e-9, 1 - 1e-9).tolist():
            for_it = probability * (1 - self.threshold)
            against = (1 - probability) * self.threshold
            share = for_it / (for_it + against)
            both = [("yes", math.log(share)), ("no", math.log1p(-share))]
            found.append(sorted(both, key=lambda answer: -answer[1])[:number])
        return found

    def stream(
        self, visual: ImageStates, text: str, decoding: Decoding, memory: Any = None
    ) -> Iterator[str]:
        """The answer in one piece."""
        yield self.generate(visual, [text], decoding)[0]
