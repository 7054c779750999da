"""A model that says what it was asked: stands in for `blip2.Blip2`, the neighbour of `demo`."""

from collections.abc import Iterator

import torch
from PIL import Image


class FakeBlip2:
    name = "parrot"
    device = "cpu"
    question_form = "{}"

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []  # (prompt, decoding) of each `stream`
        self.chats: list[FakeChat] = []
        self.closed = 0  # streams that came to an end, in whatever way

    def stream(self, photo: Image.Image, prompt: str = "", **decoding) -> Iterator[str]:
        self.calls.append((prompt, decoding))
        try:
            for word in f" a {colour(photo)} picture: {prompt or 'no instruction'}".split(" ")[1:]:
                yield f" {word}"
        finally:
            self.closed += 1

    def candidates(
        self, photo: Image.Image, prompt: str = "", number: int = 3, *, stopped=None, **decoding
    ) -> list[tuple[str, float]]:
        self.calls.append((prompt, decoding))
        return [(f"a {colour(photo)} picture, take {n + 1}", -0.5 * (n + 1)) for n in range(number)]

    def attention(self, photo: Image.Image, prompt: str = "") -> torch.Tensor:
        """Every query looks at the first of 2 x 2 cells alone."""
        maps = torch.zeros(4, 2, 2)
        maps[:, 0, 0] = 1.0
        return maps

    def chat(self, photo: Image.Image) -> "FakeChat":
        self.chats.append(FakeChat(photo))
        return self.chats[-1]


class FakeChat:
    """Answers with what was asked before: nothing else shows a conversation that leaks."""

    def __init__(self, photo: Image.Image) -> None:
        self.photo = photo
        self.turns: list[tuple[str, str]] = []
        self.forgotten = 0
        self.decodings: list[dict] = []

    def stream(self, question: str, **decoding) -> Iterator[str]:
        self.decodings.append(decoding)
        self.forgotten = max(0, len(self.turns) - 2)  # it reads two turns at most
        asked = ", ".join(question for question, _ in self.turns) or "nothing"
        answer = f"{colour(self.photo)}; before you asked {asked}"
        yield from (f" {word}" for word in answer.split(" "))
        self.turns.append((question, answer))


def colour(photo: Image.Image) -> str:
    """Name the strongest channel of a photo."""
    assert photo.mode == "RGB"
    means = [sum(band.tobytes()) for band in photo.split()]
    return ("red", "green", "blue")[means.index(max(means))]
