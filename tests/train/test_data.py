"""Batches and cached features: decided by seed and step, resumed where they stopped."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from blip2.errors import UserError
from blip2.vision import IMAGE_ENCODERS, ImageEncoder, build_image_encoder
from train.data import CaptionedPhotos
from train.rows import Row, clean_caption, with_typical


class Corners(ImageEncoder):
    """The mean of each quarter of the photo; counts the photos that it sees."""

    seen = 0

    def __init__(self):
        super().__init__(3, 4, 8, mean=(0.0,) * 3, std=(255.0,) * 3)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def features(self, pixels):
        Corners.seen += len(pixels)
        maps = torch.nn.functional.adaptive_avg_pool2d(pixels, 2)
        return maps.flatten(2).transpose(1, 2) * self.scale


@pytest.fixture(autouse=True)
def corners():
    IMAGE_ENCODERS["corners"] = Corners
    Corners.seen = 0
    yield
    del IMAGE_ENCODERS["corners"]


@pytest.fixture
def shard(tmp_path):
    """Ten photos, white in the left half and grey by number in the right one."""
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for number in range(10):
            photo = Image.new("RGB", (16, 16), "white")
            photo.paste((number * 20,) * 3, (8, 0, 16, 16))
            file = io.BytesIO()
            photo.save(file, "PNG")
            text = {"image_id": f"p{number}", "captions": [f"{number} {n} ." for n in "abc"]}
            for suffix, data in (("png", file.getvalue()), ("json", json.dumps(text).encode())):
                member = tarfile.TarInfo(f"p{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return tmp_path / "photos.tar"


def photos(shard, **settings):
    return CaptionedPhotos(str(shard), "corners", shard.parent / "cache", **settings)


def test_a_batch_is_decided_by_seed_and_step(shard):
    one, again, other = photos(shard), photos(shard), photos(shard, seed=1)
    for step in (7, 0, 5):
        assert one.batch_at(step, 3).captions == again.batch_at(step, 3).captions
        assert torch.equal(one.batch_at(step, 3).features, again.batch_at(step, 3).features)
    assert [one.batch_at(s, 3).captions for s in range(3)] != [
        other.batch_at(s, 3).captions for s in range(3)
    ]


def test_a_pass_takes_each_photo_once_and_its_captions_take_turns(shard):
    data = photos(shard)
    drawn = {number: [] for number in range(10)}
    for epoch in range(3):
        of_pass = [c for step in range(2) for c in data.batch_at(epoch * 2 + step, 5).captions]
        assert sorted(int(caption[0]) for caption in of_pass) == list(range(10))
        for caption in of_pass:
            drawn[int(caption[0])].append(caption[2])
    assert all(sorted(letters) == ["a", "b", "c"] for letters in drawn.values())


def test_weights_say_how_often_a_pass_sees_a_photo(shard, tmp_path):
    """2.5 of one source: each photo twice, half of them a third time, with other captions."""
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(shard) as tar:
        tar.extractall(other, filter="data")
    for path in other.glob("*.json"):
        fields = json.loads(path.read_text())
        fields["image_id"] = "q" + fields["image_id"]
        fields["captions"] = [f"q {caption}" for caption in fields["captions"]]
        path.write_text(json.dumps(fields))
    data = CaptionedPhotos(f"0.5x {shard}, 2.5x {other}", "corners", tmp_path / "cache")
    assert len(data) == 20 and data.steps_per_epoch(6) == 5
    seen = []
    for epoch in range(2):
        captions = [c for step in range(5) for c in data.batch_at(epoch * 5 + step, 6).captions]
        light = [c for c in captions if not c.startswith("q")]
        heavy = [c for c in captions if c.startswith("q")]
        assert len(set(light)) == 5 and len(heavy) == 25
        by_photo = [[c for c in heavy if c.split()[1] == str(n)] for n in range(10)]
        assert sorted(map(len, by_photo)) == [2] * 5 + [3] * 5
        assert all(len(set(texts)) == len(texts) for texts in by_photo)
        seen.append(captions)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("weight", [0.5, 1, 1.5, 2.5])
def test_with_every_weight_captions_take_turns(shard, weight):
    data = CaptionedPhotos(f"{weight}x {shard}", "corners", shard.parent / "cache")
    drawn = {number: [] for number in range(10)}
    for step in range(int(120 * weight)):
        for caption in data.batch_at(step, 5).captions:
            drawn[int(caption[0])].append(caption[2])
    for letters in drawn.values():
        share = [letters.count(letter) / len(letters) for letter in "abc"]
        assert min(share) > 0.1  # a third, if even


def test_features_belong_to_their_photo_and_equal_ids_to_equal_photos(shard):
    batch = photos(shard).batch_at(0, 10)
    for caption, features in zip(batch.captions, batch.features, strict=True):
        expected = [1, int(caption[0]) * 20 / 255] * 2  # left, right, left, right
        assert features[:, 0].tolist() == pytest.approx(expected, abs=0.02)
    assert len(set(batch.image_ids.tolist())) == 10


def test_features_are_computed_once_and_views_differ(shard):
    data = photos(shard, views=3)
    assert Corners.seen == 30
    photos(shard, views=2)
    assert Corners.seen == 30
    whole, crop = data.features._view(0)[4], data.features._view(1)[4]
    assert whole.shape == (4, 3) and not np.array_equal(whole, crop)
    photos(shard.rename(shard.with_name("moved.tar")), views=3)
    assert Corners.seen == 30  # they belong to the photos, not to the file's name


def test_without_a_cache_each_step_sees_another_view(shard, tmp_path):
    cached = photos(shard)
    encoder = build_image_encoder("corners")
    whole = CaptionedPhotos(str(shard), encoder, "")
    features = encoder(whole.batch_at(4, 5).features).half()
    # Cached in the processor's fast precision, which may be bf16.
    torch.testing.assert_close(features, cached.batch_at(4, 5).features, rtol=0, atol=0.01)
    live = CaptionedPhotos(str(shard), encoder, "", views=2)
    again = CaptionedPhotos(str(shard), encoder, "", views=2)
    assert torch.equal(live.batch_at(4, 5).features, again.batch_at(4, 5).features)
    views = {0: set(), 1: set()}
    for epoch in range(6):
        for step in range(2):
            batch = live.batch_at(epoch * 2 + step, 5)
            for caption, features in zip(batch.captions, batch.features, strict=True):
                if int(caption[0]) in views:
                    views[int(caption[0])].add(features.numpy().tobytes())
    assert all(len(seen) > 3 for seen in views.values())  # flips and crops, not two views
    assert len({live.digest, whole.digest}) == 1 and live.digest != cached.digest


def test_broken_photos_are_left_out_counted_and_named(shard, capsys):
    """The next takes the place of one that does not open, with pixels and with features alike."""
    data = bytearray(shard.read_bytes())
    for name in (b"p3.png", b"p7.png"):
        start = data.index(name)
        at = data.index(b"\x89PNG", start)
        data[at : at + 4] = b"\x89PMG"
    shard.write_bytes(bytes(data))
    live = CaptionedPhotos(str(shard), build_image_encoder("corners"), "", views=2)
    cached = photos(shard)
    for source in (live, cached):
        names = [int(c[0]) for step in range(2) for c in source.batch_at(step, 5).captions]
        assert not {3, 7} & set(names) and len(names) == 10 and {4, 8} <= set(names)
        assert sorted(name for name, _ in source.report.broken) == ["p3", "p7"]
        assert source.report.samples == 8
    assert "left out p3: " in capsys.readouterr().out
    for step in range(2):  # the same rows, whatever was known before
        again = CaptionedPhotos(str(shard), build_image_encoder("corners"), "", views=2)
        assert again.batch_at(step, 5).captions == live.batch_at(step, 5).captions


def test_photos_that_are_gone(shard):
    live = CaptionedPhotos(str(shard), build_image_encoder("corners"), "", views=2)
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"\x89PNG", b"\x89PMG"))
    with pytest.raises(UserError, match="No photo of the data can be opened"):
        live.batch_at(0, 5)
    shard.write_bytes(data)
    live = CaptionedPhotos(str(shard), build_image_encoder("corners"), "", views=2)
    shard.unlink()
    with pytest.raises(UserError, match=r"Cannot read .*photos.tar"):
        live.batch_at(0, 5)


def test_rows_of_captions_questions_and_both(tmp_path):
    qa = [{"question": "what?", "answers": ["dog", "dog", "cat"]}, {"question": "?", "answers": []},
          {"question": "where?", "answers": ["here"]}]  # fmt: skip
    said = ({"captions": ["a .", "b"], "qa": qa}, {"captions": ["c"]}, {"qa": qa[2:]})
    for number, text in enumerate(said):
        Image.new("RGB", (16, 16), (number * 90,) * 3).save(tmp_path / f"p{number}.png")
        (tmp_path / f"p{number}.json").write_text(json.dumps({"image_id": f"p{number}"} | text))
    found = {}
    for texts in ("captions", "qa", "both"):
        rows = CaptionedPhotos(str(tmp_path), build_image_encoder("corners"), "", texts=texts)
        assert rows.steps_per_epoch(1) == len(rows)
        batches = [rows.batch_at(step, 1) for step in range(3 * len(rows))]
        found[texts] = [
            (f"{round(float(b.features[0, 0, 0, 0]) * 255 / 90)}", b.questions[0], b.captions[0])
            for b in batches
        ]
    captions, asked = found["captions"], found["qa"]
    assert set(captions) == {("0", "", "a"), ("0", "", "b"), ("1", "", "c")}
    # Answers take turns, so that in the long run each is drawn as often as it was given.
    assert sorted(asked) == sorted(
        [("0", "what?", "dog")] * 2 + [("0", "what?", "cat")]
        + [("0", "where?", "here")] * 3 + [("2", "where?", "here")] * 3
    )  # fmt: skip
    assert set(found["both"]) == set(captions) | set(asked) and len(found["both"]) == 15
    with pytest.raises(UserError, match=r"No photo in .* has answered questions"):
        (tmp_path / "p0.json").unlink(), (tmp_path / "p2.json").unlink()
        CaptionedPhotos(str(tmp_path), build_image_encoder("corners"), "", texts="qa")


def test_features_resume_after_a_kill(shard):
    whole = np.array(photos(shard).features._view(0))
    path = next((shard.parent / "cache").glob("*.view0.npy"))
    half = whole.copy()
    half[6:] = 0
    path.unlink()
    np.save(path, half)
    path.rename(path.with_suffix(".partial"))
    path.with_suffix(".json").write_text(json.dumps({"done": 6}))
    Corners.seen = 0
    resumed = photos(shard)
    assert Corners.seen == 4
    assert np.array_equal(resumed.features._view(0), whole)
    assert not path.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A black dog in front of a white dog .", "A black dog in front of a white dog"),
        ("a large lake , with a duck in it .", "a large lake, with a duck in it"),
        ("  A man 's  bike", "A man's bike"),
    ],
)
def test_clean_captions(raw, clean):
    assert clean_caption(raw) == clean


def talk_shard(folder, captions=("one.", "two.", "three.")):
    """A photo with captions and four questions, a photo with one question of two answers."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "PNG")
    several = [{"question": f"q{n}?", "answers": [f"a{n}"]} for n in range(4)]
    one = [{"question": "why?", "answers": ["x", "y"]}]
    texts = {"p": {"captions": list(captions), "qa": several}, "r": {"qa": one}}
    with tarfile.open(folder / "talks.tar", "w") as tar:
        for name, text in texts.items():
            photo, words = file.getvalue(), json.dumps({"image_id": name, **text}).encode()
            for suffix, data in (("png", photo), ("json", words)):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "talks.tar"


