"""The command from shards to report, with small stand-ins for the two models."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blip2.errors import UserError
from train.evaluate import main

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def jpeg(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(out, "JPEG")
    return out.getvalue()


def write_tar(path: Path, samples: list[tuple[str, bytes, dict]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, photo, fields in samples:
            for name, data in ((f"{key}.jpg", photo), (f"{key}.json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def texts_of(name: str) -> list[str]:
    return [f"A photo that is {name} .", f"the colour {name}, everywhere in this large photo"]


@pytest.fixture
def shard(tmp_path):
    samples = [
        (name, jpeg(rgb), {"image_id": name, "captions": texts_of(name)})
        for name, rgb in COLOURS.items()
    ]
    return write_tar(tmp_path / "dev.tar", samples)


def nearest(rgb) -> str:
    return min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - rgb).sum())


class Captioner:
    name, device, default_prompt = "fake", torch.device("cpu"), "Describe this photo."

    def __init__(self, wrong: str = ""):
        self.calls, self.wrong = [], wrong

    question_form = "Question: {} Answer:"

    def generate(self, photos, prompt, **decoding):
        self.calls.append((len(photos), prompt, decoding))
        names = [nearest(np.asarray(photo).mean((0, 1))) for photo in photos]
        return ["" if name == self.wrong else f"a photo that is {name}" for name in names]


class States:
    """Colours of photos behind the face of the retriever's opaque states."""

    def __init__(self, names):
        self.names = names

    def select(self, index):
        return States([self.names[i] for i in index.tolist()])


class Retriever:
    """Embeddings that take green for red; matching that knows better."""

    name, fingerprint, temperature, match_temperature = "fake-itm", "f00d", 1.0, 1.0

    def __init__(self):
        self.encoded, self.batches, self.pairs = [], [], []

    def _vector(self, name):
        index = list(COLOURS).index(name)
        vector = torch.nn.functional.one_hot(torch.tensor(index), 4).float()
        if name == "green":
            vector = torch.tensor([0.8, 0.6, 0.0, 0.0])
        return vector

    def preprocess(self, photo):
        return torch.from_numpy(np.asarray(photo.resize((4, 4))).copy()).permute(2, 0, 1).float()

    def embed_pixels(self, pixels):
        names = [nearest(p.mean((1, 2)).numpy()) for p in pixels]
        right = torch.stack([self._vector(name) for name in names])
        return torch.stack([-right, right], dim=1)  # only the best query may count

    def embed_texts(self, texts, batch_size=64):
        names = [next(name for name in COLOURS if name in text) for text in texts]
        red = {"green": "red"}
        return torch.stack([self._vector(red.get(name, name)) for name in names])

    def image_states(self, pixels):
        names = [nearest(p.mean((1, 2)).numpy()) for p in pixels]
        self.encoded += names
        return States(names)

    def match_states(self, states, texts):
        assert len(states.names) == len(texts)
        self.batches.append([len(text) for text in texts])
        pairs = list(zip(states.names, texts, strict=True))
        self.pairs += pairs
        return torch.tensor([0.9 if n in t else 0.2 for n, t in pairs])


def run(task, shard, model, *extra, model_id="fake"):
    output = shard.parent / "reports" / "report.json"
    given = []

    def load(*arguments):
        given.append(arguments)
        return model

    argv = [task, "--model", model_id, "--data", str(shard), "--output", str(output), *extra]
    status = main(argv, load)
    report = json.loads(output.read_text()) if output.exists() else None
    return status, report, given


