"""The loop: a run that is killed and resumed computes what an uninterrupted one computes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from blip2.errors import UserError
from blip2.vision import IMAGE_ENCODERS
from tests.tiny import Cells
from tests.train import tiny_stage
from tests.train.tiny_run import STEPS, run
from train.config import Recipe, read_recipe
from train.data import CaptionedPhotos
from train.loop import NotANumber, build_accelerator, train
from train.optim import build_optimizer, learning_rate_factor

ROOT = Path(__file__).parents[2]


def losses(record: Path) -> dict[int, str]:
    """The losses last computed at each step."""
    lines = [line.split(" ", 1) for line in record.read_text().splitlines()]
    return {int(step): values for step, values in lines}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    # In a process like those that are killed: sums depend on the number of threads.
    process = start(folder, pause=0)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return folder


def start(folder: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.train.tiny_run", str(folder / "run")]
    command += [str(folder / "losses"), str(pause)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder: Path, step: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (folder / "losses").exists() and step in losses(folder / "losses"):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def newest(folder: Path) -> Path:
    return sorted((folder / "run" / "checkpoints").glob("step-????????"))[-1]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_gives_the_same_losses_and_weights(tmp_path, uninterrupted, kill):
    for step in (7, 16):
        process = start(tmp_path, pause=0.15)
        wait_for_step(tmp_path, step)
        process.send_signal(kill)
        _, said = process.communicate()
        if kill == signal.SIGTERM:
            assert process.returncode != 0 and "the same command continues" in said
    process = start(tmp_path, pause=0)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert losses(tmp_path / "losses") == losses(uninterrupted / "losses")
    assert len(losses(tmp_path / "losses")) == STEPS
    for name in ("model", "optimizer"):
        one = load_file(newest(tmp_path) / f"{name}.safetensors")
        other = load_file(newest(uninterrupted) / f"{name}.safetensors")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_only_the_newest_states_are_kept(uninterrupted):
    names = sorted(path.name for path in (uninterrupted / "run" / "checkpoints").iterdir())
    assert names == ["step-00000020", "step-00000024"]


def test_the_mean_of_the_last_states(tmp_path, capsys):
    """Of 24 steps saved every five: after 15, 20 and 24; validated as it comes out."""
    model = torch.nn.Linear(3, 1)

    def losses_at(model, step, device, part):
        return {"itc": model(torch.full((1, 3), math.sin(step))).square().sum()}

    def validate(model, device):
        return {"sum": float(model.weight.sum())}

    settings = dict(output=str(tmp_path), precision="no", batch_size=4, learning_rate=0.1,
                    save_every=5, keep=4, average_last=3)  # fmt: skip
    recipe = Recipe("x", "x", **settings)
    optimizer = build_optimizer(model, recipe)
    trained = train(recipe, model, optimizer, 24, losses_at, validate)
    states = sorted((tmp_path / "checkpoints").iterdir())
    assert [state.name for state in states] == [f"step-{n:08d}" for n in (10, 15, 20, 24)]
    weights = [load_file(state / "model.safetensors")["weight"] for state in states[1:]]
    assert float((weights[0] - weights[2]).abs().max()) > 1e-3
    torch.testing.assert_close(trained.weight.detach(), torch.stack(weights).mean(0))
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"the mean of 3 states: sum {float(trained.weight.detach().sum()):.4g}"
    # A run that has ended ends again, with another number of states.
    recipe = Recipe("x", "x", **settings | {"average_last": 2})
    again = train(recipe, torch.nn.Linear(3, 1), optimizer, 24, losses_at)
    torch.testing.assert_close(again.weight.detach(), torch.stack(weights[1:]).mean(0))
    with pytest.raises(UserError, match="saves 5 states and average_last is 6"):
        train(Recipe("x", "x", **settings | {"average_last": 6}), model, optimizer, 24, losses_at)
    (states[2] / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="step-00000020 is damaged"):
        train(recipe, model, optimizer, 24, losses_at)
    shutil.rmtree(states[2]), shutil.rmtree(states[0])
    with pytest.raises(UserError, match="holds 2 states and average_last is 3"):
        train(Recipe("x", "x", **settings), model, optimizer, 24, losses_at)


def test_the_mean_of_a_run_that_was_stopped_is_that_of_one_that_was_not(tmp_path):
    """What a signal has had saved in between is gone on from, and is no part of the mean."""

    def run_to_the_end(name, stop_at=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)

        def losses_at(model, step, device, part):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"itc": model(torch.full((1, 3), math.sin(step))).square().sum()}

        recipe = Recipe("x", "x", output=str(tmp_path / name), precision="no", batch_size=4,
                        learning_rate=0.1, save_every=5, keep=3, average_last=3)  # fmt: skip
        return train(recipe, model, build_optimizer(model, recipe), 24, losses_at)

    whole = run_to_the_end("whole")
    for stop_at in (11, 17, 21):
        with pytest.raises(UserError, match=f"Stopped after step {stop_at + 1} of 24"):
            run_to_the_end("stopped", stop_at)
    assert (tmp_path / "stopped" / "checkpoints" / "step-00000022").is_dir()
    resumed = run_to_the_end("stopped")
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=0)
    names = [path.name for path in sorted((tmp_path / "stopped" / "checkpoints").iterdir())]
    assert names == [f"step-{step:08d}" for step in (15, 20, 22, 24)]


def test_a_run_of_another_recipe_is_not_continued(uninterrupted):
    with pytest.raises(UserError, match=r"another recipe \(differs in weight_decay\)"):
        run(str(uninterrupted / "run"), uninterrupted / "other", weight_decay=0.5)


def test_a_loss_that_is_no_number_names_step_and_objective_and_keeps_the_batch(tmp_path):
    tiny_stage.prepare(tmp_path)
    IMAGE_ENCODERS["cells"] = Cells
    try:
        photos = CaptionedPhotos(f"{tmp_path}/photos.tar", "cells", tmp_path / "cache")
    finally:
        del IMAGE_ENCODERS["cells"]
    model = torch.nn.Linear(2, 1)
    recipe = Recipe(preset="x", data="x", output=str(tmp_path), precision="no", batch_size=4)

    def losses_at(model, step, device, part):
        value = model(torch.ones(1, 2)).sum()
        return {"itc": value * 0, "itm": value * (float("inf") if step == 3 else 1)}

    optimizer = build_optimizer(model, recipe)
    with pytest.raises(NotANumber, match=r"The itm loss is -?(inf|nan) at step 3 \(its photos"):
        train(recipe, model, optimizer, 5, losses_at, photos=photos)
    kept = json.loads((tmp_path / "not-a-number-step-3-part-0.json").read_text())
    batch = photos.batch_at(3, 4)
    assert [pair["caption"] for pair in kept["pairs"]] == batch.captions
    ids = [zlib.crc32(pair["image_id"].encode()) for pair in kept["pairs"]]
    assert ids == batch.image_ids.tolist() and kept["step"] == 3


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps its precision for all of a process."""
    yield
    AcceleratorState._reset_state()


