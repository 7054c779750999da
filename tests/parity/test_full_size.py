"""The nine published checkpoints at full size, without weights: every key and every shape."""

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Blip2VisionModel,
    OPTConfig,
    T5Config,
)

from blip2.config import PRESETS
from blip2.huggingface import our_config, their_config
from blip2.names import HUGGING_FACE, translations
from blip2.representation import Representation
from blip2.vision_transformers import EvaViT
from blip2.visual_prompt import VisualPrompt

# Published sizes of the frozen language models.
OPT = {
    "opt-2.7b": {"hidden_size": 2560, "ffn_dim": 10240},
    "opt-6.7b": {"hidden_size": 4096, "ffn_dim": 16384},
}
T5 = {
    "flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flan-t5-xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
}
PUBLISHED = ["opt-2.7b", "opt-2.7b-coco", "opt-6.7b", "opt-6.7b-coco", "flan-t5-xl",
             "flan-t5-xl-coco", "flan-t5-xxl", "itm-vit-g", "itm-vit-g-coco"]  # fmt: skip


def published(name: str) -> Blip2Config:
    """Transformers' configuration of a checkpoint, from the sizes of the paper."""
    base = name.removesuffix("-coco")
    text = None
    if base in OPT:
        sizes = {"num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50304}
        width = OPT[base]["hidden_size"]
        text = OPTConfig(**OPT[base], **sizes, word_embed_proj_dim=width)
    elif base in T5:
        sizes = {"num_layers": 24, "d_kv": 64, "vocab_size": 32128}
        text = T5Config(
            **T5[base], **sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False
        )
    itm = base == "itm-vit-g"
    return Blip2Config(
        vision_config=Blip2VisionConfig(image_size=364 if name != base else 224),
        qformer_config=Blip2QFormerConfig(
            vocab_size=30523 if itm else 30522, use_qformer_text_input=itm
        ),
        text_config=text,
    )


def shapes(module: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_and_shape_both_ways(name):
    theirs = published(name)
    stage = 1 if name.startswith("itm") else 2
    with torch.device("meta"):
        if stage == 1:
            whole = Blip2ForImageTextRetrieval(theirs)
        else:
            whole = Blip2ForConditionalGeneration(theirs)
        config = our_config(theirs, stage, name)
        trained = (Representation if stage == 1 else VisualPrompt)(config)
        encoder = EvaViT(Blip2VisionModel(theirs.vision_config))
        language = type(whole.language_model)(theirs.text_config) if stage == 2 else None
    reference = shapes(whole)
    own = trained.state_dict()
    ours = {
        theirs: tuple(own[name].shape) for theirs, name in translations(own, HUGGING_FACE).items()
    }
    ours |= shapes(encoder.model, "vision_model.")
    if language is not None:
        ours |= shapes(language, "language_model.")
    assert ours == reference
    assert len(reference) > 500
    back = their_config(config, theirs.vision_config, theirs.text_config)
    assert our_config(back, stage, name) == config


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("pretrain-vit-g", 186_705_470),
        ("pretrain-opt-2.7b", 107_133_696),
        ("pretrain-opt-6.7b", 108_314_880),
        ("pretrain-flan-t5-xl", 106_739_968),
        ("pretrain-flan-t5-xxl", 108_314_880),
    ],
)
def test_trainable_parameters(preset, parameters):
    config = PRESETS[preset]
    with torch.device("meta"):
        module = (Representation if config.stage == 1 else VisualPrompt)(config)
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_frozen_image_encoder_and_caption_fine_tuning():
    with torch.device("meta"):
        encoder = EvaViT(Blip2VisionModel(Blip2VisionConfig()))
        tuned = EvaViT(Blip2VisionModel(Blip2VisionConfig(image_size=364)))
        prompt = VisualPrompt(PRESETS["pretrain-opt-2.7b"])
    # transformers keeps the bias of the keys, which is always zero, beside those of q and v.
    keys = 39 * 1408
    assert sum(p.numel() for p in encoder.parameters()) - keys == 985_894_528
    counted = sum(p.numel() for part in (tuned, prompt) for p in part.parameters()) - keys
    assert counted == 1_093_619_584
