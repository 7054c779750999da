"""The decoding options: their controls, and what they mean to the model."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from blip2.errors import UserError
from demo.events import QUIET

GREEDY, BEAM, NUCLEUS = "Greedy", "Beam search", "Nucleus sampling"
STRATEGIES = {
    GREEDY: "The likeliest next word, again and again. Streams; always the same text.",
    BEAM: "Follows several sentences and keeps the likeliest. Careful; appears at once.",
    NUCLEUS: "Draws from the likely words. Streams; a new text each time.",
}


@dataclass(frozen=True)
class Option:
    """One number that decoding depends on.

    Parameters
    ----------
    label, info : str
        What the visitor reads.
    low, high, default, step : float
        Its range; a whole ``step`` makes it a whole number.
    only : tuple of str
        The strategies that it belongs to; none if to all.
    """

    label: str
    info: str
    low: float
    high: float
    default: float
    step: float
    only: tuple[str, ...] = ()

    def applies(self, strategy: str) -> bool:
        """Tell whether a strategy knows this option."""
        return not self.only or strategy in self.only

    def read(self, value: Any) -> int | float:
        """Return a received value as a number within the range, or raise `UserError`."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            raise UserError(
                f"{self.label} must be a number from {self.low:g} to {self.high:g}; change it "
                "under Decoding options."
            )
        return int(value) if self.step == int(self.step) else float(value)


CANDIDATES = "candidates"  # the one option that is not of `blip2.decoding.Decoding`
OPTIONS = {
    CANDIDATES: Option("Candidates", "Texts to choose from", 1, 5, 1, 1, (BEAM, NUCLEUS)),
    "num_beams": Option("Beams", "Sentences followed side by side", 2, 10, 5, 1, (BEAM,)),
    "temperature": Option("Temperature", "Higher is bolder", 0.1, 2.0, 1.0, 0.05, (NUCLEUS,)),
    "top_p": Option("Top-p", "Share of likely words to draw", 0.05, 1.0, 0.9, 0.05, (NUCLEUS,)),
    "min_new_tokens": Option("Minimum length", "In tokens, about ¾ of a word", 1, 60, 1, 1),
    "max_new_tokens": Option("Maximum length", "In tokens", 4, 120, 30, 1),
    "length_penalty": Option(
        "Length penalty", "Above 0 favours long", -2.0, 3.0, 1.0, 0.1, (BEAM,)
    ),
    "repetition_penalty": Option(
        "Repetition penalty", "Above 1 avoids saying things twice", 1.0, 2.0, 1.0, 0.05
    ),
}


def decoding_controls() -> list[gr.components.Component]:
    """Lay out the controls; what does not apply to the chosen strategy is disabled.

    Returns
    -------
    list of gr.components.Component
        In the order in which `read_decoding` takes their values.
    """
    strategy = gr.Radio(
        list(STRATEGIES),
        value=GREEDY,
        label="Strategy",
        info=STRATEGIES[GREEDY],
        elem_id="decoding-strategy",
    )
    with gr.Row(elem_classes="options"):
        sliders = {
            name: gr.Slider(
                option.low,
                option.high,
                value=option.default,
                step=option.step,
                label=option.label,
                info=option.info,
                interactive=option.applies(GREEDY),
                buttons=[],
                min_width=220,
                elem_id=f"decoding-{name.replace('_', '-')}",
            )
            for name, option in OPTIONS.items()
        }
    depending = [name for name, option in OPTIONS.items() if option.only]

    def follow(chosen: str) -> list[Any]:
        sliders = [gr.Slider(interactive=OPTIONS[name].applies(chosen)) for name in depending]
        return [gr.Radio(info=STRATEGIES[chosen]), *sliders]

    strategy.input(
        follow,
        strategy,
        [strategy, *(sliders[name] for name in depending)],
        **QUIET,
    )
    return [strategy, *sliders.values()]


def read_decoding(strategy: Any, *values: Any) -> tuple[int, dict[str, Any]]:
    """Turn the values of the controls into keywords for the model.

    Parameters
    ----------
    strategy : Any
        One of `STRATEGIES`.
    *values : Any
        One for each of `OPTIONS`, in order.

    Returns
    -------
    int, dict
        How many candidates are wanted, and keywords of `Blip2.stream`; options of the other
        strategies are left out.

    Raises
    ------
    UserError
        If a value is out of its range, or two do not go together; those of other strategies are
        not looked at.
    """
    if strategy not in STRATEGIES:
        names = ", ".join(STRATEGIES)
        raise UserError(f"The decoding strategy is unknown; choose one of {names}.")
    found: dict[str, Any] = {"do_sample": True} if strategy == NUCLEUS else {}
    for (name, option), value in zip(OPTIONS.items(), values, strict=True):
        if option.applies(strategy):
            found[name] = option.read(value)
    candidates = found.pop(CANDIDATES, 1)
    if strategy == BEAM and candidates > found["num_beams"]:
        raise UserError(
            f"{candidates} candidates need at least as many beams; there are "
            f"{found['num_beams']}, so raise Beams or lower Candidates."
        )
    if found["min_new_tokens"] > found["max_new_tokens"]:
        raise UserError("Minimum length is above Maximum length; lower it, or raise the other.")
    return candidates, found
