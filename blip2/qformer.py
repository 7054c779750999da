"""The Querying Transformer (paper, section 3.1, figure 2), alone: no encoder, no heads.

Learned queries and text share the self-attention of every layer; the queries alone read the image
through cross-attention, and queries and text have feed-forward networks of their own. Which of
them see each other is what tells the three objectives apart: see :func:`attention_mask`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blip2.config import QFormerConfig

MaskKind = Literal["bidirectional", "multimodal_causal", "unimodal"]


class KeyValue(NamedTuple):
    """Keys and values of one attention, each ``[B, heads, length, head_dim]``."""

    key: Tensor
    value: Tensor


@dataclass
class ImageStates:
    """Cross-attention keys and values of photos, one entry for each cross-attention layer.

    They depend on the image alone, so ITC, ITM and ITG share them; ITM gathers those of its
    negatives instead of computing them again.
    """

    layers: list[KeyValue]

    def __len__(self) -> int:
        """Count the photos."""
        return self.layers[0].key.shape[0]

    def select(self, index: Tensor) -> ImageStates:
        """Gather photos by position, ``index`` ``[M]``, repeats allowed."""
        return ImageStates(
            [
                KeyValue(key.index_select(0, index), value.index_select(0, index))
                for key, value in self.layers
            ]
        )


@dataclass
class QFormerOutput:
    """What a pass gives.

    Attributes
    ----------
    queries : Tensor or None
        ``[B, Q, D]``
    text : Tensor or None
        ``[B, T, D]``
    cache : list of KeyValue
        Self-attention keys and values of the queries, and of text that was read with them, in
        every layer, for :meth:`QFormer.decode`. Empty when the pass had no queries.
    """

    queries: Tensor | None
    text: Tensor | None
    cache: list[KeyValue]


def attention_mask(kind: MaskKind, num_queries: int, text_mask: Tensor) -> Tensor:
    """Build the self-attention mask of an objective (figure 2, right).

    Parameters
    ----------
    kind : str
        ``"unimodal"`` (ITC): queries and text don't see each other. ``"bidirectional"`` (ITM):
        all see all. ``"multimodal_causal"`` (ITG): queries see queries; text sees all queries and
        its own past.
    num_queries : int
        Queries ``Q``, which stand before the text.
    text_mask : Tensor
        ``[B, T]``, true where there is a word piece and false on padding.

    Returns
    -------
    Tensor
        ``[B, 1, Q + T, Q + T]``, true where the row may attend to the column.
    """
    batch, length = text_mask.shape
    total = num_queries + length
    seen = torch.ones(total, total, dtype=torch.bool, device=text_mask.device)
    if kind != "bidirectional":
        seen[:num_queries, num_queries:] = False
    if kind == "unimodal":
        seen[num_queries:, :num_queries] = False
    elif kind == "multimodal_causal":
        seen[num_queries:, num_queries:] = seen[num_queries:, num_queries:].tril()
    present = torch.cat([text_mask.new_ones(batch, num_queries), text_mask], dim=1).bool()
    return seen & present[:, None, None, :]  # [B, 1, Q + T, Q + T]


class Attention(nn.Module):
    """BERT's attention block: multi-head attention, projection, dropout, residual, LayerNorm."""

    def __init__(self, config: QFormerConfig, key_width: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def _heads(self, x: Tensor) -> Tensor:  # [B, L, D] -> [B, h, L, D / h]
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def key_value(self, x: Tensor) -> KeyValue:  # [B, L, C]
        """Keys and values that ``x`` offers to be attended to."""
        return KeyValue(self._heads(self.key(x)), self._heads(self.value(x)))

    def forward(self, x: Tensor, states: KeyValue, mask: Tensor | None = None) -> Tensor:
        """Let ``x`` ``[B, L, D]`` attend to ``states`` where ``mask`` (broadcastable) is true."""
        query = self._heads(self.query(x))  # [B, h, L, d]
        dropout = self.attention_dropout if self.training else 0.0
        out = attend(query, states.key, states.value, mask, dropout)
        out = out.transpose(1, 2).flatten(2)  # [B, L, D]
        return self.norm(x + self.dropout(self.output(out)))

    def weights(self, x: Tensor, states: KeyValue) -> Tensor:  # [B, h, L, M]
        """How much ``x`` ``[B, L, D]`` attends to each of ``states``, without dropout.

        The kernel of :meth:`forward` doesn't tell. In fp32, so that rows sum to 1.
        """
        query, key = self._heads(self.query(x)).float(), states.key.float()
        with torch.autocast(x.device.type, enabled=False):
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return scores.softmax(-1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:  # [B, h, L, d]
    """Scaled dot-product attention, by the faster of two equal ways.

    In bf16 on a CPU the fused kernel's backward pass is six times slower than the plain formula.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled() or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [B, h, L, M]
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout) @ value


class FeedForward(nn.Module):
    """BERT's feed-forward block with residual and LayerNorm."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:  # [B, L, D]
        """Apply the block."""
        return self.norm(x + self.dropout(self.output(F.gelu(self.inner(x)))))


class QFormerLayer(nn.Module):
    """One layer: shared self-attention, the queries' cross-attention, two feed-forward blocks."""

    def __init__(self, config: QFormerConfig, number: int, with_text: bool) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        self.cross_attention = (
            Attention(config, config.encoder_width)
            if number % config.cross_attention_every == 0
            else None
        )
        self.query_ffn = FeedForward(config)
        self.text_ffn = FeedForward(config) if with_text else None

    def queries_alone(
        self, queries: Tensor, image: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:  # [B, Q, D]
        """Queries that see each other and the image; with their keys and values."""
        own = self.attention.key_value(queries)
        return self._query_half(self.attention(queries, own), image), own

    def text_alone(
        self, text: Tensor, mask: Tensor | None, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:  # [B, T, D]
        """Text that sees itself and what was read before; with the keys and values of all."""
        seen = self.attention.key_value(text)
        if past is not None:
            seen = KeyValue(
                torch.cat([past.key, seen.key], dim=2), torch.cat([past.value, seen.value], dim=2)
            )
        return self.text_ffn(self.attention(text, seen, mask)), seen

    def both(
        self, hidden: Tensor, num: int, mask: Tensor, image: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:  # [B, Q + T, D]
        """``num`` queries and text together; with their keys and values."""
        own = self.attention.key_value(hidden)
        hidden = self.attention(hidden, own, mask)
        queries, text = hidden[:, :num], hidden[:, num:]
        hidden = torch.cat([self._query_half(queries, image), self.text_ffn(text)], dim=1)
        return hidden, own

    def _query_half(self, queries: Tensor, image: KeyValue | None) -> Tensor:  # [B, Q, D]
        """What follows self-attention for the queries."""
        if self.cross_attention is not None:
            queries = self.cross_attention(queries, image)
        return self.query_ffn(queries)


class QFormer(nn.Module):
    """The Q-Former's queries, text embeddings and layers.

    Parameters
    ----------
    config : QFormerConfig
        Dimensions.
    with_text : bool
        False leaves out the text branch, as stage 2 does.

    Attributes
    ----------
    checkpointing : bool
        Keep no activations inside layers for the backward pass, but compute them again: less
        memory for a third more time.
    """

    def __init__(self, config: QFormerConfig, with_text: bool = True) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        width = config.hidden_size
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, width))
        self.embedding_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.embedding_dropout = nn.Dropout(config.dropout)
        if with_text:
            self.word_embeddings = nn.Embedding(config.vocab_size, width)
            self.position_embeddings = nn.Embedding(config.max_positions, width)
        self.layers = nn.ModuleList(
            QFormerLayer(config, number, with_text) for number in range(config.num_layers)
        )
        self.apply(self._initialise)
        nn.init.normal_(self.query_tokens, std=config.initializer_range)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def image_states(self, features: Tensor) -> ImageStates:  # [B, N, C]
        """Cross-attention keys and values of image features, computed once for all passes."""
        crosses = [layer.cross_attention for layer in self.layers if layer.cross_attention]
        return ImageStates([cross.key_value(features) for cross in crosses])

    def embed_queries(self, batch: int) -> Tensor:  # [B, Q, D]
        """Queries as they enter the first layer: no position, then LayerNorm and dropout."""
        queries = self.query_tokens.expand(batch, -1, -1)
        return self.embedding_dropout(self.embedding_norm(queries))

    def embed_text(self, ids: Tensor, start: int = 0) -> Tensor:  # [B, T] -> [B, T, D]
        """Word pieces with positions from ``start`` on, LayerNorm and dropout."""
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        embedded = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.embedding_dropout(self.embedding_norm(embedded))

    def encode_image(self, image: ImageStates) -> QFormerOutput:
        """Queries alone over photos: ITC's image side and the visual prompt of stage 2."""
        queries = self.embed_queries(len(image))
        cache = []
        for layer, states in self._with_image(image):
            queries, own = self._run(layer.queries_alone, queries, states)
            cache.append(own)
        return QFormerOutput(queries, None, cache)

    def encode_text(self, ids: Tensor, text_mask: Tensor) -> QFormerOutput:
        """Text alone, ``[B, T]`` both: ITC's text side."""
        text = self.embed_text(ids)
        mask = text_mask[:, None, None, :].bool()  # [B, 1, 1, T]
        for layer in self.layers:
            text, _ = self._run(layer.text_alone, text, mask)
        return QFormerOutput(None, text, [])

    def forward(
        self, image: ImageStates, ids: Tensor, text_mask: Tensor, kind: MaskKind
    ) -> QFormerOutput:
        """Queries and text together under one of the three masks.

        Parameters
        ----------
        image : ImageStates
            Of ``B`` photos, from :meth:`image_states`.
        ids, text_mask : Tensor
            ``[B, T]`` word pieces and where they are no padding.
        kind : str
            The mask's name, see :func:`attention_mask`.
        """
        num = self.config.num_queries
        hidden = torch.cat([self.embed_queries(len(image)), self.embed_text(ids)], dim=1)
        mask = attention_mask(kind, num, text_mask)
        cache = []
        for layer, states in self._with_image(image):
            hidden, own = self._run(layer.both, hidden, num, mask, states)
            cache.append(own)
        return QFormerOutput(hidden[:, :num], hidden[:, num:], cache)

    def decode(
        self,
        ids: Tensor,
        text_mask: Tensor,
        cache: list[KeyValue],
        read_mask: Tensor | None = None,
    ) -> Tensor:
        """Text under the multimodal causal mask over queries that were already encoded (ITG).

        Parameters
        ----------
        ids, text_mask : Tensor
            ``[B, T]``; the first piece is ``[DEC]``.
        cache : list of KeyValue
            From :meth:`encode_image` of the same ``B`` photos. Queries see only queries in ITG as
            in ITC, so theirs are the same keys and values. An answer is decoded over queries and
            question that have read each other, from :meth:`forward`.
        read_mask : Tensor, optional
            ``[B, S]``, which of the ``S`` positions of ``cache`` are no padding; default all.

        Returns
        -------
        Tensor
            ``[B, T, D]``
        """
        num = cache[0].key.shape[2]
        mask = attention_mask("multimodal_causal", num, text_mask)[:, :, num:]  # [B, 1, T, S + T]
        if read_mask is not None:
            seen = torch.cat([read_mask, torch.ones_like(text_mask)], dim=1)  # [B, S + T]
            mask = mask & seen[:, None, None, :].bool()
        text = self.embed_text(ids)
        for layer, past in zip(self.layers, cache, strict=True):
            text, _ = self._run(layer.text_alone, text, mask, past)
        return text

    def decode_next(
        self, ids: Tensor, start: int, cache: list[KeyValue]
    ) -> tuple[Tensor, list[KeyValue]]:
        """One more piece of each text, as :meth:`decode` has it, reading nothing again.

        Parameters
        ----------
        ids : Tensor
            ``[B, 1]``
        start : int
            Its position in the text.
        cache : list of KeyValue
            Of the queries and of the ``start`` pieces before it.

        Returns
        -------
        Tensor
            ``[B, 1, D]``
        list of KeyValue
            The cache with this piece.
        """
        text, grown = self.embed_text(ids, start), []
        for layer, past in zip(self.layers, cache, strict=True):
            text, seen = layer.text_alone(text, None, past)
            grown.append(seen)
        return text, grown

    def _with_image(self, image: ImageStates) -> Iterator[tuple[QFormerLayer, KeyValue | None]]:
        """Each layer with the keys and values of the photos that it reads, if it reads any."""
        states = iter(image.layers)
        for layer in self.layers:
            yield layer, next(states) if layer.cross_attention else None

    def _run(self, block: Callable, *inputs: Any) -> Any:
        """A block of a layer; with ``checkpointing`` its activations are computed again."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)
