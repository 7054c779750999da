"""The models behind the page: loaded once, with one queue before them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from blip2.display import one_line
from blip2.errors import UserError
from demo.failures import lacks_memory

if TYPE_CHECKING:
    from blip2 import Blip2, Blip2Retriever


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
        return f"{one_line(' and '.join(names))} on {place_of(self.blip2)}"


def place_of(model: "Blip2") -> str:
    """Return where a model runs, as people call it."""
    device = str(model.device)
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)} ({device})"
    return {"cpu": "the processor (no GPU)", "mps": "the Apple GPU"}.get(device, device)


def load_models(
    model: str,
    retriever: str,
    device: str | None = None,
    quantize: str | None = None,
    say: Callable[[str], None] = print,
) -> Models:
    """Load both models and say how it goes.

    On ZeroGPU, where a GPU is lent for seconds, their methods borrow one (see `demo.zerogpu`).

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
        If one cannot be had, or does not fit into memory.
    """
    from demo.zerogpu import find_gpu, lent  # before torch, which it changes

    gpu = find_gpu()
    from blip2 import Blip2, Blip2Retriever  # late: this imports torch and transformers

    def load(kind: type, name: str, **options: str | None) -> "Blip2 | Blip2Retriever":
        say(f"Loading {name} ...")
        start = perf_counter()
        try:
            loaded = kind.from_pretrained(name, device=device, **options)
        except Exception as error:
            if not lacks_memory(error):
                raise
            raise UserError(
                f"There is not enough memory for {name}; load a smaller model, or start with "
                "--quantize 8bit or 4bit, or --device cpu."
            ) from error
        say(f"Loaded {loaded.name} on {place_of(loaded)} in {perf_counter() - start:.1f} s.")
        return loaded

    models = load(Blip2, model, quantize=quantize), load(Blip2Retriever, retriever)
    return Models(*(lent(loaded, gpu) for loaded in models) if gpu else models)
