"""ZeroGPU, where Spaces lend a GPU for the length of a call: models whose methods borrow it.

A decorated function runs in a process of its own, so what goes in and comes out is copied: photos,
words, numbers and tensors. Everything else of the page stays where it is.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

KEPT = 512  # pixels of a photo that a conversation keeps; it is copied with every question
SECONDS = 60  # that a call may keep the GPU
# What a page asks of the models; each runs on the GPU as a whole.
CALLS = (
    "attention",
    "embed_images",
    "embed_texts",
    "embed_pixels",
    "match",
)


def find_gpu() -> Callable[[Callable], Callable] | None:
    """Return what makes a function borrow a GPU, or None outside of ZeroGPU.

    Importing `spaces` has torch believe in a GPU from then on, so it comes before torch.
    """
    if not os.environ.get("SPACES_ZERO_GPU") or importlib.util.find_spec("spaces") is None:
        return None
    import spaces

    return spaces.GPU(duration=SECONDS)


def lent(model: Any, gpu: Callable[[Callable], Callable]) -> "LentModel":
    """Return a model whose calls borrow a GPU.

    Parameters
    ----------
    model : Blip2 or Blip2Retriever
        Loaded.
    gpu : callable
        Decorates a function or a generator.

    Returns
    -------
    LentModel
    """
    return LentModel(model, gpu)


class LentModel:
    """A model whose calls borrow a GPU; whatever else is asked of it, the model itself answers."""

    def __init__(self, model: Any, gpu: Callable[[Callable], Callable]) -> None:
        self._model = model

        # The model is not an argument: it would be copied with every call.
        def call(name: str, positional: tuple, named: dict) -> Any:
            return getattr(model, name)(*positional, **named)

        def write(photo: Any, prompt: str, decoding: dict) -> Iterator[str]:
            yield from model.stream(photo, prompt, **decoding)

        def answer(
            photo: Any, turns: list[tuple[str, str]], question: str, decoding: dict
        ) -> Iterator[str | int]:
            chat = model.chat(photo)
            chat.turns = turns
            yield from chat.stream(question, **decoding)
            yield chat.forgotten

        self._call, self._write, self._answer = gpu(call), gpu(write), gpu(answer)

    def __getattr__(self, name: str) -> Any:
        if name in CALLS and hasattr(self._model, name):
            return lambda *positional, **named: self._call(name, positional, named)
        return getattr(self._model, name)

    def candidates(self, *positional: Any, stopped: Any = None, **named: Any) -> Any:
        """As `blip2.Blip2.candidates`; what runs elsewhere cannot be told to stop."""
        return self._call("candidates", positional, named)

    def stream(self, photo: Any, prompt: str = "", **decoding: Any) -> Iterator[str]:
        """As `blip2.Blip2.stream`."""
        yield from self._write(photo, prompt, decoding)

    def chat(self, photo: Any) -> "LentChat":
        """As `blip2.Blip2.chat`."""
        return LentChat(photo, self._answer)


class LentChat:
    """A conversation as `blip2.chat.Chat`, of which only words are kept between questions.

    Parameters
    ----------
    photo : PIL.Image.Image
        What it is about.
    answer : callable
        Borrows a GPU, see `LentModel`.
    """

    def __init__(self, photo: Any, answer: Callable[..., Iterator[str | int]]) -> None:
        self._photo, self._answer = photo.copy(), answer
        self._photo.thumbnail((KEPT, KEPT))
        self.turns: list[tuple[str, str]] = []
        self.forgotten = 0

    def stream(self, question: str, **decoding: Any) -> Iterator[str]:
        """As `blip2.chat.Chat.stream`."""
        words = ""
        for piece in self._answer(self._photo, list(self.turns), question, decoding):
            if isinstance(piece, int):
                self.forgotten = piece
            else:
                words += piece
                yield piece
        self.turns.append((question, words))
