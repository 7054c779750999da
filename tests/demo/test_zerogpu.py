"""ZeroGPU without one: a `spaces.GPU` that copies what goes in and out, as its processes do."""

import inspect
import pickle
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from demo.captioning import caption_samples
from demo.kept import KeptTexts
from demo.zerogpu import CALLS, SECONDS, find_gpu, lent
from tests.demo.fake_blip2 import FakeBlip2
from tests.index.fake_retriever import FakeRetriever

RED = Image.new("RGB", (8, 8), "red")


def copied(thing):
    return pickle.loads(pickle.dumps(thing))


class Gpu:
    """Counts how often it was borrowed, and lets nothing through that cannot be copied."""

    def __init__(self) -> None:
        self.borrowed = 0

    def __call__(self, function):
        if inspect.isgeneratorfunction(function):

            def pieces(*given):
                self.borrowed += 1
                for piece in function(*copied(given)):
                    yield copied(piece)

            return pieces

        def call(*given):
            self.borrowed += 1
            return copied(function(*copied(given)))

        return call


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


def test_it_is_used_where_it_is_and_nowhere_else(monkeypatch, gpu):
    asked = []
    spaces = SimpleNamespace(GPU=lambda duration: asked.append(duration) or gpu)
    spaces.__spec__ = SimpleNamespace(name="spaces")
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert find_gpu() is None
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert find_gpu() is gpu and asked == [SECONDS]
    monkeypatch.delitem(sys.modules, "spaces")
    assert find_gpu() is None


def test_words_are_streamed_from_it(gpu):
    model = FakeBlip2()
    pieces = list(lent(model, gpu).stream(RED, "Look.", max_new_tokens=9))
    assert pieces == list(FakeBlip2().stream(RED, "Look."))
    assert len(pieces) > 2 and gpu.borrowed == 1
    assert model.calls == [("Look.", {"max_new_tokens": 9})]


def test_a_conversation_keeps_its_turns_beside_it(gpu):
    chat = lent(FakeBlip2(), gpu).chat(RED)
    answers = ["".join(chat.stream(question)) for question in ("One?", "Two?", "Three?", "Four?")]
    assert answers[1] == " red; before you asked One?"
    assert [question for question, _ in chat.turns] == ["One?", "Two?", "Three?", "Four?"]
    assert chat.forgotten == 1 and gpu.borrowed == 4
    chat.turns = chat.turns[:1]
    assert "".join(chat.stream("Other?")) == " red; before you asked One?"
    copied(chat.turns)


def test_embedding_and_matching_borrow_it_and_the_rest_does_not(gpu):
    model = FakeRetriever()
    retriever = lent(model, gpu)
    assert torch.equal(retriever.embed_texts(["red"]), model.embed_texts(["red"]))
    assert torch.equal(retriever.embed_images([RED]), model.embed_images([RED]))
    assert gpu.borrowed == 2
    assert (retriever.fingerprint, retriever.num_queries) == (model.fingerprint, 4)
    assert gpu.borrowed == 2


def test_candidates_and_samples_borrow_it_too(gpu, tmp_path):
    model = lent(FakeBlip2(), gpu)
    assert len(model.candidates(RED, "", 2, stopped=threading.Event(), num_beams=3)) == 2
    RED.save(tmp_path / "red.png")
    model._model.stream = lambda photo, prompt, **decoding: iter([" red"])
    caption_samples(model, KeptTexts(), [tmp_path / "red.png"])
    assert gpu.borrowed == 2


def test_what_it_lends_is_what_the_models_have():
    from blip2 import Blip2, Blip2Retriever

    assert all(hasattr(Blip2, name) or hasattr(Blip2Retriever, name) for name in CALLS)
