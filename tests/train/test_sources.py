"""Training data of every form give the same samples; what is broken is counted and named."""

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from blip2.errors import UserError
from blip2.processing import open_photo
from tests.helpers.photos import TURNED, assert_colours, oriented, quarters
from train import prepare
from train.shards import ShardReport, iter_samples
from train.sources import Source, find_sources

CAPTIONS = {"beach/one": ["a dog", "a wet dog"], "two": ["a cat"]}


def write_photo(path, shade=100, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 50, 50)).save(path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path):
    """Two photos with texts, one of them in a subfolder."""
    folder = tmp_path / "photos"
    write_photo(folder / "beach" / "one.jpg", 10)
    (folder / "beach" / "one.txt").write_text("a dog\n\n  a wet dog \n")
    write_photo(folder / "two.png", 200)
    (folder / "two.json").write_text(json.dumps({"captions": ["a cat"]}))
    return folder


def read(text, report=None):
    return {s.image_id: s for part in find_sources(text) for s in part.samples(report)}


def test_a_plain_folder(folder):
    found = read(str(folder))
    assert {name: sample.captions for name, sample in found.items()} == CAPTIONS
    assert found["two"].image == (folder / "two.png").read_bytes()


def test_what_a_folder_holds_besides_is_counted_and_named(folder):
    write_photo(folder / "mute.jpg")
    (folder / "three.txt").write_text("a photo that is not here")
    write_photo(folder / "odd.jpg")
    (folder / "odd.json").write_text('{"captions": "not a list"}')
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "empty.txt").write_text("nothing")
    report = ShardReport()
    assert set(read(str(folder), report)) == set(CAPTIONS)
    assert report.samples == 2 and dict(report.broken) == {
        "empty.jpg": "its photo is empty",
        "mute.jpg": "it has no .txt or .json beside it",
        "odd.jpg": 'its "captions" are not a list of non-empty texts',
    }
    with pytest.raises(UserError, match=r"empty\.jpg in .* is broken: its photo is empty"):
        read(str(folder))


def test_annotations_of_coco(tmp_path):
    photo = write_photo(tmp_path / "val" / "COCO_7.jpg")
    write_photo(tmp_path / "val" / "COCO_8.jpg")
    content = {
        "images": [{"id": 7, "file_name": "COCO_7.jpg"}, {"id": 8, "file_name": "COCO_8.jpg"},
                   {"id": 9, "file_name": "COCO_9.jpg"}],
        "annotations": [{"image_id": 7, "caption": "a bus"}, {"image_id": 9, "caption": "x"},
                        {"image_id": 7, "caption": "a red bus"}],
    }  # fmt: skip
    (tmp_path / "captions.json").write_text(json.dumps(content))
    report = ShardReport()
    found = read(f"{tmp_path}/captions.json@{tmp_path}/val", report)
    assert found["7"].captions == ["a bus", "a red bus"] and found["7"].image == photo
    assert list(found) == ["7"]
    assert dict(report.broken) == {
        "COCO_8.jpg": "it has neither captions nor qa",
        "COCO_9.jpg": f"it is not in {tmp_path}/val",
    }
    with pytest.raises(UserError, match="has no splits as Karpathy's JSON has; leave #val out"):
        read(f"{tmp_path}/captions.json@{tmp_path}/val#val")


def test_annotations_of_karpathy(tmp_path):
    for number in range(4):
        write_photo(tmp_path / "images" / "val2014" / f"{number}.jpg", number)
    content = {
        "images": [
            {"filepath": "val2014", "filename": f"{n}.jpg", "cocoid": 100 + n, "split": split,
             "sentences": [{"raw": f"photo {n}"}]}
            for n, split in enumerate(["train", "restval", "val", "test"])
        ]
    }  # fmt: skip
    (tmp_path / "k.json").write_text(json.dumps(content))
    where = f"{tmp_path}/k.json@{tmp_path}/images"
    for split, ids in (("train", ["100", "101"]), ("test", ["103"]), ("val", ["102"])):
        assert list(read(f"{where}#{split}")) == ids
    assert len(read(where)) == 4
    with pytest.raises(UserError, match="No photo of the split 'dev' is in"):
        read(f"{where}#dev")


def test_several_sources_with_weights():
    assert find_sources("a.tar, 3x b-{0,1}.tar,0.5x c.json@d#train") == [
        Source("a.tar", 1.0, "0/"), Source("b-{0,1}.tar", 3.0, "1/"),
        Source("c.json@d#train", 0.5, "2/"),
    ]  # fmt: skip
    # Shards of one weight are one set, in which none may stand twice.
    assert find_sources("a.tar,b.tar") == [Source("a.tar,b.tar")]


