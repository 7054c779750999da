"""Faults of the official code that are not inherited, one test each.

The first, a layer-wise decay that is computed and not applied, is
`test_finetune.py::test_layer_wise_decay_is_applied`.
"""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed
from PIL import Image
from safetensors.torch import load_file

from blip2 import Blip2, Blip2Retriever
from blip2.config import PRESETS
from blip2.language import LANGUAGE_MODELS
from blip2.vision import IMAGE_ENCODERS
from tests.tiny import STAGE1, STAGE2, Cells, language_model
from tests.train import tiny_stage
from train import stage1, stage2
from train.config import Recipe, read_recipe
from train.data import CaptionedPhotos
from train.loop import train
from train.optim import build_optimizer

CONFIGS = Path(__file__).parents[2] / "train" / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A shard, weights to start from, and both stages of them after three steps."""
    folder = tmp_path_factory.mktemp("faults")
    tiny_stage.prepare(folder)
    IMAGE_ENCODERS["cells"] = Cells
    LANGUAGE_MODELS["tiny"] = language_model
    PRESETS["tiny-itm"] = type(STAGE1)(**{**vars(STAGE1), "image_encoder": "cells"})
    parts = {"image_encoder": "cells", "language_model": "tiny"}
    PRESETS["tiny"] = type(STAGE2)(**{**vars(STAGE2), **parts})
    assert stage1.main([f"{folder}/recipe.yaml", f"output={folder}/one", "steps=3"]) == 0
    assert run_stage2(folder, "two", 3) == 0
    yield folder
    for registry, name in ((IMAGE_ENCODERS, "cells"), (LANGUAGE_MODELS, "tiny"),
                           (PRESETS, "tiny-itm"), (PRESETS, "tiny")):  # fmt: skip
        del registry[name]


def run_stage2(folder, output, steps, *settings):
    arguments = [f"{folder}/recipe.yaml", "preset=tiny", f"start={folder}/one/model"]
    arguments += [f"output={folder}/{output}", f"steps={steps}", "prompts=[describe this photo]"]
    return stage2.main([*arguments, "token_keep=1", *settings])


def test_2_warm_up_goes_on_in_the_second_pass_and_the_cosine_moves_at_each_step(tmp_path, capsys):
    recipe = Recipe(
        "x", "x", output=str(tmp_path), learning_rate=1e-3, final_learning_rate=1e-4,
        warmup_steps=6, precision="no", log_every=1,
    )  # fmt: skip
    model = torch.nn.Linear(2, 1)  # passes of four steps, and a warm-up of six

    def losses_at(model, step, device, part):
        return {"x": model(torch.ones(1, 2)).square().sum()}

    train(recipe, model, build_optimizer(model, recipe), 12, losses_at)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    rates = [float(line.partition(", lr ")[2].split(",")[0]) for line in said]
    assert rates[:6] == pytest.approx([1e-3 * (step + 1) / 6 for step in range(6)], rel=1e-3)
    assert all(a > b for a, b in pairwise(rates[6:])) and len(rates) == 12


def test_3_a_state_without_the_frozen_weights_is_gone_on_from(folder):
    """Stage 2 keeps no tensor of its language model, and goes on to the same weights."""
    assert run_stage2(folder, "whole", 5, "save_every=3") == 0
    states = folder / "whole" / "checkpoints"
    shutil.copytree(states / "step-00000003", folder / "later" / "checkpoints" / "step-00000003")
    tensors = load_file(states / "step-00000003" / "model.safetensors")
    assert len(tensors) > 60 and not any("language" in name for name in tensors)
    assert run_stage2(folder, "later", 5, "save_every=3") == 0
    one, other = (
        load_file(folder / name / "checkpoints" / "step-00000005" / "model.safetensors")
        for name in ("later", "whole")
    )
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    assert any(not one[name].equal(tensors[name]) for name in one)


def test_4_image_ids_may_be_words(folder):
    photos = CaptionedPhotos(f"{folder}/photos.tar", "cells", folder / "cache")
    assert all(not name.isdigit() for name in photos.image_ids)
    batch = photos.batch(torch.tensor([3, 4, 3]).numpy())
    assert batch.image_ids[0] == batch.image_ids[2] != batch.image_ids[1]


def test_5_one_process_needs_no_launcher(folder):
    """The fixture has trained both stages in this process."""
    assert not torch.distributed.is_initialized()
    assert (folder / "one" / "model" / "config.json").exists()
    assert (folder / "two" / "model" / "config.json").exists()


def test_6_a_batch_of_one_has_its_dimension(folder):
    photo = Image.new("RGB", (24, 24), (90, 60, 30))
    retriever = Blip2Retriever.from_pretrained(f"{folder}/one/model", device="cpu")
    assert retriever.embed_images([photo]).shape == (1, 4, 16)
    assert retriever.embed_texts(["a dog"]).shape == (1, 16)
    assert retriever.match([photo], ["a dog"]).shape == (1,)
    model = Blip2.from_pretrained(f"{folder}/two/model", device="cpu")
    assert model.visual_prompt([photo]).shape == (1, 4, 32)
    assert len(model.generate([photo], "describe this photo", max_new_tokens=2)) == 1


def test_7_no_recipe_is_watched_on_the_photos_that_it_is_judged_by():
    for path in CONFIGS.glob("*.yaml"):
        recipe = read_recipe(path)
        assert "test" not in recipe.dev_data and recipe.dev_data != recipe.data, path.name
        assert bool(recipe.dev_data) == (not path.stem.startswith("pretrain")), path.name


def test_8_questions_have_their_recipes():
    found = sorted(CONFIGS.glob("finetune_vqa_*.yaml"))
    assert len(found) == 3
    for path in found:
        recipe = read_recipe(path)
        assert recipe.task == "vqa" and recipe.text_start and "{}" in recipe.question_prompt
