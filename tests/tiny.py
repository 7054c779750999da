"""Models small enough for a test, built of the same classes as the real ones."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from blip2.config import Blip2Config, QFormerConfig
from blip2.decoder import FrozenDecoder
from blip2.prompts import CHATML
from blip2.vision import ImageEncoder
from blip2.visual_prompt import Stage2, VisualPrompt

WORDS = (
    "a dog cat boy girl man runs sits jumps plays on in the grass snow water street red blue "
    "green ball bike what is this photo describe"
)
WORDS = WORDS.split()
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]

QFORMER = QFormerConfig(
    num_queries=4,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    intermediate_size=64,
    encoder_width=24,
    vocab_size=len(SPECIAL) + len(WORDS) + 1,
    max_positions=16,
    dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.2,
)
STAGE1 = Blip2Config(name="tiny", image_positions=9, embed_dim=16, qformer=QFORMER)
STAGE2 = Blip2Config(name="tiny", stage=2, image_positions=9, language_width=32, qformer=QFORMER)


class Cells(ImageEncoder):
    """Mean colours of a grid of nine, spread over 24 channels."""

    def __init__(self):
        super().__init__(24, 9, 24, mean=(127.0,) * 3, std=(128.0,) * 3)
        torch.manual_seed(3)
        self.mix = nn.Linear(3, 24)

    def features(self, pixels):
        return self.mix(nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2))


def text_tokenizer() -> Tokenizer:
    """BERT-like word pieces over the few words above."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def language_model(seed: int = 0) -> FrozenDecoder:
    """A random Llama of two layers with a word tokenizer and the chat prompt of mini."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    marks = ["<|im_start|>", "<|im_end|>", "[UNK]"]
    names = [*marks, *WORDS, "user", "assistant", ".", "?"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=marks[:2],
        unk_token="[UNK]",
        eos_token="<|im_end|>",
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(names),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    return FrozenDecoder(model, fast, CHATML, end="<|im_end|>")


def stage2(seed: int = 0) -> Stage2:
    """Visual prompt and language model."""
    torch.manual_seed(seed)
    return Stage2(VisualPrompt(STAGE2), language_model())


def features(batch: int, seed: int = 0) -> torch.Tensor:
    """Random image features ``[B, 9, 24]``."""
    return torch.randn(batch, 9, 24, generator=torch.Generator().manual_seed(seed))


def told(asked, said):
    """One text of each photo, as stage 2 learns it."""
    return [[[pair]] for pair in zip(asked, said, strict=True)]