def test_talks_take_all_questions_in_turn_and_some_begin_with_a_caption(tmp_path):
    data = photos(talk_shard(tmp_path), texts="qa", turns=3)
    assert len(data) == 2
    asked, lengths, described = set(), set(), 0
    for epoch in range(30):
        for talks in data.batch_at(epoch, 2).told:
            (talk,) = talks
            if talk[0][0] == "":
                described += 1
                assert talk[0][1] in ("one", "two", "three")
                talk = talk[1:]
            for question, answer in talk:
                assert answer in ("x", "y") if question == "why?" else answer == f"a{question[1]}"
            assert len(dict(talk)) == len(talk)
            if talk[0][0] != "why?":
                lengths.add(len(talk))
                asked |= {question for question, _ in talk}
    assert asked == {"q0?", "q1?", "q2?", "q3?"}
    assert lengths == {1, 2, 3}
    assert 3 < described < 17  # about three of ten of the first photo's
    again = photos(talk_shard(tmp_path), texts="qa", turns=3)
    assert again.batch_at(17, 2).told == data.batch_at(17, 2).told


def test_several_captions_are_told_at_once_and_all_of_them_are_references(tmp_path):
    data = photos(talk_shard(tmp_path), texts="both", at_once=2, turns=2)
    seen = []
    for epoch in range(3):
        batch = data.batch_at(epoch, 3)
        (row,) = [n for n, truth in enumerate(batch.references) if truth]
        assert batch.references[row] == ["one", "two", "three"]
        assert [talk[0][0] for talk in batch.told[row]] == ["", ""]
        assert batch.captions[row] == batch.told[row][0][0][1]
        seen += [talk[0][1] for talk in batch.told[row]]
    assert sorted(seen) == sorted(["one", "two", "three"] * 2)
    every = photos(talk_shard(tmp_path), at_once=9).batch(np.array([0]))
    assert sorted(talk[0][1] for talk in every.told[0]) == ["one", "three", "two"]


