"""Image-grounded text generation at inference: the Q-Former writes by itself (section 3.2, ITG).

In stage 1 the Q-Former's text branch learns to write captions while it sees the queries of every
layer. That is a small language model of its own: it knows nothing but captions, and reads a photo
more closely than a frozen language model reads a visual prompt.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from blip2.decoding import Decoding
from blip2.language import FrozenLanguageModel, stop_with
from blip2.memory import Memory
from blip2.prompts import PromptForm
from blip2.qformer import ImageStates, KeyValue
from blip2.representation import Representation
from blip2.tokenization import TextTokenizer

# How much it counts among beams that ITC finds the photo in the text, in the log-probability of a
# word piece: chosen on Flickr8k's dev shard, where twice or four times as much does as well.
LIKENESS = 0.1


class QFormerWriter(FrozenLanguageModel):
    """The text branch of stage 1, behind the interface of language models.

    In the place of a visual prompt it takes :class:`~blip2.qformer.ImageStates`; there is nothing
    to ask it. Of the beams that it has followed to their ends the first is not the likeliest, but
    the one that is likely and that ITC finds to be like the photo, as in a noisy channel: what a
    decoder holds likely is often what fits many photos. (The paper ranks the captions of its web
    photos by another model's similarity, section 4.)

    Parameters
    ----------
    representation : Representation
        With the head of ITG.
    tokenizer : TextTokenizer
        Its word pieces.
    words : Words, optional
        How pieces become text; default sentences.
    """

    def __init__(
        self,
        representation: Representation,
        tokenizer: TextTokenizer,
        words: Words | None = None,
    ) -> None:
        trained = [p for p in representation.parameters() if p.requires_grad]
        words, self.pieces = words or Sentences(tokenizer), tokenizer
        super().__init__(_for_transformers(representation), words, PromptForm(), "[SEP]")
        for parameter in trained:  # who writes may be trained on
            parameter.requires_grad_(True)

    def inputs(self, visual: ImageStates, texts: Sequence[str]) -> dict[str, Tensor]:
        """``[DEC]``, which opens every caption, and what the queries offer to it."""
        model = self.model.representation
        seen = query_states(model.qformer.encode_image(visual).cache)
        start = torch.full((len(visual), 1), model.dec_token_id, device=seen.device)
        return {
            "input_ids": start,
            "attention_mask": torch.ones_like(start),
            "query_states": seen,
        }

    def look(self, visual: ImageStates, texts: Sequence[str]) -> None:
        """Read photos and what is asked of them, and no more, for whoever watches."""
        self.inputs(visual, texts)

    @torch.inference_mode()
    def describe(self, visual: ImageStates) -> list[str]:
        """What :meth:`generate` says greedily, sooner: no word is read again for the next.

        Parameters
        ----------
        visual : ImageStates
            Of ``B`` photos.
        """
        model, ends = self.model.representation, self.end_token_id
        own = model.qformer.encode_image(visual).cache
        piece = torch.full((len(visual), 1), model.dec_token_id, device=own[0].key.device)
        ids, ended = [piece], torch.zeros_like(piece, dtype=torch.bool)
        for position in range(min(Decoding.max_new_tokens, self.context)):
            text, own = model.qformer.decode_next(piece, position, own)
            logits = model.lm_logits(text[:, 0])  # [B, V]
            if not position:
                logits[:, ends] = -torch.inf  # as `min_new_tokens` has it
            piece = logits.argmax(-1, keepdim=True).masked_fill(ended, ends)
            ids.append(piece)
            ended |= piece == ends
            if ended.all():
                break
        said = self.tokenizer.batch_decode(torch.cat(ids, dim=1))
        return [text.strip() for text in said]

    def generate(
        self,
        visual: ImageStates,
        texts: Sequence[str],
        decoding: Decoding,
        memory: Memory | None = None,
        **watching: Any,
    ) -> list[str]:
        """See :meth:`FrozenLanguageModel.generate`; nothing is kept for the next time."""
        if not self._ranks(decoding):
            return super().generate(visual, texts, decoding, **watching)
        return [beams[0][0] for beams in self._ranked(visual, texts, decoding, **watching)]

    def candidates(
        self,
        visual: ImageStates,
        texts: Sequence[str],
        decoding: Decoding,
        number: int,
        stopped: threading.Event | None = None,
    ) -> list[list[tuple[str, float]]]:
        """See :meth:`FrozenLanguageModel.candidates`; a beam's score is less, the less like the
        photo ITC finds it.
        """
        if number > decoding.num_beams or not self._ranks(decoding):
            return super().candidates(visual, texts, decoding, number, stopped)
        watching = {"stopping_criteria": stop_with(stopped or threading.Event())}
        found = self._ranked(visual, texts, decoding, **watching)
        return [beams[:number] for beams in found]

    def _ranks(self, decoding: Decoding) -> bool:
        return decoding.num_beams > 1 and not decoding.do_sample

    @torch.inference_mode()
    def _ranked(
        self, visual: ImageStates, texts: Sequence[str], decoding: Decoding, **watching: Any
    ) -> list[list[tuple[str, float]]]:
        """All beams of each photo with their scores, the best first."""
        model, count = self.model.representation, decoding.num_beams
        found = self._decode(
            visual,
            texts,
            decoding,
            num_return_sequences=count,
            return_dict_in_generate=True,
            output_scores=True,
            **watching,
        )
        said = [text.strip() for text in self.tokenizer.batch_decode(found.sequences)]
        photos = model.project_queries(model.qformer.encode_image(visual).queries)  # [B, Q, d]
        ids, mask = (tensor.to(photos.device) for tensor in self.pieces(said))
        words = model.embed_texts(ids, mask).unflatten(0, (len(visual), count))  # [B, K, d]
        alike = torch.einsum("bqd,bkd->bkq", photos, words).amax(-1)  # [B, K]
        # Its distance from the greatest there is, so that no score is above 0.
        away = (1 - alike) / model.temperature.detach().float()
        scores = found.sequences_scores.float() - LIKENESS * away.flatten()
        beams = list(zip(said, scores.tolist(), strict=True))
        groups = [beams[start : start + count] for start in range(0, len(beams), count)]
        return [sorted(group, key=lambda beam: -beam[1]) for group in groups]

    def _decode(
        self, visual: ImageStates, texts: Sequence[str], decoding: Decoding, **more: Any
    ) -> Any:
        most = min(decoding.max_new_tokens, self.context)  # there are no more positions
        least = min(decoding.min_new_tokens, most)
        decoding = replace(decoding, max_new_tokens=most, min_new_tokens=least)
        return super()._decode(visual, texts, decoding, **more)

    def _streamer(self, pause: float | None) -> Any:
        return _word_streamer(self.tokenizer, pause)


def query_states(cache: Sequence[KeyValue]) -> Tensor:
    """Keys and values of what was read in all layers as one tensor.

    Parameters
    ----------
    cache : sequence of KeyValue
        One for each of ``L`` layers, from :meth:`blip2.qformer.QFormer.encode_image`.

    Returns
    -------
    Tensor
        ``[B, L, 2, heads, S, head_dim]``
    """
    return torch.stack([torch.stack(list(own), dim=1) for own in cache], dim=1)


class Words:
    """Word pieces back to words as people write them, in lower case.

    Parameters
    ----------
    tokenizer : TextTokenizer
        Of the pieces.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.added_tokens_decoder: dict[int, Any] = {}  # nobody types special pieces here

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """The id of one piece."""
        return {"input_ids": [self._tokenizer.piece_id(text)]}

    def batch_decode(self, ids: Tensor, skip_special_tokens: bool = True) -> list[str]:
        """Texts of ``[B, T]`` pieces, the first of which is ``[DEC]``."""
        said = self._tokenizer.decode(ids[:, 1:])
        return [re.sub(r"(?<=\w) ([-'’]) (?=\w)", r"\1", text) for text in said]  # t - shirt


class Sentences(Words):
    """Word pieces back to sentences, as far as lower case tells."""

    def batch_decode(self, ids: Tensor, skip_special_tokens: bool = True) -> list[str]:
        """Sentences of ``[B, T]`` pieces, the first of which is ``[DEC]``."""
        return [text[:1].upper() + text[1:] for text in super().batch_decode(ids)]


def _word_streamer(words: Words, pause: float | None) -> Any:
    """As transformers' streamer, two words behind: a hyphen may still join the last to the next."""
    from transformers import TextIteratorStreamer

    class WordStreamer(TextIteratorStreamer):
        def __init__(self) -> None:
            super().__init__(words, timeout=pause)
            self.ids: list[int] = []
            self.said = ""

        def put(self, value: Tensor) -> None:
            self.ids += value.flatten().tolist()
            self._say(" ".join(self._text().split(" ")[:-2]))

        def end(self) -> None:
            self._say(self._text(), stream_end=True)

        def _text(self) -> str:
            return words.batch_decode(torch.tensor([self.ids]))[0]

        def _say(self, text: str, stream_end: bool = False) -> None:
            self.on_finalized_text(text[len(self.said) :], stream_end)
            self.said = max(self.said, text, key=len)

    return WordStreamer()


def _for_transformers(representation: Representation) -> nn.Module:
    """The text branch as a model whose ``generate`` is that of transformers."""
    from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    qformer = representation.qformer

    class TextBranch(PreTrainedModel, GenerationMixin):
        config_class = PreTrainedConfig

        def __init__(self) -> None:
            positions = qformer.config.max_positions
            config = PreTrainedConfig(
                vocab_size=qformer.config.vocab_size,
                hidden_size=qformer.config.hidden_size,
                num_hidden_layers=qformer.config.num_layers,
                max_position_embeddings=positions,
                use_cache=False,
            )
            super().__init__(config)
            self.representation = representation

        def get_input_embeddings(self) -> nn.Module:
            return qformer.word_embeddings

        def get_output_embeddings(self) -> nn.Module:
            return self.representation.lm_transform

        def prepare_inputs_for_generation(
            self,
            input_ids: Tensor,
            query_states: Tensor,
            attention_mask: Tensor,
            read_mask: Tensor | None = None,
            **_: Any,
        ) -> dict[str, Any]:
            return {"input_ids": input_ids, "query_states": query_states, "read_mask": read_mask}

        def forward(
            self,
            input_ids: Tensor,
            query_states: Tensor,
            read_mask: Tensor | None = None,
            **_: Any,
        ) -> Any:
            # Captions are short: to read them again for each word costs less than to keep them.
            cache = [KeyValue(own[:, 0], own[:, 1]) for own in query_states.unbind(1)]
            mask = torch.ones_like(input_ids)
            text = qformer.decode(input_ids, mask, cache, read_mask)  # [B, T, D]
            return CausalLMOutput(logits=self.representation.lm_logits(text[:, -1:]))

    return TextBranch()
