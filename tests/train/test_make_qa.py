"""The command from shards with captions to shards with questions."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from train.make_qa import main
from train.shards import ShardReport, iter_files, iter_samples

PHOTOS = {
    "a": ["A brown dog chases a ball .", "The dog is running on grass ."],
    "b": ["Two women sit on a bench .", "Two women are sitting ."],
    "c": ["A cat in a red hat"],
    "d": ["A man rides a horse on the beach .", "a man is riding a brown horse"],
    "e": ["Nothing to be asked"],
    "f": ["A zebra and an elephant"],
    "g": ["a boy holds a guitar", "a boy with a guitar"],
}


def write_tar(path, names, qa=()):
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            out = io.BytesIO()
            Image.new("RGB", (8, 8), (number * 9, len(name) * 7, ord(name))).save(out, "PNG")
            fields = {"image_id": name, "captions": PHOTOS[name], "written": ["kept"]}
            if name in qa:
                fields["qa"] = [{"question": "whose?", "answers": ["mine"], "question_id": 7}]
            data = json.dumps(fields).encode()
            for suffix, content in (("PNG", out.getvalue()), ("json", data)):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def source(tmp_path):
    write_tar(tmp_path / "one.tar", "abcd", qa="a")
    write_tar(tmp_path / "two.tar", "efg")
    return f"{tmp_path}/one.tar,{tmp_path}/two.tar"


def read(source):
    return list(iter_files(source, ShardReport()))


def test_the_same_photos_with_questions(source, tmp_path, capfd):
    out = tmp_path / "made" / "qa"
    assert main([source, "--out", str(out), "--per-shard", "4"]) == 0
    before, after = read(source), read(str(out.parent))
    assert [path.name for path in sorted(out.parent.iterdir())] == [
        "qa-000000.tar", "qa-000001.tar",
    ]  # fmt: skip
    assert [s.image_id for *_, s in after] == list(PHOTOS) == [s.image_id for *_, s in before]
    made, yes_no = [], []
    for (key, files, old), (new_key, new_files, sample) in zip(before, after, strict=True):
        assert new_files["PNG"] == files["PNG"] and list(new_files) == list(files)
        assert new_key.split("-")[0] == key and sample.captions == old.captions
        fields = json.loads(new_files["json"])
        assert fields["written"] == ["kept"] and sample.qa[: len(old.qa)] == old.qa
        mine = sample.qa[len(old.qa) :]
        assert len(mine) <= 6
        answers = [entry["answers"][0] for entry in mine if entry["answer_type"] == "yes/no"]
        assert answers.count("yes") == answers.count("no")
        made += mine
        yes_no += answers
    assert yes_no.count("yes") > 2
    assert {entry["question_type"] for entry in made} >= {"object", "color", "action", "yes/no"}
    assert after[4][2].qa == [] and after[4][2].captions == PHOTOS["e"]
    # The second tar's names come again, and keep apart in a shard.
    assert len({key for key, *_ in after}) == len(PHOTOS)
    said = capfd.readouterr().out.splitlines()
    assert f"{len(made)} questions on 7 photos in 2 shards" in said
    assert f"yes/no no  {len(yes_no) // 2}" in said and f"yes/no yes {len(yes_no) // 2}" in said


def test_features_of_the_photos_stay_valid(source, tmp_path, monkeypatch):
    """The digest by which cached features are found is the same for the new shards."""
    from train.features import FeatureCache

    monkeypatch.setattr(FeatureCache, "_view", lambda self, view: np.zeros((7, 1, 1)))
    main([source, "--out", str(tmp_path / "qa")])
    digests = []
    for shards in (source, str(tmp_path / "qa-000000.tar")):
        samples = list(iter_samples(shards))
        ids, places = [s.image_id for s in samples], [s.place for s in samples]
        digests.append(FeatureCache(tmp_path / "cache", "tiny", ids, places).digest)
    assert digests[0] == digests[1]


def test_only_every_third_photo_is_asked_about(source, tmp_path):
    assert main([source, "--out", str(tmp_path / "all")]) == 0
    assert main([source, "--out", str(tmp_path / "some"), "--every", "3"]) == 0
    before, everyone, some = (
        [sample.qa for *_, sample in read(shards)]
        for shards in (source, f"{tmp_path}/all-000000.tar", f"{tmp_path}/some-000000.tar")
    )
    for number, asked in enumerate(some):
        assert asked == (everyone if number % 3 == 0 else before)[number]
    assert some != everyone and some != before


def test_seed_and_names_decide(source, tmp_path):
    def shards(name, seed):
        main([source, "--out", str(tmp_path / name), "--seed", seed])
        return (tmp_path / f"{name}-000000.tar").read_bytes()

    assert shards("x", "0") == shards("y", "0") != shards("z", "1")


def test_errors_are_one_line(source, tmp_path, capsys):
    assert main([source, "--out", str(tmp_path / "qa")]) == 0
    capsys.readouterr()
    for argv, says in (
        ([source, "--out", str(tmp_path / "qa")], "are there already"),
        ([str(tmp_path / "no.tar"), "--out", str(tmp_path / "new")], "No shard is at"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and says in error and "\n" not in error
    assert not list(tmp_path.glob("new*"))


def test_a_broken_sample_is_left_out_and_named(source, tmp_path, capsys):
    with tarfile.open(tmp_path / "one.tar", "a") as tar:
        member = tarfile.TarInfo("9999.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    assert main([source, "--out", str(tmp_path / "qa")]) == 0
    assert "9999: it has no photo" in capsys.readouterr().err
    assert len(read(str(tmp_path / "qa-000000.tar"))) == len(PHOTOS)


def test_types_that_are_not_wanted_are_left_out_and_the_others_stay(source, tmp_path, capsys):
    assert main([source, "--out", str(tmp_path / "all")]) == 0
    assert main([source, "--out", str(tmp_path / "some"), "--kinds", "color, number"]) == 0
    whole, some = (
        [sample.qa for sample in iter_samples(f"{tmp_path}/{name}-*.tar", with_image=False)]
        for name in ("all", "some")
    )
    kept = [[entry for entry in qa if entry.get("question_type") in ("color", "number", None)]
            for qa in whole]  # fmt: skip
    assert some == kept and some != whole and any(some)
    with pytest.raises(SystemExit):
        main([source, "--out", str(tmp_path / "none"), "--kinds", "shape"])
    assert "there are no questions of type shape; choose object" in capsys.readouterr().err


def test_checks_are_of_all_questions_and_only_where_they_are_asked_for(source, tmp_path, capfd):
    kinds = ["--kinds", "color,check"]
    assert main([source, "--out", str(tmp_path / "checked" / "qa"), *kinds]) == 0
    assert main([source, "--out", str(tmp_path / "plain" / "qa"), "--kinds", "color"]) == 0
    checked, plain = (
        {s.image_id: s.qa for s in iter_samples(str(tmp_path / name))}
        for name in ("checked", "plain")
    )
    for name, entries in checked.items():
        known = [e for e in entries if e.get("question_type") != "check"]
        assert known == plain[name]
    checks = [e for entries in checked.values() for e in entries if e not in known]
    asked = {e["question"]: e["answers"][0] for e in checks if e.get("question_type") == "check"}
    assert asked["is the dog running?"] == "yes"
    assert asked["is the dog sitting?"] == "no"  # the women do
    assert Counter(asked.values())["yes"] == Counter(asked.values())["no"]
    assert "check no" in capfd.readouterr().out


def test_an_unknown_kind_is_refused(source, tmp_path, capfd):
    with pytest.raises(SystemExit):
        main([source, "--out", str(tmp_path / "qa"), "--kinds", "colour"])
    assert "choose object, color, number, action, yes/no, check" in capfd.readouterr().err
