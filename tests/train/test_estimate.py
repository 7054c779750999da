"""A dry run says what a recipe would do, and its sizes are those of the real architectures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from blip2.vision import build_architecture
from tests.parity.test_full_size import OPT, T5
from train import finetune, stage1, stage2
from train.config import model_config, read_recipe
from train.estimate import ENCODERS, LANGUAGE_MODELS, describe, memory, operations

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
PAPER = {
    "pretrain_vit_l_stage1": (2320, 250_000, 1e-5, 183_165_758),
    "pretrain_vit_g_stage1": (1680, 250_000, 1e-5, 186_705_470),
    "pretrain_opt_2_7b_stage2": (1920, 80_000, 5e-5, 107_133_696),
    "pretrain_opt_6_7b_stage2": (1920, 80_000, 5e-5, 108_314_880),
    "pretrain_flan_t5_xl_stage2": (1520, 80_000, 5e-5, 106_739_968),
    "pretrain_flan_t5_xxl_stage2": (1520, 80_000, 5e-5, 108_314_880),
}


# Of fine-tuning: batch, rate, second beta, photos, layer-wise decay, parameters.
TUNED = {
    "caption_opt_2_7b": (256, 1e-5, 0.999, 364, 1, 1_093_619_584),
    "caption_opt_6_7b": (256, 1e-5, 0.999, 364, 0.95, 1_094_800_768),
    "caption_flan_t5_xl": (256, 1e-5, 0.999, 364, 1, 1_093_225_856),
    "vqa_opt_2_7b": (128, 1e-5, 0.999, 490, 0.95, 1_174_915_072),
    "vqa_opt_6_7b": (128, 1e-5, 0.999, 490, 0.9, 1_176_096_256),
    "vqa_flan_t5_xl": (128, 1e-5, 0.999, 490, 0.95, 1_174_521_344),
    "retrieval_vit_l": (224, 5e-6, 0.98, 364, 1, 474_177_342),
    "retrieval_vit_g": (224, 1e-5, 0.999, 364, 0.95, 1_173_191_358),
}


def command_of(name):
    return "finetune" if name.startswith("finetune") else re.search(r"stage\d", name)[0]


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_recipe_can_be_tried_dry_and_says_its_memory(name, capsys):
    command = {"stage1": stage1, "stage2": stage2, "finetune": finetune}[command_of(name)]
    path = CONFIGS / f"{name}.yaml"
    processes = 1 if name.startswith("mini") else 16
    assert command.main([str(path), "--dry-run", "--processes", str(processes)]) == 0
    said = capsys.readouterr().out
    assert "parameter groups:" in said
    memory = re.search(r"memory a process, estimated: ([\d.]+ GB)", said)[1]
    each = re.search(r"compute, estimated: ([\d.]+ TFLOP) a pair", said)[1]
    if processes > 1:
        assert f"# Memory: {memory} a process" in path.read_text()
        assert f"# Compute: {each} a pair, " in path.read_text()


def test_what_is_not_counted_is_said():
    recipe = read_recipe(CONFIGS / "mini_stage2.yaml")
    assert "one text a photo" not in describe(recipe, "stage2")
    several = replace(recipe, turns=4, samples=5)
    assert "one text a photo is counted below; turns, samples add" in describe(several, "stage2")


@pytest.mark.parametrize("name", TUNED)
def test_the_papers_fine_tuning(name):
    """Appendix of the paper, tables 7 to 9."""
    size, rate, beta, side, decay, parameters = TUNED[name]
    recipe = read_recipe(CONFIGS / f"finetune_{name}.yaml")
    assert (recipe.batch_size, recipe.learning_rate, recipe.betas[1]) == (size, rate, beta)
    assert (recipe.image_size, recipe.layer_decay, recipe.warmup_steps) == (side, decay, 1000)
    assert recipe.train_encoder and recipe.task == name.partition("_")[0]
    assert recipe.text_start == ("Salesforce/blip2-itm-vit-g" if "vqa" in name else "")
    assert "test" not in recipe.dev_data and "val" in recipe.dev_data  # the official code's fault
    said = describe(recipe, "finetune", processes=16)
    layers = 23 if "vit_l" in name else 39
    assert f"{parameters:,} altogether" in said
    for power in {1, layers, layers + 1}:
        assert f"learning rate {rate * decay**power:g}, " in said


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes(name):
    """Section 3.4 of the paper: batch, steps, rates, AdamW."""
    size, steps, last, parameters = PAPER[name]
    recipe = read_recipe(CONFIGS / f"{name}.yaml")
    assert (recipe.batch_size, recipe.steps, recipe.final_learning_rate) == (size, steps, last)
    assert (recipe.learning_rate, recipe.warmup_steps) == (1e-4, 2000)
    assert (recipe.betas, recipe.weight_decay) == ((0.9, 0.98), 0.05)
    assert recipe.precision == ("bf16" if "t5" in name else "fp16")
    assert recipe.split_captions == ("t5" in name)
    said = describe(recipe, command_of(name), processes=8)
    assert f"{parameters:,} altogether" in said
    assert f"batch: {size} pairs = 8 processes x 1 turns x {size // 8}" in said
    assert f"step {steps:>9,}: {last:.3g}" in said and "step     2,001: 0.0001" in said


def test_parts_need_less_memory_and_a_cache_no_encoder():
    recipe = read_recipe(CONFIGS / "pretrain_vit_g_stage1.yaml")
    config = model_config(recipe.preset, 1)
    one, half = memory(config, recipe, 100), memory(config, recipe, 50)
    assert one.activations == pytest.approx(2 * half.activations, rel=1e-6)
    assert one.trained == half.trained == 186_705_470 * 16
    cached = read_recipe(CONFIGS / "pretrain_vit_g_stage1.yaml", ["cache=features"])
    assert one.frozen == 985_894_528 * 2 and memory(config, cached, 100).frozen == 0


def test_what_is_left_out_of_stage_1_costs_nothing():
    path = CONFIGS / "pretrain_vit_g_stage1.yaml"
    config = model_config("pretrain-vit-g", 1)
    recipes = {
        name: read_recipe(path, [f"objectives=[{name}]"])
        for name in ("itc,itm,itg", "itc,itm", "itc")
    }
    whole, no_itg, alone = (memory(config, recipe, 100) for recipe in recipes.values())
    width, words = config.qformer.hidden_size, config.qformer.vocab_size
    head = width * width + width + 2 * width + words  # the transform, its norm, the bias
    assert whole.trained - no_itg.trained == 16 * head
    assert no_itg.trained - alone.trained == 16 * (2 * width + 2)
    assert alone.activations < no_itg.activations / 2 < whole.activations / 2
    costs = [operations(config, recipe) for recipe in recipes.values()]
    assert costs[2] < costs[1] < costs[0]


def test_checkpointing_needs_less():
    path = CONFIGS / "pretrain_vit_g_stage1.yaml"
    config = model_config("pretrain-vit-g", 1)
    plain, again = (
        memory(config, read_recipe(path, [f"checkpointing={value}"]), 100).activations
        for value in ("false", "true")
    )
    assert again < 0.4 * plain


def test_a_batch_that_cannot_be_cut_and_a_part_of_unknown_size(tmp_path, capsys):
    path = str(CONFIGS / "pretrain_vit_g_stage1.yaml")
    assert stage1.main([path, "--dry-run", "--processes", "32"]) == 2
    assert "1680 can't be cut in 32 equal parts" in capsys.readouterr().err
    config = replace(model_config("pretrain-opt-2.7b", 2), language_model="me/mine")
    config.write(tmp_path / "config.json")
    path = str(CONFIGS / "pretrain_opt_2_7b_stage2.yaml")
    assert stage2.main([path, "--dry-run", f"preset={tmp_path}"]) == 0
    assert "not counted, its size is not known here: me/mine" in capsys.readouterr().out


def test_sizes_are_those_of_the_architectures():
    def parameters(model):
        return sum(parameter.numel() for parameter in model.parameters())

    with torch.device("meta"):
        for name, sizes in OPT.items():
            width = sizes["hidden_size"]
            config = OPTConfig(
                **sizes, num_hidden_layers=32, num_attention_heads=32, word_embed_proj_dim=width
            )
            found = parameters(OPTForCausalLM(config))
            assert LANGUAGE_MODELS[f"facebook/{name}"] == (found, 32, 32)
        for name, sizes in T5.items():
            config = T5Config(
                **sizes, num_layers=24, d_kv=64, vocab_size=32128,
                feed_forward_proj="gated-gelu", tie_word_embeddings=False,
            )  # fmt: skip
            # A head of its own, which transformers ties until a checkpoint brings one.
            found = parameters(T5ForConditionalGeneration(config)) + 32128 * sizes["d_model"]
            assert LANGUAGE_MODELS[f"google/{name}"] == (found, 48, sizes["num_heads"])
        config = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16, patch_size=14,
        )  # fmt: skip
        assert ENCODERS["clip-vit-l"] == parameters(CLIPVisionModel(config))
    efficientnets = [name for name in ENCODERS if name.startswith("efficientnet")]
    assert len(efficientnets) == 5
    for name in efficientnets:
        assert ENCODERS[name] == parameters(build_architecture(name))
