"""Tiny random checkpoints as transformers writes them, in each published kind."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

WORDS = "a photo of the dog cat runs sits in on grass snow red blue what is this question answer"
WORDS = [*WORDS.split(), "Question", "Answer", "Short", "answer", ":", "?", "."]
SPECIAL = {
    "opt": ["<s>", "<pad>", "</s>", "<unk>"],
    "t5": ["<pad>", "</s>", "<unk>"],
    "itm": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
}
VISION = Blip2VisionConfig(
    hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=56
)
VOCABULARY = 64
IMAGE = 60  # index of the <image> placeholder, which only transformers needs


def randomise(model: nn.Module, seed: int) -> None:
    """Make every tensor tell: many start at zero, at one, or at a deviation of 1e-10."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            nn.init.normal_(value, std=0.3)
            if name.endswith("weight") and ("norm" in name.lower()):
                value.add_(1)


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Whole words, with the special tokens of the kind."""
    special = SPECIAL[kind]
    names = list(dict.fromkeys([*special, *WORDS]))
    names += [f"word{number}" for number in range(VOCABULARY - 1 - len(names))]  # 1 for "\n"
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token=special[-1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "itm":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=special[0] if kind != "opt" else "<pad>",
        eos_token="</s>" if kind != "itm" else None,
        additional_special_tokens=special,
    )
    wrapped.add_tokens(["\n"])
    return wrapped


def configuration(kind: str) -> Blip2Config:
    """A tiny model of the kind."""
    qformer = Blip2QFormerConfig(
        vocab_size=VOCABULARY + (kind == "itm"),  # as published: only stage 1 knows [DEC]
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        use_qformer_text_input=kind == "itm",
    )
    text = {
        "opt": OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=40,
            word_embed_proj_dim=40,
            ffn_dim=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
        ),
        "t5": T5Config(
            vocab_size=VOCABULARY,
            d_model=40,
            d_kv=10,
            d_ff=80,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        ),
        "itm": None,
    }[kind]
    return Blip2Config(
        vision_config=VISION,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=6,
        image_text_hidden_size=16,
        image_token_index=None if kind == "itm" else IMAGE,
    )


def write(kind: str, folder: Path, seed: int = 0, **saving) -> nn.Module:
    """Write a checkpoint with transformers and return the model that it holds."""
    cls = Blip2ForImageTextRetrieval if kind == "itm" else Blip2ForConditionalGeneration
    model = cls(configuration(kind)).eval()
    randomise(model, seed)
    model.save_pretrained(folder, **saving)
    tokenizer(kind).save_pretrained(folder)
    return model