def half_precision(recipe):
    """The accelerator of fp16, which accelerate itself refuses on a CPU."""
    AcceleratorState._reset_state()
    accelerator = build_accelerator(recipe)
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1000)
    return accelerator


def test_fp16_leaves_overflowing_steps_out_and_goes_on_with_its_scale(
    tmp_path, monkeypatch, fresh_accelerate
):
    """The scaler starts far too high; each overflow halves it, and a state holds what it is."""
    monkeypatch.setattr("train.loop.build_accelerator", half_precision)
    seen = []

    def losses_at(model, step, device, part):
        out = model(torch.ones(4, 3) * (1 + step % 3))
        seen.append((out.dtype, model.weight.detach().clone()))
        return {"x": (out - 1).square().mean()}

    def run(output, steps=40):
        recipe = Recipe(
            "x", "x", output=str(output), precision="no", save_every=20, keep=9, clip_norm=1,
            warmup_steps=0, learning_rate=1e-2, final_learning_rate=1e-2,
        )  # fmt: skip
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        return train(recipe, model, build_optimizer(model, recipe), steps, losses_at)

    whole = run(tmp_path / "whole")
    weights = [weight for _, weight in seen]
    left_out = sum(one.equal(other) for one, other in pairwise(weights))
    assert 3 < left_out < 20 and weights[0].equal(weights[3]) and not weights[-1].equal(weights[0])
    first = tmp_path / "whole" / "checkpoints" / "step-00000020"
    scale = json.loads((first / "state.json").read_text())["scaler"]["scale"]
    assert scale == 2.0 ** (24 - left_out)
    shutil.copytree(first, tmp_path / "later" / "checkpoints" / first.name)
    later = run(tmp_path / "later")
    assert later.weight.equal(whole.weight) and later.bias.equal(whole.bias)