def test_equal_names_in_two_sources_are_two_photos(folder, tmp_path):
    for number in range(2):
        write_photo(tmp_path / str(number) / "p.jpg", number)
        (tmp_path / str(number) / "p.txt").write_text(f"photo {number}")
    found = read(f"{tmp_path}/0, {tmp_path}/1")
    assert {name: s.captions for name, s in found.items()} == {
        "0/p": ["photo 0"], "1/p": ["photo 1"],
    }  # fmt: skip
    report, _ = prepare.prepare(f"{tmp_path}/0,{tmp_path}/1", tmp_path / "both")
    assert report.samples == 2 and not report.broken


def test_a_shard_that_is_named_twice_is_refused(folder, tmp_path):
    prepare.prepare(str(folder), tmp_path / "s")
    with pytest.raises(UserError, match="is named twice"):
        read(f"{tmp_path}/s-*.tar, {tmp_path}/s-000000.tar")


def test_questions_of_vqa_v2(tmp_path):
    photo = write_photo(tmp_path / "train2014" / "COCO_train2014_000000000042.jpg")
    questions = [{"question_id": 420, "image_id": 42, "question": "What is it?"},
                 {"question_id": 421, "image_id": 42, "question": "How many?"},
                 {"question_id": 430, "image_id": 43, "question": "Where?"}]  # fmt: skip
    answers = [
        {"question_id": number, "answer_type": kind, "question_type": "what is",
         "answers": [{"answer_id": n, "answer": text} for n, text in enumerate(said)]}
        for number, kind, said in ((421, "number", ["2", "3"]), (420, "other", ["a dog"]),
                                   (430, "other", ["here"]))
    ]  # fmt: skip
    (tmp_path / "q.json").write_text(
        json.dumps({"data_subtype": "train2014", "questions": questions})
    )
    (tmp_path / "a.json").write_text(
        json.dumps({"data_subtype": "train2014", "annotations": answers})
    )
    report = ShardReport()
    found = read(f"{tmp_path}/q.json+{tmp_path}/a.json@{tmp_path}/train2014", report)
    assert list(found) == ["42"] and found["42"].image == photo and not found["42"].captions
    assert found["42"].qa == [
        {"question": "What is it?", "answers": ["a dog"], "answer_type": "other",
         "question_type": "what is"},
        {"question": "How many?", "answers": ["2", "3"], "answer_type": "number",
         "question_type": "what is"},
    ]  # fmt: skip
    assert [name for name, _ in report.broken] == ["COCO_train2014_000000000043.jpg"]
    with pytest.raises(UserError, match=r"q\.json and .*q\.json is no JSON of .*KeyError"):
        read(f"{tmp_path}/q.json+{tmp_path}/q.json@{tmp_path}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0x a.tar", "The weight of a.tar is 0"),
        (" , ", "No data were named"),
        ("{}/nothing.json@{}", "is no JSON of COCO's, Karpathy's or VQA v2's form"),
        ("{}/list.json@{}", "is no JSON of COCO's, Karpathy's or VQA v2's form"),
        ("{}/bare", "No photo (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF) is in"),
        ("{}/nowhere", "No shard is at"),
    ],
)
def test_mistakes_are_one_sentence(text, said, tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError) as error:
        read(text.replace("{}", str(tmp_path)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_folder_becomes_shards_that_read_the_same(folder, tmp_path, capsys):
    out = tmp_path / "shards" / "train"
    assert prepare.main([str(folder), "--out", str(out), "--per-shard", "1"]) == 0
    shards = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert shards == ["train-000000.tar", "train-000001.tar"]
    found = {s.image_id: s for s in iter_samples(f"{out}-*.tar")}
    assert {name: sample.captions for name, sample in found.items()} == CAPTIONS
    assert found["beach/one"].image == (folder / "beach" / "one.jpg").read_bytes()
    assert "2 photos in 2 shards, 0 left out" in capsys.readouterr().out
    assert prepare.main([str(folder), "--out", str(out)]) == 2
    assert "are there already" in capsys.readouterr().err
    assert prepare.main([str(folder), "--out", "."]) == 2
    assert "--out . names a folder alone" in capsys.readouterr().err


def test_names_that_are_not_utf8_are_trained_on(tmp_path, capsys):
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    write_photo(latin / os.fsdecode(b"a\xe8.jpg"))
    (latin / os.fsdecode(b"a\xe8.txt")).write_text("a dog")
    write_photo(latin / os.fsdecode(b"two\nlines\xe9.jpg"))
    assert set(read(str(latin), ShardReport())) == {r"a\xe8"}
    out = tmp_path / os.fsdecode(b"out\xe9") / "train"
    assert prepare.main([str(latin), "--out", str(out)]) == 0
    (sample,) = iter_samples(f"{out}-*.tar")
    assert sample.image_id == r"a\xe8"
    printed, said = capsys.readouterr()
    assert printed.splitlines()[-1] == f"data: {tmp_path}/out\\xe9/train-*.tar"
    assert r"left out: two\nlines\xe9.jpg: it has no .txt" in said
    assert prepare.main([str(latin), "--out", str(out)]) == 2
    assert r"/out\xe9/train-*.tar are there already" in capsys.readouterr().err


def test_photos_are_decoded_and_scaled_and_the_bad_ones_named(folder, tmp_path, capsys):
    whole = (folder / "two.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.txt").write_text("half a photo")
    out = tmp_path / "s"
    assert prepare.main([str(folder), "--out", str(out), "--side", "16"]) == 0
    said = capsys.readouterr()
    assert "2 photos in 1 shards, 1 left out" in said.out
    assert "left out: cut: " in said.err
    for sample in iter_samples(f"{out}-*.tar"):
        with Image.open(io.BytesIO(sample.image)) as photo:
            assert photo.size == (16, 16) and photo.format == "JPEG"


@pytest.mark.parametrize("suffix", ["heic", "HIF", "avif", "tiff"])
def test_photos_as_telephones_make_them(suffix, tmp_path, capsys):
    """From a folder they become JPEGs, upright; in a shard they are read as they are."""
    form = {"avif": "AVIF", "tiff": "TIFF"}.get(suffix, "HEIF")
    data = oriented(quarters(), form, 6)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"IMG_1.{suffix}").write_bytes(data)
    (tmp_path / "photos" / "IMG_1.txt").write_text("four colours")
    assert prepare.main([str(tmp_path / "photos"), "--out", str(tmp_path / "s")]) == 0
    [sample] = iter_samples(str(tmp_path / "s-000000.tar"))
    photo = open_photo(sample.image)
    assert photo.info["format"] == "JPEG" and sample.captions == ["four colours"]
    assert_colours(photo, *TURNED[6], within=30)
    files = {suffix: data, "json": b'{"captions": ["four colours"]}'}
    prepare.write_shard(tmp_path / "own.tar", iter([("IMG_1", files)]))
    [sample] = iter_samples(str(tmp_path / "own.tar"))
    assert_colours(open_photo(sample.image), *TURNED[6], within=6)


def test_the_seed_decides_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "HELD", 12)  # fewer than there are
    for number in range(30):
        write_photo(tmp_path / "p" / f"{number:02d}.jpg", number)
        (tmp_path / "p" / f"{number:02d}.txt").write_text("a photo")
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", None)):
        prepare.prepare(str(tmp_path / "p"), tmp_path / name, seed=seed)
        orders.append([s.image_id for s in iter_samples(str(tmp_path / f"{name}-000000.tar"))])
    assert orders[0] == orders[1] != orders[2] and orders[3] == sorted(orders[3]) != orders[0]
    assert all(sorted(order) == orders[3] for order in orders)


