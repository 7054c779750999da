"""The index with a real retriever, tiny and with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace

from blip2 import Blip2Retriever
from blip2.config import Blip2Config, QFormerConfig
from blip2.representation import Representation
from blip2.tokenization import TextTokenizer
from blip2.vision import ImageEncoder
from index import PhotoIndex

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "runs", "red", "[DEC]"]


class Patches(ImageEncoder):
    def __init__(self) -> None:
        super().__init__(12, 4, 16, (127.0,) * 3, (64.0,) * 3)
        self.cut = torch.nn.Conv2d(3, 12, 8, stride=8)

    def features(self, pixels):
        return self.cut(pixels).flatten(2).transpose(1, 2)


@pytest.fixture
def tiny(tmp_path) -> Blip2Retriever:
    torch.manual_seed(0)
    pieces = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = Whitespace()
    pieces.save(str(tmp_path / "tokenizer.json"))
    config = Blip2Config(
        embed_dim=8,
        qformer=QFormerConfig(
            num_queries=5,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            intermediate_size=32,
            encoder_width=12,
            vocab_size=len(WORDS),
            initializer_range=0.5,
        ),
    )
    return Blip2Retriever(
        "tiny",
        "0123",
        Patches().freeze(),
        Representation(config).eval(),
        TextTokenizer(tmp_path, 8),
        torch.device("cpu"),
    )


def sorted_by(values, key):
    return values[key.argsort(descending=True)].tolist()


def test_search_ranks_as_the_model_does(tiny, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{i:02}.png" for i in range(40)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    index = PhotoIndex.create(tmp_path / "index", tiny)
    assert index.add([tmp_path / "photos"]).added == 40

    text = "a dog runs"
    similarity = (tiny.embed_images(paths) @ tiny.embed_texts([text])[0]).amax(1)  # [B]
    order = similarity.argsort(descending=True)
    hits = index.search(text, k=40)
    assert [hit.path for hit in hits] == [paths[i] for i in order]
    assert [hit.score for hit in hits] == pytest.approx(similarity[order].tolist(), abs=1e-3)

    first = [paths[i] for i in order[:6]]
    match = tiny.match(first, [text] * 6)
    hits = index.search(text, k=8, rerank=6)
    joint = (match / (1 - match)).log() + similarity[order[:6]] / tiny.temperature
    assert [hit.path for hit in hits[:6]] == [first[i] for i in joint.argsort(descending=True)]
    assert [hit.match for hit in hits[:6]] == pytest.approx(sorted_by(match, joint), abs=1e-5)
    assert [hit.path for hit in hits[6:]] == [paths[i] for i in order[6:8]]
    (tmp_path / "photos" / hits[0].path.name).unlink()
    again = index.search(text, k=8, rerank=6)
    assert [hit.path for hit in again[:5]] == [hit.path for hit in hits[1:6]]
    assert again[5].path == hits[0].path and again[5].missing and again[5].match is None
