"""Stage 1 (paper, section 3.2): the Q-Former learns what in a photo its text speaks of.

The same class trains (:meth:`Representation.forward`) and embeds and matches at inference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.config import OBJECTIVES, Blip2Config
from blip2.objectives import (
    JointBatch,
    diversity_loss,
    hard_negatives,
    itc_loss,
    itg_loss,
    itm_loss,
    joint_itc_loss,
    similarity,
)
from blip2.qformer import ImageStates, KeyValue, QFormer
from blip2.vision import ImageEncoder


class ImageReader(nn.Module):
    """From frozen features to what the Q-Former reads: LayerNorm and, for a map, positions.

    Attributes
    ----------
    encoder : ImageEncoder or None
        In training without cached features, the image encoder: pixels then may take the place of
        features wherever a model of either stage is called.
    """

    def __init__(self, config: Blip2Config) -> None:
        super().__init__()
        self.encoder: ImageEncoder | None = None
        width = config.qformer.encoder_width
        self.norm = nn.LayerNorm(width, eps=config.image_norm_eps)
        self.positions = None
        if config.image_positions:
            self.positions = nn.Parameter(torch.empty(config.image_positions, width))
            nn.init.normal_(self.positions, std=config.qformer.initializer_range)

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """Normalise in fp32 whatever the precision of the features, and tell positions apart.

        Parameters
        ----------
        features : Tensor
            ``[B, N, C]`` image features; with an ``encoder`` pixels ``[B, 3, S, S]``, too.
        kept : Tensor, optional
            ``[B, K]``, which of the ``N`` to read; default all.

        Returns
        -------
        Tensor
            ``[B, N, C]`` or ``[B, K, C]``.
        """
        if self.encoder is not None and features.ndim == 4:
            features = self.encoder(features)
        if kept is not None:
            features = features.gather(1, kept[..., None].expand(-1, -1, features.shape[-1]))
        with torch.autocast(features.device.type, enabled=False):
            out = F.layer_norm(
                features.float(),
                self.norm.normalized_shape,
                self.norm.weight.float(),
                self.norm.bias.float(),
                self.norm.eps,
            )
        if self.positions is not None:
            out = out + (self.positions if kept is None else self.positions[kept])
        return out.to(self.norm.weight.dtype)


@dataclass
class Asked:
    """Questions about photos, with their answers.

    Attributes
    ----------
    features : Tensor
        ``[B, N, C]`` image features.
    ids, mask : Tensor
        ``[B, T]`` questions, ``[CLS] ... [SEP]`` and padding.
    answer_ids, answer_mask : Tensor
        ``[B, A]`` answers, likewise.
    kept : Tensor, optional
        ``[B, K]``, which of the features are read; default all.
    """

    features: Tensor
    ids: Tensor
    mask: Tensor
    answer_ids: Tensor
    answer_mask: Tensor
    kept: Tensor | None = None


@dataclass
class Drawn:
    """Captions that the model has written of the first photos of a batch.

    Attributes
    ----------
    ids, mask : Tensor
        ``[M, T]``, from :meth:`Representation.draw`.
    worth : Tensor
        ``[M]``, how much better than expected each is.
    samples : int
        Captions of each photo.
    """

    ids: Tensor
    mask: Tensor
    worth: Tensor
    samples: int


class Representation(nn.Module):
    """Q-Former with text branch and the heads of ITC, ITM and ITG.

    Parameters
    ----------
    config : Blip2Config
        With ``stage`` 1.

    Notes
    -----
    Frozen image features come in as tensors; the encoder is no part of this module, so that a
    checkpoint holds what was trained and nothing else.
    """

    def __init__(self, config: Blip2Config) -> None:
        super().__init__()
        self.config = config
        width = config.qformer.hidden_size
        self.image_reader = ImageReader(config)
        self.qformer = QFormer(config.qformer)
        self.image_projection = nn.Linear(width, config.embed_dim)
        self.text_projection = nn.Linear(width, config.embed_dim)
        self.itm_head = nn.Linear(width, 2)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        if config.lm_head:  # BERT's masked-LM head; its decoder is the word embedding, tied
            self.lm_transform = nn.Linear(width, width)
            self.lm_norm = nn.LayerNorm(width, eps=config.qformer.layer_norm_eps)
            self.lm_bias = nn.Parameter(torch.zeros(config.qformer.vocab_size))

    @property
    def dec_token_id(self) -> int:
        """The piece ``[DEC]`` that opens a text to be generated: the last of the vocabulary."""
        return self.config.qformer.vocab_size - 1

    def image_states(self, features: Tensor, kept: Tensor | None = None) -> ImageStates:
        """Cross-attention keys and values of photos, shared by all passes.

        Parameters are those of :meth:`ImageReader.forward`.
        """
        return self.qformer.image_states(self.image_reader(features, kept))

    def project_queries(self, queries: Tensor) -> Tensor:  # [B, Q, D] -> [B, Q, d]
        """Embeddings of photos, unit length."""
        return F.normalize(self.image_projection(queries).float(), dim=-1)

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:  # [B, T] -> [B, d]
        """Embeddings of texts, unit length."""
        return self.project_texts(self.qformer.encode_text(ids, mask).text)

    def project_texts(self, text: Tensor) -> Tensor:  # [B, T, D] -> [B, d]
        """Embeddings of encoded texts, unit length, from their ``[CLS]``."""
        return F.normalize(self.text_projection(text[:, 0]).float(), dim=-1)

    def match_logits(self, image: ImageStates, ids: Tensor, mask: Tensor) -> Tensor:  # [B, 2]
        """ITM logits of pairs; column 1 means "match"."""
        return self.judge(self.qformer(image, ids, mask, "bidirectional").queries)

    def judge(self, queries: Tensor) -> Tensor:  # [B, Q, D] -> [B, 2]
        """ITM logits of queries that have read photo and text: the head on each, averaged."""
        return self.itm_head(queries).float().mean(1)

    def lm_logits(self, text: Tensor) -> Tensor:  # [..., D] -> [..., V]
        """Next-piece logits of decoded text."""
        hidden = self.lm_norm(F.gelu(self.lm_transform(text)))
        return F.linear(hidden, self.qformer.word_embeddings.weight, self.lm_bias)

    def forward(
        self,
        features: Tensor,
        ids: Tensor,
        mask: Tensor,
        image_ids: Tensor,
        hardness: float = 1.0,
        kept: Tensor | None = None,
        diversity: float = 0.0,
        objectives: Collection[str] = OBJECTIVES,
        join: Callable[[Tensor, Tensor], JointBatch] | None = None,
        read_ids: Tensor | None = None,
        match_share: float = 1.0,
        asked: Asked | None = None,
        drawn: Drawn | None = None,
        match_smoothing: float = 0.0,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch of pairs, or of a part of one.

        Parameters
        ----------
        features : Tensor
            ``[B, N, C]`` frozen image features.
        ids, mask : Tensor
            ``[B, T]`` captions, ``[CLS] ... [SEP]`` and padding; or several of each photo, side by
            side, ``[B * K, T]``: ITC reads all, ITM and ITG the first.
        image_ids : Tensor
            ``[B]`` integers; pairs of one photo share theirs.
        hardness : float
            Of ITM's negatives, see :func:`blip2.objectives.hard_negatives`.
        kept : Tensor, optional
            ``[B, K]``, which of a photo's ``N`` features are read; default all.
        diversity : float
            Weight of :func:`blip2.objectives.diversity_loss`, which the paper does without.
        objectives : collection of str
            Which losses to compute; ``itc`` is always among them, by which ITM's negatives are
            drawn.
        join : callable, optional
            Where the pairs are a part of a larger batch: from the part's embeddings
            ``[B, Q, d]`` and ``[B * K, d]`` to the whole's. ``itc`` is then the part's share in the
            loss of the whole, see :func:`blip2.objectives.joint_itc_loss`; the other losses are
            the part's own, and ITM's negatives come from it.
        read_ids : Tensor, optional
            As ``ids``, the captions as they are read, with some pieces behind ``[MASK]``; ITG
            predicts those of ``ids`` all the same. Default ``ids``.
        match_share : float
            Share of the pairs, the first of them, whose matching is learned: ITM is two thirds of
            the work. Its negatives come from all.
        asked : Asked, optional
            Questions about other photos, with their answers.
        drawn : Drawn, optional
            Captions of the first photos that the model itself has written.
        match_smoothing : float
            Label smoothing of ITM, which the paper does without.

        Returns
        -------
        dict
            Scalars ``itc``, ``itm``, ``itg`` as asked; their sum is the stage's loss (equal
            weights). With a weight, ``diversity``, too; ``answer`` where something is asked, and
            ``reward`` where captions were drawn.
        """
        read_ids = ids if read_ids is None else read_ids
        image = self.image_states(features, kept)
        encoded = self.qformer.encode_image(image)
        image_embeds = self.project_queries(encoded.queries)
        text_embeds = self.embed_texts(read_ids, mask)
        sim = similarity(image_embeds, text_embeds)
        if join is None:
            losses = {"itc": itc_loss(sim, self.temperature, image_ids)}
        else:
            joint = join(image_embeds, text_embeds)
            itc = joint_itc_loss(image_embeds, text_embeds, self.temperature, joint)
            losses = {"itc": itc}
        each = len(ids) // len(image)
        ids, read_ids, mask, sim = ids[::each], read_ids[::each], mask[::each], sim[:, ::each]
        if "itm" in objectives:
            wrong = hard_negatives(sim, self.temperature, image_ids, hardness)
            losses["itm"] = self._itm(image, read_ids, mask, *wrong, match_share, match_smoothing)
        if "itg" in objectives:
            losses["itg"] = self._itg(ids, read_ids, mask, encoded.cache)
        if diversity:
            losses["diversity"] = diversity * diversity_loss(encoded.queries)
        if asked is not None:
            losses["answer"] = self.answer_loss(asked)
        if drawn is not None:
            losses["reward"] = self._reward(drawn, encoded.cache)
        return losses

    def embed_pairs(
        self, features: Tensor, ids: Tensor, mask: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` embeds, in the same order of draws: ``[B, Q, d]`` and ``[B, d]``."""
        queries = self.qformer.encode_image(self.image_states(features, kept)).queries
        return self.project_queries(queries), self.embed_texts(ids, mask)

    def _itm(
        self,
        image: ImageStates,
        ids: Tensor,
        mask: Tensor,
        wrong_images: Tensor,
        wrong_texts: Tensor,
        share: float,
        smoothing: float,
    ) -> Tensor:
        number = max(1, round(share * len(ids)))
        batch = torch.arange(number, device=ids.device)
        photos = torch.cat([batch, wrong_images[:number], batch])  # [3B]
        texts = torch.cat([batch, batch, wrong_texts[:number]])  # [3B]
        logits = self.match_logits(image.select(photos), ids[texts], mask[texts])
        matched = (torch.arange(3 * number, device=ids.device) < number).long()
        return itm_loss(logits, matched, smoothing)

    def _itg(
        self,
        ids: Tensor,
        read_ids: Tensor,
        mask: Tensor,
        cache: list[KeyValue],
        read_mask: Tensor | None = None,
    ) -> Tensor:
        hidden, following = self._predicting(ids, read_ids, mask, cache, read_mask)
        return itg_loss(self.lm_logits(hidden), following)

    def _predicting(
        self,
        ids: Tensor,
        read_ids: Tensor,
        mask: Tensor,
        cache: list[KeyValue],
        read_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # [P, D], [P]
        """States that predict a piece, and that piece."""
        inputs = read_ids.clone()
        inputs[:, 0] = self.dec_token_id
        text = self.qformer.decode(inputs, mask, cache, read_mask)  # [B, T, D]
        # Only positions with a real next piece reach the vocabulary: half of the work is padding.
        predicts = mask[:, 1:].flatten().nonzero().squeeze(1)  # [P]
        hidden = text[:, :-1].flatten(0, 1).index_select(0, predicts)  # [P, D]
        return hidden, ids[:, 1:].flatten()[predicts]

    def read_question(
        self, image: ImageStates, ids: Tensor, mask: Tensor
    ) -> tuple[list[KeyValue], Tensor]:
        """Queries and questions that read each other, to answer over (section 4.3, figure 7).

        Parameters
        ----------
        image : ImageStates
            Of ``B`` photos.
        ids, mask : Tensor
            ``[B, T]`` questions.

        Returns
        -------
        list of KeyValue
            Keys and values of queries and question in every layer.
        Tensor
            ``[B, Q + T]``, which of them are no padding.
        """
        cache = self.qformer(image, ids, mask, "bidirectional").cache
        queries = mask.new_ones(len(mask), self.config.qformer.num_queries)
        return cache, torch.cat([queries, mask], dim=1)

    def answer_loss(self, asked: Asked) -> Tensor:
        """ITG of answers, over queries and questions that have read each other."""
        image = self.image_states(asked.features, asked.kept)
        read = self.read_question(image, asked.ids, asked.mask)
        return self._itg(asked.answer_ids, asked.answer_ids, asked.answer_mask, *read)

    def _reward(self, drawn: Drawn, cache: list[KeyValue]) -> Tensor:
        """What makes drawn captions likelier, the more the better they are (Williams, 1992)."""
        number = len(drawn.ids) // drawn.samples
        first = [KeyValue(*(states[:number] for states in layer)) for layer in cache]
        own = _repeated(first, drawn.samples)
        hidden, following = self._predicting(drawn.ids, drawn.ids, drawn.mask, own)
        each = -F.cross_entropy(self.lm_logits(hidden).float(), following, reduction="none")  # [P]
        worth = drawn.worth[:, None].expand(-1, drawn.ids.shape[1] - 1)  # [M, T - 1]
        return -(worth[drawn.mask[:, 1:].bool()] * each).mean()

    @torch.no_grad()
    def draw(
        self, cache: list[KeyValue], samples: int, temperature: float, ends: int, most: int
    ) -> tuple[Tensor, Tensor]:
        """Captions drawn from what ITG holds likely, to be learned from by their worth.

        Parameters
        ----------
        cache : list of KeyValue
            Of ``B`` photos, from :meth:`blip2.qformer.QFormer.encode_image`.
        samples : int
            Captions of each.
        temperature : float
            Divisor of the logits.
        ends : int
            The piece that ends a caption.
        most : int
            Pieces of a caption, the last included.

        Returns
        -------
        ids, mask : Tensor
            ``[B * samples, T]``, ``[DEC] ... [SEP]`` and padding; a caption that finds no end in
            time has none.
        """
        own = _repeated(cache, samples)
        rows = len(own[0].key)
        piece = torch.full((rows, 1), self.dec_token_id, device=own[0].key.device)
        ids, mask, going = [piece], [torch.ones_like(piece)], torch.ones_like(piece)
        for position in range(min(most, self.config.qformer.max_positions - 1)):
            text, own = self.qformer.decode_next(piece, position, own)
            chances = (self.lm_logits(text[:, 0]).float() / temperature).softmax(-1)
            # By the inverse of the distribution: `multinomial` draws a number for every word.
            passed = chances.cumsum(-1)  # [M, V]
            drawn = torch.rand(rows, 1, device=passed.device) * passed[:, -1:]
            chosen = torch.searchsorted(passed, drawn)
            piece = chosen.clamp(max=passed.shape[1] - 1).where(going.bool(), ends)
            ids.append(piece)
            mask.append(going)
            going = going * (piece != ends)
            if not going.any():
                break
        return torch.cat(ids, 1), torch.cat(mask, 1)

    @torch.no_grad()
    def caption(self, image: ImageStates, sep_token_id: int, max_length: int = 24) -> Tensor:
        """Greedy captions by the Q-Former itself (ITG), to watch stage 1 learn.

        Returns
        -------
        Tensor
            ``[B, max_length]`` word pieces after ``[DEC]``, filled up with ``sep_token_id``.
        """
        cache = self.qformer.encode_image(image).cache
        ids = torch.full((len(image), 1), self.dec_token_id, device=image.layers[0].key.device)
        for _ in range(max_length):
            text = self.qformer.decode(ids, torch.ones_like(ids), cache)
            following = self.lm_logits(text[:, -1]).argmax(-1, keepdim=True)
            ended = (ids == sep_token_id).any(1, keepdim=True)
            ids = torch.cat([ids, following.masked_fill(ended, sep_token_id)], dim=1)
        return ids[:, 1:]


def _repeated(cache: list[KeyValue], times: int) -> list[KeyValue]:
    """Each photo's keys and values so many times, side by side."""
    return [KeyValue(*(states.repeat_interleave(times, 0) for states in own)) for own in cache]
