"""Encoder-decoder language models: FlanT5."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blip2.language import FrozenLanguageModel, pad


class FrozenEncoderDecoder(FrozenLanguageModel):
    """A frozen encoder-decoder language model (section 3.3, figure 3, below).

    The encoder reads the soft visual prompt and the words before the answer; the decoder writes
    the answer.
    """

    def loss(self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Language-modelling loss on the answers; see :meth:`FrozenLanguageModel.loss`.

        In pre-training ``prompts`` are the first parts of captions and ``answers`` the rest.
        """
        targets = [
            torch.tensor([*self.token_ids(answer), self.end_token_id], device=visual.device)
            for answer in answers
        ]
        labels = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
        texts = [self.prompt(prompt) for prompt in prompts]
        return self.model(**self.inputs(visual, texts), labels=labels, use_cache=False).loss

    def inputs(self, visual: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings ``[B, L, W]`` of photo and text for the encoder, padded on the right."""
        rows = []
        for photo, text in zip(visual, texts, strict=True):
            words = self.embed(self.token_ids(text))
            rows.append(torch.cat([photo.to(words), words]))
        return pad(rows)


def split_prefix(caption: str, draw: random.Random) -> tuple[str, str]:
    """Split a caption in two: the encoder reads the first part, the decoder writes the second.

    The cut is drawn from behind the first word to the middle (section 3.3; the official code). A
    caption of one word is all to be written.
    """
    words = caption.split()
    cut = draw.randint(1, max(1, len(words) // 2)) if len(words) > 1 else 0
    return " ".join(words[:cut]), " ".join(words[cut:])
