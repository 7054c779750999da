"""CapFilt keeps the written captions that are most like their photo, beside the photo's own."""

import json
import tarfile
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.train.test_evaluate import COLOURS, jpeg, nearest, write_tar
from train import capfilt
from train.capfilt import best_captions
from train.shards import iter_samples

NAMES = list(COLOURS)


class Captioner:
    """Writes one right caption, its twin in capitals, and wrong ones."""

    calls: ClassVar[list] = []

    @classmethod
    def from_pretrained(cls, name, device=None):
        return cls()

    def generate(self, photos, prompt, **options):
        self.calls.append((len(photos), prompt, options))
        names = [nearest(np.asarray(photo).mean((0, 1))) for photo in photos]
        texts = ["a {} thing", "A {} THING", "something grey", "own {}"]
        return [texts[n % 4].format(name) for n, name in enumerate(names)]


class Retriever:
    """A photo is its colour; a text is the colour that it names."""

    @classmethod
    def from_pretrained(cls, name, device=None):
        return cls()

    def embed_images(self, photos):
        names = [nearest(np.asarray(photo).mean((0, 1))) for photo in photos]
        return torch.stack([self.axis(name) for name in names])[:, None]

    def embed_texts(self, texts):
        found = [next((n for n in NAMES if n in text.lower()), None) for text in texts]
        return torch.stack([self.axis(name) for name in found])

    def axis(self, name):
        return torch.eye(5)[NAMES.index(name) if name else 4]


@pytest.fixture
def models(monkeypatch):
    import blip2

    monkeypatch.setattr(blip2, "Blip2", Captioner)
    monkeypatch.setattr(blip2, "Blip2Retriever", Retriever)
    Captioner.calls = []


def shard(path):
    samples = [
        (name, jpeg(rgb), {"image_id": name, "captions": [f"Own {name}"]})
        for name, rgb in COLOURS.items()
    ]
    return write_tar(path, [*samples, ("cut", jpeg((1, 2, 3))[:200], {"captions": ["x"]})])


def test_the_best_are_kept_each_once_and_none_of_its_own():
    written = ["a cat", "A cat", "", "own", "a dog", "a cow"]
    scores = [0.5, 0.9, 1.0, 0.8, 0.1, 0.7]
    assert best_captions(written, ["Own"], scores, 2) == ["A cat", "a cow"]
    assert best_captions(written, [], scores, 10) == ["A cat", "own", "a cow", "a dog"]


def test_shards_with_the_kept_captions(tmp_path, models, capsys):
    shard(tmp_path / "web-0.tar")
    argv = [str(tmp_path / "web-*.tar"), "--out", str(tmp_path / "out"), "--candidates", "4"]
    argv += ["--keep", "1", "--batch-size", "3", "--prompt", "a photo of"]
    assert capfilt.main(argv) == 0
    found = {s.image_id: s for s in iter_samples(tmp_path / "out" / "web-0.tar")}
    assert list(found) == NAMES  # none lost between two batches
    for name in NAMES:
        assert found[name].captions == [f"Own {name}", f"a {name} thing"]
        assert found[name].image == jpeg(COLOURS[name])
    assert [count for count, *_ in Captioner.calls] == [12, 4]
    options = Captioner.calls[0][2]
    assert options["do_sample"] and options["top_p"] == 0.9
    assert Captioner.calls[0][2]["seed"] != Captioner.calls[1][2]["seed"]
    with tarfile.open(tmp_path / "out" / "web-0.tar") as tar:
        name = next(n for n in tar.getnames() if n.endswith(".json"))
        assert json.load(tar.extractfile(name))["written"] == ["a red thing"]
    assert "4 samples from 1 sources, 1 left out as broken" in capsys.readouterr().out


def test_finished_shards_are_left_alone_and_a_broken_one_leaves_nothing(tmp_path, models, capsys):
    shard(tmp_path / "web-0.tar")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "web-0.tar").write_bytes(b"done")
    argv = [str(tmp_path / "web-*.tar"), "--out", str(tmp_path / "out")]
    assert capfilt.main(argv) == 0
    assert (tmp_path / "out" / "web-0.tar").read_bytes() == b"done" and not Captioner.calls
    write_tar(tmp_path / "web-1.tar", [("cut", jpeg((1, 2, 3))[:200], {"captions": ["x"]})])
    assert capfilt.main(argv) == 2
    assert "No photo of" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["web-0.tar"]
    (tmp_path / "again").mkdir()
    shard(tmp_path / "again" / "web-0.tar")
    two = f"{tmp_path}/web-0.tar,{tmp_path}/again/web-0.tar"
    assert capfilt.main([two, "--out", str(tmp_path / "other")]) == 2
    assert "Two shards are named web-0.tar" in capsys.readouterr().err
    taken = tmp_path / "web-0.tar" / "out"
    assert capfilt.main([str(tmp_path / "web-0.tar"), "--out", str(taken)]) == 2
    assert "Cannot write to" in capsys.readouterr().err
    assert capfilt.main([*argv, "--keep", "11"]) == 2
    assert "--keep 11 is more than --candidates 10" in capsys.readouterr().err
