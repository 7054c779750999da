"""The models behind the page: loaded once, with one queue before them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip2 import Blip2, Blip2Retriever

# Every event that runs a model takes these. Gradio gives each event a queue of its own otherwise,
# and caption, chat and search would run side by side and take the memory of three.
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}


@dataclass(frozen=True)
class Models:
    """What answers the visitors.

    Parameters
    ----------
    blip2 : Blip2
        Captions and chats.
    retriever : Blip2Retriever
        Embeds and matches, for the search.
    """

    blip2: "Blip2"
    retriever: "Blip2Retriever"

    def describe(self) -> str:
        """Return which models run where, in a few words; of a folder only its name."""
        names = [
            Path(model.name).name if Path(model.name).is_dir() else model.name
            for model in (self.blip2, self.retriever)
        ]
        return f"{' and '.join(names)} on {self.blip2.device}"


def load_models(
    model: str,
    retriever: str,
    device: str | None = None,
    quantize: str | None = None,
    say: Callable[[str], None] = print,
) -> Models:
    """Load both models and say how it goes.

    Parameters
    ----------
    model, retriever : str
        Names or folders, as `Blip2.from_pretrained` and `Blip2Retriever.from_pretrained` take them.
    device : str, optional
        Such as "cpu" or "cuda:0"; the best there is unless given.
    quantize : str, optional
        "8bit" or "4bit", for the language model.
    say : callable
        Gets each line of progress.

    Returns
    -------
    Models

    Raises
    ------
    UserError
        If one cannot be had.
    """
    from blip2 import Blip2, Blip2Retriever  # late: this imports torch and transformers

    say(f"Loading {model} ...")
    start = perf_counter()
    blip2 = Blip2.from_pretrained(model, device=device, quantize=quantize)
    say(f"Loaded {blip2.name} on {blip2.device} in {perf_counter() - start:.1f} s.")
    say(f"Loading {retriever} ...")
    start = perf_counter()
    finder = Blip2Retriever.from_pretrained(retriever, device=device)
    say(f"Loaded {finder.name} in {perf_counter() - start:.1f} s.")
    return Models(blip2, finder)
