"""LAVIS files: laid out here by hand from a model of ours, and read back."""

import os
import pickle

import pytest
import torch
from transformers import Blip2VisionConfig, Blip2VisionModel

from blip2.checkpoint_files import CheckpointError
from blip2.config import Blip2Config, QFormerConfig
from blip2.lavis import LavisFile
from blip2.representation import Representation
from blip2.vision_transformers import EvaViT
from blip2.visual_prompt import VisualPrompt
from tests.parity.published import randomise

QFORMER = QFormerConfig(
    num_queries=6,
    hidden_size=128,
    num_layers=4,
    num_heads=2,
    intermediate_size=96,
    encoder_width=88,
    vocab_size=50,
    max_positions=20,
)
STAGE1 = Blip2Config(stage=1, embed_dim=16, qformer=QFORMER)
STAGE2 = Blip2Config(stage=2, language_width=40, qformer=QFORMER)
CPU = torch.device("cpu")


def attention(ours: str, theirs: str) -> dict[str, str]:
    parts = {part: f"self.{part}" for part in ("query", "key", "value")}
    parts |= {"output": "output.dense", "norm": "output.LayerNorm"}
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in parts.items()}


def layout(stage: int, kind: str) -> dict[str, str]:
    """Modules of ours and what LAVIS calls them, written out one by one."""
    names = {
        "image_reader.norm": "ln_vision",
        "qformer.embedding_norm": "Qformer.bert.embeddings.LayerNorm",
    }
    for number in range(4):
        ours, theirs = f"qformer.layers.{number}", f"Qformer.bert.encoder.layer.{number}"
        names |= attention(f"{ours}.attention", f"{theirs}.attention")
        if number % 2 == 0:
            names |= attention(f"{ours}.cross_attention", f"{theirs}.crossattention")
        for branch, suffix in (("query_ffn", "_query"), ("text_ffn", ""))[: 3 - stage]:
            names[f"{ours}.{branch}.inner"] = f"{theirs}.intermediate{suffix}.dense"
            names[f"{ours}.{branch}.output"] = f"{theirs}.output{suffix}.dense"
            names[f"{ours}.{branch}.norm"] = f"{theirs}.output{suffix}.LayerNorm"
    if stage == 2:
        return names | {"projection": f"{kind}_proj"}
    return names | {
        "image_projection": "vision_proj",
        "text_projection": "text_proj",
        "itm_head": "itm_head",
        "lm_transform": "Qformer.cls.predictions.transform.dense",
        "lm_norm": "Qformer.cls.predictions.transform.LayerNorm",
    }


def lay_out(module, stage: int, kind: str = "opt") -> dict[str, torch.Tensor]:
    own = module.state_dict()
    state = {"query_tokens": own["qformer.query_tokens"]}
    for ours, theirs in layout(stage, kind).items():
        state |= {f"{theirs}.{p}": own[f"{ours}.{p}"] for p in ("weight", "bias")}
    if stage == 1:
        embeddings = "Qformer.bert.embeddings"
        words = own["qformer.word_embeddings.weight"]
        state |= {
            "temp": own["temperature"],
            f"{embeddings}.word_embeddings.weight": words,
            f"{embeddings}.position_embeddings.weight": own["qformer.position_embeddings.weight"],
            f"{embeddings}.position_ids": torch.arange(20)[None],
            "Qformer.cls.predictions.bias": own["lm_bias"],
            "Qformer.cls.predictions.decoder.weight": words,
            "Qformer.cls.predictions.decoder.bias": own["lm_bias"],
        }
    return state


def eva() -> EvaViT:
    config = Blip2VisionConfig(
        hidden_size=88, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1,
        image_size=28,
    )  # fmt: skip
    model = Blip2VisionModel(config)
    randomise(model, 3)
    with torch.no_grad():  # there is no bias of keys in LAVIS
        for layer in model.encoder.layers:
            layer.self_attn.qkv.bias[88:176] = 0
    return EvaViT(model).freeze()


