"""Encoder-decoder language models: FlanT5."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.language import FrozenLanguageModel, Told, pad


class FrozenEncoderDecoder(FrozenLanguageModel):
    """A frozen encoder-decoder language model (section 3.3, figure 3, below).

    The encoder reads the soft visual prompt and the words before the answer; the decoder writes
    the answer.
    """

    def log_likelihoods(self, visual: Tensor, told: Told) -> Tensor:
        """See :meth:`FrozenLanguageModel.log_likelihoods`.

        In pre-training the first part of a caption is what is asked, the rest the answer.
        """
        counts = torch.tensor([len(texts) for texts in told], device=visual.device)
        texts = [turns for texts in told for turns in texts]
        asked = [self.prompt(turns[-1][0], turns[:-1]) for turns in texts]
        targets = [
            torch.tensor([*self.token_ids(turns[-1][1]), self.end_token_id], device=visual.device)
            for turns in texts
        ]
        labels = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
        inputs = self.inputs(visual.repeat_interleave(counts, 0), asked)
        logits = self.model(**inputs, labels=labels, use_cache=False).logits  # [M, T, V]
        each = F.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none"
        )
        return -each.sum(1)

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
