"""A model that is cut over two processes trains, is watched, saved and gone on with as a whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blip2.checkpoints import read_tensors
from blip2.errors import UserError
from tests.train import tiny_stage
from train.config import Recipe
from train.loop import build_accelerator

ROOT = Path(__file__).parents[2]


def command(folder, stage, output, *settings):
    """Run a stage in two processes; what it said."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run += ["-m", "tests.train.tiny_stage", stage, f"{folder}/recipe.yaml"]
    run += [f"output={folder}/{output}", "steps=4", "save_every=2", "keep=5", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharding")
    tiny_stage.prepare(folder)
    (folder / "dev").mkdir()
    tiny_stage.prepare(folder / "dev", names="d")
    return folder


def figures(said, what):
    return [
        float(line.partition(f"{what} ")[2].split(",")[0])
        for line in said.splitlines()
        if line.startswith("step ") and f"{what} " in line
    ]


def same_movement(folder, whole, cut):
    """From the second step to the fourth, each tensor goes where it goes when it is not cut."""
    states = {
        (run, step): load_file(
            folder / run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
        )
        for run in (whole, cut)
        for step in (2, 4)
    }
    moved = 0
    for name, value in states[whole, 4].items():
        expected = value - states[whole, 2][name]
        found = states[cut, 4][name] - states[cut, 2][name]
        # Attention does not feel a bias of its keys: Adam moves it by noise.
        if expected.norm() > 1e-6 and not name.endswith("key.bias"):
            assert (found - expected).norm() < 0.1 * expected.norm(), name
            moved += 1
    assert moved > 40


def test_stage_1_cut_is_stage_1_whole(folder):
    dev = f"dev_data={folder}/dev/photos.tar"
    whole = command(folder, "stage1", "whole", dev)
    cut = command(folder, "stage1", "cut", dev, "shard=true")
    for name in ("itc", "itm", "itg", "itm_hard", "temperature"):
        assert figures(cut, name) == pytest.approx(figures(whole, name), rel=2e-3)
        assert len(figures(cut, name)) == (5 if name.startswith("it") and name != "itm_hard" else 1)
    same_movement(folder, "whole", "cut")
    assert (
        read_tensors(folder / "cut" / "model").keys()
        == read_tensors(folder / "whole" / "model").keys()
    )
    # Both kinds of state hold whole tensors, and either goes on from the other's.
    states = [folder / run / "checkpoints" / "step-00000002" for run in ("whole", "cut")]
    for kind in ("model", "optimizer"):
        one, other = (load_file(state / f"{kind}.safetensors") for state in states)
        assert {n: v.shape for n, v in one.items()} == {n: v.shape for n, v in other.items()}
    shutil.copytree(states[1], folder / "later" / "checkpoints" / "step-00000002")
    command(folder, "stage1", "later", dev, "shard=true")
    one, other = (
        load_file(folder / run / "checkpoints" / "step-00000004" / "model.safetensors")
        for run in ("cut", "later")
    )
    assert all(other[name].equal(value) for name, value in one.items())


@pytest.mark.parametrize("way", ["shard=false", "shard=true"])
def test_two_processes_learn_fewer_objectives(folder, way):
    """No gradient reaches the head that is left out, and nobody waits for one."""
    run = f"fewer-{way}"
    said = command(folder, "stage1", run, way, "objectives=[itc, itg]", "average_last=2")
    assert len(figures(said, "itc")) == len(figures(said, "itg")) == 4
    assert figures(said, "itm") == []
    states = folder / run / "checkpoints"
    before, state = (load_file(states / f"step-0000000{n}" / "model.safetensors") for n in (2, 4))
    made = read_tensors(folder / run / "model")
    for name in ("qformer.query_tokens", "text_projection.weight"):
        assert not before[name].equal(state[name])
        expected = ((before[name] + state[name]) / 2).to(made[name].dtype)
        torch.testing.assert_close(made[name], expected, rtol=1e-3, atol=1e-5)
    assert "lm_bias" in state and not any(name.startswith("itm_head") for name in state)


def test_stage_2_cuts_the_language_model_too(folder):
    settings = [
        "preset=tiny", f"start={folder}/start", "token_keep=1", "prompts=[describe this photo]",
        f"dev_data={folder}/dev/photos.tar", "accumulate=1",
    ]  # fmt: skip
    whole = command(folder, "stage2", "whole2", *settings)
    cut = command(folder, "stage2", "cut2", *settings, "shard=true")
    assert figures(cut, "lm") == pytest.approx(figures(whole, "lm"), rel=2e-3)
    assert len(figures(cut, "lm")) == 5
    same_movement(folder, "whole2", "cut2")
    saved = read_tensors(folder / "cut2" / "model")
    assert saved.keys() == read_tensors(folder / "whole2" / "model").keys()
    assert not any("language" in name for name in saved)


def test_one_process_has_nobody_to_share_with(tmp_path):
    recipe = Recipe("x", "x", output=str(tmp_path), precision="no", shard=True)
    with pytest.raises(UserError, match="shard: true needs several processes"):
        build_accelerator(recipe)


def test_a_trained_vision_transformer_is_cut_by_layers(tmp_path):
    """Fine-tuning with a vision transformer, watched and saved; the keys' bias stays."""
    whole, cut = (
        finetune(tmp_path, name, *settings) for name, settings in (("a", []), ("b", ["shard=true"]))
    )
    assert figures(cut, "lm") == pytest.approx(figures(whole, "lm"), rel=2e-3)
    same_movement(tmp_path, "a", "b")
    state = load_file(tmp_path / "b" / "checkpoints" / "step-00000004" / "model.safetensors")
    start = read_tensors(tmp_path / "opt")
    for layer in range(3):
        own = state[f"prompt.image_reader.encoder.model.encoder.layers.{layer}.self_attn.qkv.bias"]
        theirs = start[f"vision_model.encoder.layers.{layer}.self_attn.qkv.bias"]
        assert own[48:96].equal(theirs[48:96]) and not own[:48].equal(theirs[:48])


def finetune(folder, output, *settings):
    """Fine-tune for captions in two processes; what it said."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run += ["-m", "tests.train.tiny_finetune", str(folder), f"output={folder}/{output}"]
    run += ["steps=4", "save_every=2", "validate_every=2", "keep=5", "log_every=1", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