def test_the_last_by_name_are_held_out(tmp_path, capsys):
    for number in range(25):
        write_photo(tmp_path / "p" / f"{number:02d}.jpg", number)
        (tmp_path / "p" / f"{number:02d}.txt").write_text(f"photo {number}")
    arguments = [str(tmp_path / "p"), "--out", str(tmp_path / "s" / "mine"), "--per-shard", "9"]
    assert prepare.main([*arguments, "--held-out", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "23 photos in 3 shards, 0 left out" in said and "2 photos in 1 shards" in said
    held = {s.image_id: s.captions for s in iter_samples(f"{tmp_path}/s/held-mine-*.tar")}
    assert held == {"23": ["photo 23"], "24": ["photo 24"]}
    others = sorted(s.image_id for s in iter_samples(f"{tmp_path}/s/mine-*.tar"))
    assert others == [f"{number:02d}" for number in range(23)]
    assert prepare.main([*arguments, "--held-out", "0.1"]) == 2  # they are there already
    few = [str(tmp_path / "p"), "--out", str(tmp_path / "few"), "--held-out", "0.03"]
    assert prepare.main(few) == 2
    assert "A share of 0.03 of 25 photos can't be held out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main([*few[:-1], "1.5"])
    assert "1.5 is no share between 0 and 1" in capsys.readouterr().err


COMMANDS = ["prepare", "stage1", "stage2", "evaluate", "capfilt", "make_qa", "consensus", "average"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_torch(command):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('train.{command}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"xample: python -m train.{command}" in done.stdout