def test_captions_from_shard_to_report(shard, capfd):
    model = Captioner()
    extra = ("--batch-size", "3", "--prompt", "a photo of", "--num-beams", "2", "--device", "cpu")
    status, report, given = run("caption", shard, model, *extra)
    out = capfd.readouterr().out
    assert status == 0 and given == [("caption", "fake", "cpu")]
    assert [photo["image_id"] for photo in report["photos"]] == list(COLOURS)
    assert [photo["caption"] for photo in report["photos"]] == [
        f"a photo that is {name}" for name in COLOURS
    ]
    assert report["photos"][1]["references"] == texts_of("green")
    decoding = {"num_beams": 2, "max_new_tokens": 30, "min_new_tokens": 1, "length_penalty": 1.0}
    assert model.calls == [(3, ["a photo of"] * 3, decoding), (1, ["a photo of"], decoding)]

    metrics = report["metrics"]
    assert metrics["BLEU-4"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["CIDEr"] == pytest.approx(np.mean([p["CIDEr"] for p in report["photos"]]), 1e-3)
    assert metrics["CIDEr"] > 4
    # Nothing but our lines: the official code prints to stdout.
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [*metrics, "report:"]

    assert report["settings"] == {"prompt": "a photo of", **decoding, "batch_size": 3}
    assert report["counts"]["photos"] == 4 and report["counts"]["references"] == 8
    assert report["model"] == {"id": "fake", "name": "fake", "fingerprint": None, "device": "cpu"}
    described = report["data"]["shards"]
    assert [s["sha256"] for s in described] == [hashlib.sha256(shard.read_bytes()).hexdigest()]
    assert report["data"]["left_out"] == []
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["machine"]["cpus"] >= 1 and report["date"].endswith("+00:00")
    assert report["tokeniser"]
    # A report travels; the folders of the machine stay.
    assert str(shard.parent.parent) not in json.dumps(report)


def test_domains_are_scored_by_themselves_too(tmp_path):
    samples = [
        (name, jpeg(rgb), {"image_id": name, "captions": texts_of(name),
                           "domain": "out-domain" if name in ("red", "green") else "in-domain"})
        for name, rgb in COLOURS.items()
    ]  # fmt: skip
    shard = write_tar(tmp_path / "nocaps.tar", samples)
    status, report, _ = run("caption", shard, Captioner(wrong="red"), "--no-meteor")
    metrics = report["metrics"]
    assert status == 0 and metrics["in-domain"]["BLEU-4"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["out-domain"]["BLEU-1"] < metrics["BLEU-1"] < metrics["in-domain"]["BLEU-1"]
    assert "METEOR" in metrics["in-domain"] and metrics["in-domain"]["METEOR"] is None


class Answerer(Captioner):
    """Names the colour where it is asked for, and says yes to everything else."""

    def generate(self, photos, prompt, **decoding):
        captions = super().generate(photos, prompt, **decoding)
        return [c.split()[-1].title() + "." if "colour" in p else "yes"
                for c, p in zip(captions, prompt, strict=True)]  # fmt: skip


def test_answers_from_shard_to_report(tmp_path, capfd):
    samples = []
    for name, rgb in COLOURS.items():
        people = [name] * 9 + ["grey"]
        qa = [
            {"question": "which colour?", "answers": people, "answer_type": "other"},
            {"question": "is it red?", "answers": ["yes" if name == "red" else "no"] * 10,
             "answer_type": "yes/no"},
            {"question": "whose?", "answers": []},
        ]  # fmt: skip
        samples.append((name, jpeg(rgb), {"image_id": name, "qa": qa}))
    shard = write_tar(tmp_path / "qa.tar", samples)
    model = Answerer()
    extra = ("--batch-size", "3", "--against", "vqav2-opt-2.7b", "--dataset", "vqav2")
    status, report, _ = run("vqa", shard, model, *extra)
    assert status == 0
    decoding = {"num_beams": 5, "max_new_tokens": 10, "min_new_tokens": 1, "length_penalty": -1.0}
    assert [count for count, *_ in model.calls] == [3, 3, 2]
    assert model.calls[0][1][:2] == [
        "Question: which colour? Answer:", "Question: is it red? Answer:",
    ]  # fmt: skip
    assert all(asked == decoding for *_, asked in model.calls)
    accuracy = report["metrics"]["VQA accuracy"]
    assert accuracy["other"] == 1.0 and accuracy["yes/no"] == 0.25
    assert accuracy["all"] == pytest.approx(0.625)
    assert accuracy["best constant"]["yes/no"] == 0.75
    assert report["constants"]["VQA accuracy"]["yes/no"] == "no"
    assert report["counts"]["questions"] == 8 and len(report["answers"]) == 8
    assert report["answers"][2]["answer"] == "Green." and report["answers"][2]["score"] == 1.0
    (said,) = report["verdicts"]
    assert said["verdict"] == "not comparable" and "measured" not in said
    keys = [difference.split(":")[0] for difference in said["differences"]]
    assert keys == ["split", "questions", "fine_tuned"]  # data set, prompt and beams agree
    assert "vqav2-opt-2.7b: not comparable (split: not stated" in capfd.readouterr().out


def test_questions_without_answers_and_figures_that_are_not_there(tmp_path, capsys):
    qa = [{"question": "whose?", "answers": []}]
    shard = write_tar(tmp_path / "qa.tar", [("red", jpeg((255, 0, 0)), {"qa": qa})])
    assert run("vqa", shard, Answerer())[0] == 2
    assert "No question in" in capsys.readouterr().err
    assert run("vqa", shard, Answerer(), "--prompt", "Answer briefly.")[0] == 2
    assert run("vqa", shard, Answerer(), "--against", "best")[0] == 2
    assert "There is no published figure 'best'" in capsys.readouterr().err


def test_limit_and_what_is_missing_are_in_the_report(shard):
    status, report, _ = run(
        "caption", shard, Captioner(wrong="green"), "--limit", "2", "--no-meteor"
    )
    assert status == 0
    assert [photo["caption"] for photo in report["photos"]] == ["a photo that is red", ""]
    assert report["counts"]["photos"] == 2 and report["counts"]["empty_captions"] == 1
    assert report["metrics"]["METEOR"] is None and report["note"] == "METEOR was not asked for"


def test_what_cannot_be_used_is_left_out_and_reported(tmp_path, capsys):
    shard = write_tar(
        tmp_path / "mixed.tar",
        [
            ("a", jpeg(COLOURS["red"]), {"image_id": "a", "captions": ["red"]}),
            ("b", b"no photo", {"image_id": "b", "captions": ["b"]}),
            ("c", jpeg((0, 0, 0)), {"qa": [{"question": "what", "answers": ["c"]}]}),
            ("d", jpeg((0, 0, 0)), {"image_id": "a", "captions": ["again"]}),
            ("e", jpeg((0, 0, 0)), {"image_id": "e", "captions": []}),
            ("f", jpeg(COLOURS["blue"]), {"image_id": "f", "captions": ["blue"]}),
        ],
    )
    status, report, _ = run("caption", shard, Captioner(), "--no-meteor")
    assert status == 0 and [photo["image_id"] for photo in report["photos"]] == ["a", "f"]
    why = {Path(entry["sample"]).name: entry["why"] for entry in report["data"]["left_out"]}
    assert list(why) == ["b", "c", "a", "mixed.tar:e"]
    assert "not in a format" in why["b"] and why["c"] == "it has no captions"
    assert why["a"] == "its image_id came before" and "neither" in why["mixed.tar:e"]
    assert "2 samples from 1 sources, 4 left out" in capsys.readouterr().err


def test_retrieval_and_what_matching_adds(shard, capfd):
    model = Retriever()
    extra = ("--k-test", "2", "--captions-per-photo", "2", "--batch-size", "3")
    status, report, given = run("retrieval", shard, model, *extra, model_id="fake-itm")
    lines = capfd.readouterr().out.splitlines()
    assert status == 0 and given == [("retrieval", "fake-itm", None)]
    itc, itm = report["metrics"]["itc"], report["metrics"]["itm"]
    # Texts on green find the red photo before the green one, and both photos find the texts of
    # both colours; matching puts all of it right.
    assert itc["IR@1"] == pytest.approx(6 / 8) and itc["IR@5"] == 1.0
    assert itc["TR@1"] == pytest.approx(2 / 4)
    assert itm["IR@1"] == 1.0 and report["metrics"]["itm+itc"]["IR@1"] == 1.0
    # Red and green each have four texts of one score for two candidates: the first two are red's.
    assert itm["TR@1"] == pytest.approx(3 / 4)

    assert model.encoded == list(COLOURS)  # the encoder saw each photo once
    assert len(set(model.pairs)) == len(model.pairs) == report["counts"]["pairs_matched"]
    assert all(len(b) <= 3 and b == sorted(b) for b in model.batches)
    assert report["counts"]["texts"] == report["counts"]["texts_asking_reranked"] == 8
    assert report["settings"]["k_test"] == 2 and report["settings"]["captions_per_photo"] == 2
    assert report["model"]["fingerprint"] == "f00d"
    assert "itc TR@1" in lines[0] and "0.5000" in lines[0]


def test_scores_meet_the_pairs_they_belong_to(shard):
    """With every pair a candidate, matching decides alone, whatever the batches."""
    for size in ("1", "2", "5", "64"):
        _, report, _ = run("retrieval", shard, Retriever(), "--k-test", "99", "--batch-size", size)
        assert set(report["metrics"]["itm"].values()) == {1.0}
        assert report["counts"]["pairs_matched"] == 4 * 8


def test_some_texts_only(shard):
    model = Retriever()
    _, report, _ = run("retrieval", shard, model, "--k-test", "1", "--texts-limit", "4")
    # Of eight texts the even ones ask: one a photo. One pair for each of them and of the photos.
    assert report["counts"]["texts_asking_reranked"] == 4
    assert report["counts"]["texts"] == 8
    assert report["metrics"]["itc_subset"]["IR@1"] == pytest.approx(3 / 4)
    asked = {text for _, text in model.pairs}
    assert asked == {texts_of(name)[0] for name in COLOURS}


def test_retrieval_without_matching(shard):
    model = Retriever()
    extra = ("--k-test", "0", "--captions-per-photo", "1")
    _, report, _ = run("retrieval", shard, model, *extra)
    assert list(report["metrics"]) == ["itc"] and report["counts"]["texts"] == 4
    assert model.encoded == [] and report["counts"]["pairs_matched"] == 0


def test_errors_are_one_line_and_leave_the_old_report(shard, tmp_path, capsys):
    run("caption", shard, Captioner(), "--no-meteor")
    old = (tmp_path / "reports" / "report.json").read_text()
    capsys.readouterr()

    questions = write_tar(
        tmp_path / "vqa.tar",
        [("a", jpeg((0, 0, 0)), {"qa": [{"question": "what", "answers": ["a"]}]})],
    )
    for data, says in ((questions, "No photo with captions"), (tmp_path / "no.tar", "No shard")):
        output = tmp_path / "reports" / "report.json"
        argv = ["caption", "--model", "m", "--data", str(data), "--output", str(output)]
        assert main(argv, lambda *_: pytest.fail("loaded a model for nothing")) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"error: {says}") and "\n" not in error
        assert output.read_text() == old

    def load(*_):
        raise UserError("No model m; name another.")

    argv = ["caption", "--model", "m", "--data", str(shard), "--output", str(tmp_path / "r.json")]
    assert main(argv, load) == 2
    assert capsys.readouterr().err == "error: No model m; name another.\n"


@pytest.mark.parametrize("task", ["caption", "retrieval"])
def test_help_is_quick_and_has_an_example(task):
    started = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "train.evaluate", task, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"Example: python -m train.evaluate {task}" in done.stdout
    assert not {"torch", "transformers"} & {
        line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()
    }
    assert time.monotonic() - started < 10  # heavy imports are what would make it slow


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_numbers_that_make_no_sense_are_refused(value, shard, capsys):
    with pytest.raises(SystemExit) as ended:
        run("caption", shard, Captioner(), "--limit", value)
    assert ended.value.code == 2 and "--limit" in capsys.readouterr().err