def test_a_compiled_model_computes_the_same(tmp_path):
    tiny_stage.prepare(tmp_path)

    def run(stage, output, *settings):
        command = [sys.executable, "-m", "tests.train.tiny_stage", stage, f"{tmp_path}/recipe.yaml"]
        command += [f"output={tmp_path}/{output}", "steps=1", *settings]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    found = []
    for backend in ("", "aot_eager"):  # inductor needs a compiler of C++
        settings = ["preset=tiny", f"start={tmp_path}/start", "prompts=[what]", "token_keep=1"]
        done = run("stage2", backend or "plain", *settings, f"compile={backend}")
        assert done.returncode == 0, done.stderr[-2000:]
        line = next(line for line in done.stdout.splitlines() if line.startswith("step "))
        state = tmp_path / (backend or "plain") / "checkpoints" / "step-00000001"
        found.append((line.partition(", lr")[0], load_file(state / "model.safetensors")))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, msg=name)
    done = run("stage1", "both", "compile=inductor", "accumulate=2")
    assert done.returncode == 2 and "can't be compiled and accumulate" in done.stderr


def test_schedule_warms_up_every_step_and_ends_at_the_final_rate():
    recipe = Recipe("x", "x", learning_rate=1e-4, final_learning_rate=1e-5, warmup_steps=10)
    factors = [learning_rate_factor(step, 110, recipe) for step in range(111)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    middle = 0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2
    assert factors[60] == pytest.approx(middle)
    assert factors[110] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(factors[10:]))


def test_groups_by_decay_and_start():
    from blip2.representation import Representation
    from tests.tiny import STAGE1
    from train.stage1 import FRESH

    model = Representation(STAGE1)
    recipe = Recipe("x", "x", learning_rate=1e-4, fresh_learning_rate=3e-4, weight_decay=0.05)
    rates = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in build_optimizer(model, recipe, FRESH).param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert len(rates) == len(names)
    assert rates["qformer.layers.0.cross_attention.query.weight"] == (3e-4, 0.05)
    assert rates["qformer.layers.0.attention.query.weight"] == (1e-4, 0.05)
    assert rates["qformer.layers.0.attention.query.bias"] == (1e-4, 0.0)
    assert rates["itm_head.bias"] == (3e-4, 0.0)
    assert rates["qformer.query_tokens"] == (3e-4, 0.05)


def test_recipe_overrides_and_their_errors(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("preset: mini-itm\ndata: a.tar\nlearning_rate: 2e-4\nbetas: [0.9, 0.98]\n")
    recipe = read_recipe(path, ["epochs=3", "output=runs/x", "start=", "precision=no"])
    assert recipe.precision == "no"
    assert (recipe.epochs, recipe.output, recipe.start) == (3, "runs/x", "")
    assert recipe.learning_rate == 2e-4 and recipe.betas == (0.9, 0.98)
    for override, said in {
        "epoch=3": "unknown setting epoch",
        "epochs": "no '='",
        "epochs=many": "epochs can't be 'many'",
        "data=": "lacks data",
        "precision=int8": "precision must be one of bf16, fp16, no",
    }.items():
        with pytest.raises(UserError, match=said):
            read_recipe(path, [override])
    with pytest.raises(UserError, match=r"can't be read \(No such file"):
        read_recipe(tmp_path / "absent.yaml")
