"""Decoder-only language models: Llama-style ones and OPT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.language import FrozenLanguageModel, pad, register_language_model
from blip2.prompts import CHATML


class FrozenDecoder(FrozenLanguageModel):
    """A frozen decoder-only language model: soft visual prompt, then text, then the answer."""

    def loss(self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Language-modelling loss on the answers; see :meth:`FrozenLanguageModel.loss`."""
        before = self.embed(self.token_ids(self.form.before_photo))
        rows, labels = [], []
        for photo, prompt, answer in zip(visual, prompts, answers, strict=True):
            asked = self.token_ids(self.prompt(prompt))
            target = [*self.token_ids(answer), self.end_token_id]
            text = self.embed([*asked, *target])
            rows.append(torch.cat([before, photo.to(before.dtype), text]))
            labels.append(
                torch.tensor([-100] * (len(rows[-1]) - len(target)) + target, device=visual.device)
            )
        padded = pad(rows)
        targets = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        hidden = self.model.base_model(**padded, use_cache=False).last_hidden_state  # [B, L, W]
        # The token at t predicts the one at t + 1; only answers reach the vocabulary.
        wanted = targets[:, 1:] != -100
        logits = self.model.get_output_embeddings()(hidden[:, :-1][wanted])  # [A, V]
        return F.cross_entropy(logits.float(), targets[:, 1:][wanted])

    def read_tokens(self, num_queries: int, text: str) -> list[int]:
        """Tokens before the photo, -1 for each of its queries, and those of the text."""
        before = self.token_ids(self.form.before_photo)
        return [*before, *[-1] * num_queries, *self.token_ids(text)]

    def inputs(self, visual: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Left-padded embeddings ``[B, L, W]`` of photo and text, and their mask."""
        before = self.embed(self.token_ids(self.form.before_photo))
        rows = [
            torch.cat([before, photo.to(before.dtype), self.embed(self.token_ids(text))])
            for photo, text in zip(visual, texts, strict=True)
        ]
        return pad(rows, side="left")


@register_language_model("smollm2-135m-instruct")
def smollm2() -> FrozenDecoder:
    """SmolLM2-135M-Instruct, from its package, converted once."""
    from transformers import AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    from blip2.assets import smollm2_dir

    folder = smollm2_dir()
    logging.disable_progress_bar()  # it takes a fifth of a second
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return FrozenDecoder(model, tokenizer, CHATML, end="<|im_end|>")
