"""Decoder-only language models: Llama-style ones and OPT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from blip2.language import FrozenLanguageModel, Told, pad, register_language_model
from blip2.prompts import CHATML, Turns
from blip2.token_tree import TokenTree, tree_inputs

ROWS = 256  # states whose logits are in memory at once


class FrozenDecoder(FrozenLanguageModel):
    """A frozen decoder-only language model: soft visual prompt, then text, then the answer."""

    def log_likelihoods(self, visual: Tensor, told: Told) -> Tensor:
        """See :meth:`FrozenLanguageModel.log_likelihoods`; what texts share is read once."""
        before = self.embed(self.token_ids(self.form.before_photo))
        trees = [TokenTree.grow([self._read_and_said(turns) for turns in texts]) for texts in told]
        root = len(before) + visual.shape[1]
        rows = [
            torch.cat([before, photo.to(before.dtype), self.embed(tree.tokens)])
            for photo, tree in zip(visual, trees, strict=True)
        ]
        inputs = pad(rows)
        if any(len(texts) > 1 for texts in told):  # a lone text is a plain row
            mask, positions = tree_inputs(trees, root, before.dtype)
            inputs |= {"attention_mask": mask, "position_ids": positions}
        hidden = self.model.base_model(
            **{name: value.to(visual.device) for name, value in inputs.items()}, use_cache=False
        ).last_hidden_state  # [B, L, W]
        # Only what predicts a token of an answer reaches the vocabulary.
        steps = [
            (number, root + at, token, text)
            for text, (number, steps) in enumerate(
                (number, steps) for number, tree in enumerate(trees) for steps in tree.steps
            )
            for at, token in steps
        ]
        photo, at, token, text = torch.tensor(steps, device=visual.device).T
        each = self._token_likelihoods(hidden[photo, at], token)
        return torch.zeros(sum(map(len, told)), device=visual.device).index_add(0, text, each)

    def _token_likelihoods(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of the token that follows each state; ``[A, W]``, ``[A]`` -> ``[A]``.

        Logits of a batch fill gigabytes, and touching so much memory takes longer than to compute
        them again in the backward pass, some rows at a time.
        """
        head = self.model.get_output_embeddings()

        def some(states: Tensor, tokens: Tensor) -> Tensor:
            return head(states).float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]

        parts = zip(states.split(ROWS), tokens.split(ROWS), strict=True)
        return torch.cat([checkpoint(some, *part, use_reentrant=False) for part in parts])

    def _read_and_said(self, turns: Turns) -> tuple[list[int], list[int]]:
        """Tokens after the photo up to the last answer, and those of that answer."""
        *past, (asked, answered) = turns
        return self.token_ids(self.prompt(asked, past)), [
            *self.token_ids(answered),
            self.end_token_id,
        ]

    def read_once(self, inputs: dict[str, Tensor], rows: int) -> dict[str, Any]:
        """See :meth:`FrozenLanguageModel.read_once`: keys and values, repeated when computed."""
        mask = inputs["attention_mask"]
        # The last token is left to `generate`: it predicts the first word.
        cache = self.model.base_model(
            inputs_embeds=inputs["inputs_embeds"][:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
            use_cache=True,
        ).past_key_values
        cache.batch_repeat_interleave(rows)
        return {"past_key_values": cache}

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
