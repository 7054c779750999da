"""A run survives what happens to long runs: kills at any moment, a full disk, damaged states."""

import json
import multiprocessing
import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.train import tiny_stage

KILLS, EPOCHS, SAVE_EVERY = 20, 80, 2  # saves in the middle of passes, which have three steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    tiny_stage.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def begin(folder):
    """Start a run in a fresh process; the packages are imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.tiny_stage", "accelerate", "tensorboard"])

    def begin(output, source=folder, file_limit=0):
        arguments = (source, output, EPOCHS, SAVE_EVERY, file_limit)
        process = context.Process(target=tiny_stage.run, args=arguments)
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def uninterrupted(folder, begin):
    process = begin(folder / "whole")
    process.join()
    assert process.exitcode == 0, (folder / "whole" / "said").read_text()
    return folder / "whole"


def states(output):
    names = (output / "checkpoints").glob("step-*")
    return sorted(int(path.name[5:]) for path in names if not path.suffix)


def same(one, other):
    for name in ("model", "optimizer"):
        a, b = (load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / f"{name}.safetensors")
                for run in (one, other))  # fmt: skip
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    model, whole = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert all(torch.equal(model[key], whole[key]) for key in whole)


def test_killed_twenty_times_it_ends_bit_for_bit_the_same(tmp_path, begin, uninterrupted):
    draw = random.Random(0)
    stopped_at = []
    for _ in range(KILLS):
        reached = states(tmp_path)[-1] if stopped_at else 0
        process = begin(tmp_path)
        until = time.monotonic() + 120
        while not (tmp_path / "checkpoints").exists() or not states(tmp_path)[-1:] > [reached]:
            assert process.is_alive() and time.monotonic() < until
            time.sleep(0.002)
        time.sleep(draw.random() * 0.06)  # between any two instructions, also while it saves
        process.kill()
        process.join()
        stopped_at.append(states(tmp_path)[-1])
    assert stopped_at == sorted(set(stopped_at)) and stopped_at[-1] < 3 * EPOCHS
    assert {step % 3 for step in stopped_at} == {0, 1, 2}  # in the middle of passes, too
    process = begin(tmp_path)
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    same(tmp_path, uninterrupted)


def test_a_full_disk_is_one_sentence_and_costs_no_state(tmp_path, folder, begin, uninterrupted):
    output = tmp_path / "run"
    output.mkdir()
    kept = sorted((uninterrupted / "checkpoints").glob("step-*"))[0]
    (output / "checkpoints").mkdir()
    shutil.copytree(kept, output / "checkpoints" / kept.name)
    process = begin(output, file_limit=50_000)  # bytes; less than the weights need
    process.join()
    said = (output / "said").read_text().splitlines()[-1]
    assert process.exitcode == 2
    assert f"The state after step {3 * EPOCHS} can't be written" in said
    assert said.endswith(f"the same command goes on from {kept.name}.")
    assert [path.name for path in (output / "checkpoints").iterdir()] == [kept.name]
    process = begin(output)
    process.join()
    assert process.exitcode == 0
    same(output, uninterrupted)


def test_a_damaged_state_is_named(tmp_path, begin, uninterrupted):
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    newest = sorted((output / "checkpoints").glob("step-*"))[-1]
    with (newest / "optimizer.safetensors").open("r+b") as file:
        file.truncate(1000)
    process = begin(output)
    process.join()
    assert process.exitcode == 2
    said = (output / "said").read_text().splitlines()[-1]
    assert f"The state {newest} is damaged" in said and "remove it" in said
    shutil.rmtree(newest)
    process = begin(output)
    process.join()
    assert process.exitcode == 0
    same(output, uninterrupted)


def test_a_state_from_before_a_setting_existed_goes_on(tmp_path, begin, uninterrupted):
    """What the recipe of then did not know it did as the default says."""
    for place, setting, code in (("old", "objectives", 0), ("other", "learning_rate", 2)):
        output = tmp_path / place
        kept = sorted((uninterrupted / "checkpoints").glob("step-*"))[0]
        state = shutil.copytree(kept, output / "checkpoints" / kept.name) / "state.json"
        fields = json.loads(state.read_text())
        assert fields["recipe"].pop(setting)
        state.write_text(json.dumps(fields))
        process = begin(output)
        process.join()
        assert process.exitcode == code
    same(tmp_path / "old", uninterrupted)
    assert "another recipe (differs in learning_rate)" in (output / "said").read_text()


def test_the_photos_decide_and_not_where_they_lie(tmp_path, folder, begin, uninterrupted):
    for place, change in (("moved", ("", "")), ("changed", ("a red", "a big"))):
        source, output = tmp_path / place, tmp_path / f"{place}-run"
        source.mkdir()
        shards = (folder / "photos.tar").read_bytes()
        (source / "photos.tar").write_bytes(shards.replace(*map(str.encode, change)))
        recipe = (folder / "recipe.yaml").read_text()
        (source / "recipe.yaml").write_text(recipe.replace(f"{folder}/photos", f"{source}/photos"))
        kept = sorted((uninterrupted / "checkpoints").glob("step-*"))[0]
        shutil.copytree(kept, output / "checkpoints" / kept.name)
        process = begin(output, source=source)
        process.join()
        if place == "moved":
            assert process.exitcode == 0
            same(output, uninterrupted)
        else:
            said = (output / "said").read_text().splitlines()[-1]
            assert process.exitcode == 2 and "another recipe (differs in data)" in said