def lay_out_eva(encoder: EvaViT) -> dict[str, torch.Tensor]:
    own, top = encoder.model.state_dict(), "visual_encoder"
    state = {
        f"{top}.cls_token": own["embeddings.class_embedding"],
        f"{top}.pos_embed": own["embeddings.position_embedding"],
    }
    for p in ("weight", "bias"):
        state[f"{top}.patch_embed.proj.{p}"] = own[f"embeddings.patch_embedding.{p}"]
        for number in range(2):
            ours, theirs = f"encoder.layers.{number}", f"{top}.blocks.{number}"
            for a, b in (
                ("layer_norm1", "norm1"),
                ("layer_norm2", "norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
                ("self_attn.projection", "attn.proj"),
            ):
                state[f"{theirs}.{b}.{p}"] = own[f"{ours}.{a}.{p}"]
    for number in range(2):
        ours, theirs = f"encoder.layers.{number}.self_attn.qkv", f"{top}.blocks.{number}.attn"
        state[f"{theirs}.qkv.weight"] = own[f"{ours}.weight"]
        state[f"{theirs}.q_bias"] = own[f"{ours}.bias"][:88]
        state[f"{theirs}.v_bias"] = own[f"{ours}.bias"][176:]
    return state


@pytest.mark.parametrize(
    ("kind", "config", "language"),
    [(Representation, STAGE1, ""), (VisualPrompt, STAGE2, "opt"), (VisualPrompt, STAGE2, "t5")],
)
def test_round_trip(kind, config, language, tmp_path):
    module, encoder = kind(config), eva()
    randomise(module, 5)
    state = lay_out(module, config.stage, language) | lay_out_eva(encoder)
    torch.save({"model": state, "epoch": 3}, tmp_path / "official.pth")
    file = LavisFile(tmp_path / "official.pth", config.stage)
    assert file.language == language
    assert file.config.qformer == (
        config.qformer if config.stage == 1 else
        QFormerConfig(**{**vars(config.qformer), "vocab_size": 30523, "max_positions": 512})
    )  # fmt: skip
    assert file.config.image_norm_eps == 1e-5
    again = file.build(kind, CPU).state_dict()
    assert set(again) == set(module.state_dict())
    for name, value in module.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    pixels = torch.randn(2, 3, 28, 28)
    read = file.image_encoder(torch.float32)
    assert read.image_size == 28 and not any(p.requires_grad for p in read.parameters())
    torch.testing.assert_close(read(pixels), encoder(pixels), rtol=0, atol=1e-6)


def test_the_language_model_is_told_by_width(tmp_path):
    for kind, width, source in (("opt", 2560, "facebook/opt-2.7b"), ("t5", 4096,
                                "google/flan-t5-xxl"), ("opt", 40, "")):  # fmt: skip
        config = Blip2Config(stage=2, language_width=width, qformer=QFORMER)
        torch.save({"model": lay_out(VisualPrompt(config), 2, kind)}, tmp_path / "a.pth")
        read = LavisFile(tmp_path / "a.pth", 2).config
        assert (read.language_model, read.language_width) == (source, width)


def test_what_is_missing_or_unknown_is_named(tmp_path):
    state = lay_out(Representation(STAGE1), 1)
    del state["text_proj.bias"]
    state["Qformer.surplus"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError) as caught:
        LavisFile(tmp_path / "bad.pth", 1).build(Representation, CPU)
    assert "text_projection.bias is missing" in str(caught.value)
    assert "Qformer.surplus is unknown" in str(caught.value)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "trap.pth")
    with pytest.raises(CheckpointError, match="can't be read as tensors alone"):
        LavisFile(tmp_path / "trap.pth", 1)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(CheckpointError, match="can't be read as tensors alone"):
        LavisFile(tmp_path / "plain.pth", 2)
    with pytest.raises(CheckpointError, match=r"missing\.pth does not exist; check the path"):
        LavisFile(tmp_path / "missing.pth", 2)
    torch.save({"model": {"weight": torch.zeros(1)}}, "other.pth")
    with pytest.raises(CheckpointError, match="holds no BLIP-2"):
        LavisFile(tmp_path / "other.pth", 2)
    assert not (tmp_path / "sprung").exists()
