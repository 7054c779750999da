"""How words are chosen: greedily, by beams or by sampling, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blip2.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How words are chosen.

    Attributes
    ----------
    num_beams : int
        Beams of beam search; 1 is greedy, or sampling with ``do_sample``.
    do_sample : bool
        Nucleus sampling with ``temperature`` and ``top_p``.
    max_new_tokens, min_new_tokens : int
        Length of the answer, in tokens.
    length_penalty : float
        Exponent on the length of a beam; above 0 favours long answers.
    repetition_penalty : float
        Above 1 discourages tokens that the answer already has.
    seed : int or None
        Makes sampling repeatable.
    """

    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 30
    min_new_tokens: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "num_beams": (1, 20),
            "max_new_tokens": (1, 512),
            "min_new_tokens": (0, self.max_new_tokens),
            "temperature": (0.01, 10),
            "top_p": (0.01, 1),
            "length_penalty": (-5, 5),
            "repetition_penalty": (0.1, 10),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(
                    f"The decoding option {name} is {getattr(self, name)}; choose a value from "
                    f"{low} to {high}."
                )

    def arguments(self) -> dict[str, Any]:
        """The same for the ``generate`` of transformers, without what does not apply."""
        arguments = {
            "num_beams": self.num_beams,
            "do_sample": self.do_sample,
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.num_beams > 1:
            arguments["length_penalty"] = self.length_penalty
        if self.do_sample:
            arguments |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return arguments