def test_each_question_opens_as_many_talks():
    asked = [(f"q{n}?", ["x"]) for n in range(4)]
    row = Row(0, "p/talk", [], asked=asked)
    opened = [row.told(turn, seed=0, turns=4)[0][0][0] for turn in range(40)]
    assert {question: opened.count(question) for question, _ in asked} == dict.fromkeys(
        ["q0?", "q1?", "q2?", "q3?"], 10
    )


def test_only_the_captions_that_agree_most_are_drawn():
    captions = ["a dog runs", "what a day", "a dog runs fast", "my friend", "a dog runs on grass"]
    others = [Row(1, "q", ["a cat sits on snow"]), Row(2, "r", ["the day", "my street"])]
    asked = [("why?", ["x"])]
    rows = [Row(0, "p", captions), Row(0, "p/talk", captions, asked=asked), *others]
    rows = with_typical([*rows, Row(1, "q/how?", ["yes"], "how?")], 3)
    agreeing = ["a dog runs", "a dog runs fast", "a dog runs on grass"]
    assert [row.typical for row in rows] == [agreeing, agreeing, [], [], []]
    assert rows[0].texts == captions  # all count as right
    drawn = [rows[0].told(turn, seed=0)[0][0][1] for turn in range(6)]
    assert sorted(drawn) == sorted(agreeing * 2)
    talks = [rows[1].told(turn, seed=0)[0] for turn in range(60)]
    assert {talk[0][1] for talk in talks if talk[0][0] == ""} == set(agreeing)
    both = rows[3].told(0, seed=0, at_once=5)
    assert sorted(talk[0][1] for talk in both) == ["my street", "the day"]


def test_a_photo_with_few_captions_keeps_them(shard):
    first = photos(shard, typical=3)
    assert [row.typical for row in first.rows] == [[]] * 10
