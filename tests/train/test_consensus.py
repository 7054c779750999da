"""Photos are lent what the nearest captions of other photos agree on."""

import json
import tarfile

import numpy as np
import pytest
import torch

from tests.train.test_evaluate import COLOURS, jpeg, nearest, write_tar
from train import consensus
from train.consensus import NGrams
from train.rewards import CiderReward
from train.shards import iter_samples

NAMES = list(COLOURS)
SAID = {
    "one": ("red", ["A dog runs on the red grass .", "a red ball nobody else has seen"]),
    "two": ("red", ["A dog runs on the red sand ."]),
    "three": ("red", ["The dog runs on the red grass .", "a dog runs on the red grass"]),
    "four": ("green", ["green leaves on a tree"]),
    "five": ("green", ["a tree with green leaves"]),
    "six": ("green", []),
}


class Retriever:
    """A photo is its colour; a text is the colour that it names."""

    @classmethod
    def from_pretrained(cls, name, device=None):
        return cls()

    def preprocess(self, photo):
        return self.axis(nearest(np.asarray(photo).mean((0, 1))))

    def embed_pixels(self, pixels):
        return pixels[:, None]  # [B, 1, d]

    def embed_texts(self, texts):
        return torch.stack([self.axis(next(n for n in NAMES if n in t)) for t in texts])

    def axis(self, name):
        return torch.eye(5)[NAMES.index(name)]


@pytest.fixture
def source(tmp_path, monkeypatch):
    import blip2

    monkeypatch.setattr(blip2, "Blip2Retriever", Retriever)
    samples = [
        (name, jpeg(COLOURS[colour]), {"image_id": name, "captions": captions, "seen": colour,
                                       "qa": [{"question": "why?", "answers": ["so"]}]})
        for name, (colour, captions) in SAID.items()
    ]  # fmt: skip
    cut = ("cut", jpeg((1, 2, 3))[:200], {"captions": ["a red dog on a mat"]})
    return str(write_tar(tmp_path / "web.tar", [*samples, cut]))


def test_what_the_others_say_in_the_order_of_agreement(source, tmp_path, capsys):
    out = tmp_path / "made" / "lent"
    assert consensus.main([source, "--out", str(out), "--keep", "2", "--nearest", "4"]) == 0
    found = {s.image_id: s for s in iter_samples(f"{out}-000000.tar")}
    assert list(found) == [*SAID, "cut"]
    assert found["two"].captions == ["A dog runs on the red grass", "The dog runs on the red grass"]
    assert found["three"].captions[0] == "A dog runs on the red grass"  # and never its own
    assert "The dog runs on the red grass" not in found["three"].captions
    assert found["six"].captions == []
    assert found["cut"].captions == ["a red dog on a mat"]
    assert found["six"].qa == [{"question": "why?", "answers": ["so"]}]
    for name, (colour, _) in SAID.items():
        assert found[name].image == jpeg(COLOURS[colour])
    with tarfile.open(f"{out}-000000.tar") as tar:
        fields = json.load(tar.extractfile("two.json"))
    assert fields["own_captions"] == SAID["two"][1] and fields["seen"] == "red"
    said = capsys.readouterr()
    assert "5 of 7 photos were lent captions, in 1 shards" in said.out
    assert "left as it is: cut:" in said.err
    assert consensus.main([source, "--out", str(out)]) == 2
    assert "are there already" in capsys.readouterr().err
    assert consensus.main([f"{out}-000000.tar", "--out", f"{out}-again"]) == 2
    assert "The captions of one are lent already" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["lent-000000.tar"]


def test_lent_captions_beside_its_own(source, tmp_path):
    lent, beside = tmp_path / "lent", tmp_path / "beside"
    options = ["--keep", "2", "--nearest", "4"]
    assert consensus.main([source, "--out", str(lent), *options]) == 0
    assert consensus.main([source, "--out", str(beside), *options, "--own"]) == 0
    pairs = zip(
        iter_samples(f"{lent}-000000.tar"), iter_samples(f"{beside}-000000.tar"), strict=True
    )
    grown = 0
    for alone, both in pairs:
        own = SAID[alone.image_id][1] if alone.image_id in SAID else both.captions
        assert both.captions[: len(own)] == own
        assert set(both.captions) == {*own, *alone.captions}
        assert len(set(both.captions)) == len(both.captions)
        grown += len(both.captions) > len(own)
    assert grown == 5


def test_only_the_nearest_have_a_say(source, tmp_path):
    """With two to be asked a red photo never learns what is green, however often it is said."""
    out = tmp_path / "lent"
    assert consensus.main([source, "--out", str(out), "--keep", "9", "--nearest", "2"]) == 0
    for sample in iter_samples(f"{out}-000000.tar"):
        if sample.image_id in ("one", "two", "three"):
            assert sample.captions and all("red" in text for text in sample.captions)


def test_a_photo_in_two_shards_lends_itself_nothing(source, tmp_path):
    twin = ("twin", jpeg(COLOURS["red"]), {"image_id": "two", "captions": ["red stands alone"]})
    both = f"{source},{write_tar(tmp_path / 'more.tar', [twin])}"
    assert consensus.main([both, "--out", str(tmp_path / "lent"), "--keep", "9"]) == 0
    found = [s for s in iter_samples(f"{tmp_path}/lent-000000.tar") if s.image_id == "two"]
    assert len(found) == 2
    for sample in found:
        assert sample.captions
        assert not {"red stands alone", "A dog runs on the red sand"} & set(sample.captions)


def test_captions_are_lent_among_two(tmp_path, source, capsys):
    alone = write_tar(tmp_path / "alone.tar", [("a", jpeg(COLOURS["red"]), {"captions": ["red"]})])
    assert consensus.main([str(alone), "--out", str(tmp_path / "lent")]) == 2
    assert "1 photos have captions; captions are lent among two or more" in capsys.readouterr().err


def test_agreement_is_that_of_cider():
    """Against the definition, where no n-gram comes twice in a caption (CIDEr-D would clip it)."""
    photos = [
        ["A man rides the brown horse", "man on horse", "the rider jumps over that fence"],
        ["Two dogs play in deep snow", "dogs in snow"],
        ["A girl on her bike rides past some shops", "A brown horse"],
    ]
    captions = [text for each in photos for text in each]
    reward = CiderReward(photos, end="")
    grams = NGrams(reward, captions)
    some = np.array([6, 0, 1, 4, 5])
    expected = [
        sum(reward([captions[one]], [captions[two]])[0] for two in some if two != one) / 10
        for one in some
    ]
    assert max(expected) > 0.1
    np.testing.assert_allclose(grams.agreement(some), expected, rtol=1e-5, atol=1e-7)
    order = np.argsort(-np.array(expected))
    assert grams.most_agreed(some, 3) == [captions[some[place]] for place in order[:3]]
