"""Photos and texts in one space: what search and matching use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip2.answering import AnswerWriter
from blip2.decoding import Decoding
from blip2.devices import fast_dtype, pick_device, qformer_dtype
from blip2.errors import UserError
from blip2.grounded import QFormerWriter
from blip2.processing import open_photo
from blip2.qformer import ImageStates
from blip2.read_text import ReadText, UnreadableTextError
from blip2.representation import Representation
from blip2.sources import open_source, save_model
from blip2.tokenization import TextTokenizer
from blip2.vision import ImageEncoder, build_image_encoder


def joint_score(similarity: np.ndarray, match: np.ndarray, temperature: float) -> np.ndarray:
    """Rank candidates by what ITC and ITM know together.

    ITM learns from negatives that are drawn in proportion to ``exp(similarity / temperature)``,
    so its log-odds say only what the similarity does not already say (as in noise-contrastive
    estimation); the sum of both orders the candidates. The official evaluation, too, adds the
    similarity to the matching score, with another weight.

    Parameters
    ----------
    similarity : ndarray
        Cosines of candidates, any shape.
    match : ndarray
        Their probabilities from ITM, of the same shape.
    temperature : float
        ITC's.

    Returns
    -------
    ndarray
        Of the same shape; higher is better. Means nothing on its own.
    """
    return log_odds(match) + np.asarray(similarity, dtype=np.float64) / temperature


def log_odds(match: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities from ITM, finite also where they were rounded to 0 or 1."""
    # fp32 probabilities come no nearer to 0 and 1 than this.
    sure = np.clip(np.asarray(match, dtype=np.float64), 1e-9, 1 - 1e-9)
    return np.log(sure / (1 - sure))


class Blip2Retriever:
    """Embeds photos and texts (ITC) and judges pairs (ITM). See :meth:`from_pretrained`.

    The similarity of a text and a photo is the greatest of the cosines of the text's embedding
    with the photo's ``Q`` query embeddings.

    Parameters
    ----------
    name, fingerprint : str
        What it was loaded as, and the digest of its files.
    encoder : ImageEncoder
        Frozen.
    model : Representation
        Stage 1.
    tokenizer : TextTokenizer
        Its word pieces.
    device : torch.device
        Where all of them are.
    match_dtype : torch.dtype
        Precision of matching pairs.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        encoder: ImageEncoder,
        model: Representation,
        tokenizer: TextTokenizer,
        device: torch.device,
        match_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.fingerprint, self.device = name, fingerprint, device
        self.encoder, self.model, self.tokenizer = encoder, model, tokenizer
        self.num_queries = model.config.qformer.num_queries
        self.photo_side = encoder.image_size  # pixels; photos are scaled to such a square
        self.dim = model.config.embed_dim
        self.temperature = float(model.temperature.detach())
        self.match_temperature = model.config.match_temperature
        self.match_dtype = match_dtype
        self._writer: QFormerWriter | None = None
        self._answerer: AnswerWriter | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str = "mini-itm",
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        image_size: int | None = None,
    ) -> Blip2Retriever:
        """Load a stage-1 model with its frozen image encoder.

        Parameters
        ----------
        name : str
            ``"mini-itm"``; a published checkpoint such as ``"Salesforce/blip2-itm-vit-g"``; a
            folder in its layout or written by :func:`blip2.checkpoints.save_checkpoint`; or a
            ``.pth`` file of LAVIS.
        device : str, optional
            Default: the GPU where there is one.
        dtype : torch.dtype, optional
            Precision. By default matching pairs, the costly part, is done in bf16 where the
            processor computes in it, and embeddings in fp32; with bf16 both are.
        image_size : int, optional
            As in :meth:`blip2.Blip2.from_pretrained`.

        Raises
        ------
        UserError
            The checkpoint is missing or damaged, or is of another stage.
        """
        place = pick_device(device)
        precision = dtype or fast_dtype(place)
        source = open_source(name, stage=1)
        model = source.build(Representation, place)
        tokenizer = TextTokenizer(source.words, model.config.max_text_length)
        encoder = source.image_encoder(precision, image_size).to(place)
        retriever = cls(name, source.fingerprint(), encoder, model, tokenizer, place, precision)
        retriever.model.to(qformer_dtype(dtype))  # after the temperature was read in full
        return retriever

    @classmethod
    def from_parts(
        cls,
        image_encoder: str,
        *,
        bert: str = "minilm",
        num_queries: int = 32,
        device: str | None = None,
    ) -> Blip2Retriever:
        """Start a new, untrained stage 1; parameters as in :meth:`blip2.Blip2.from_parts`."""
        from blip2.parts import bert_folder, config_of_parts, fresh_representation

        place = pick_device(device)
        encoder = build_image_encoder(image_encoder).to(place)
        start = bert_folder(bert)
        config = config_of_parts(image_encoder, encoder, start, num_queries)
        model = fresh_representation(config, start).to(place).eval()
        tokenizer = TextTokenizer(start, config.max_text_length)
        return cls("new", "", encoder, model, tokenizer, place)

    def preprocess(self, photo: Any) -> Tensor:  # -> [3, S, S]
        """Open and normalise one photo; needs no model, so threads may decode beside it.

        Raises
        ------
        PhotoError
            The photo can't be used.
        """
        return self.encoder.transform(open_photo(photo))

    def save_pretrained(self, folder: str | Path, *, layout: str = "own") -> None:
        """Write the model to a folder that :meth:`from_pretrained` reads.

        Parameters
        ----------
        folder : str or Path
            Made if it doesn't exist.
        layout : str
            ``"own"`` holds what was trained, in fp16, and names the frozen image encoder;
            ``"huggingface"`` holds both, as transformers reads it, without temperature and ITG
            head, for which that layout has no place.

        Raises
        ------
        UserError
            There is no such layout, or it has no place for this image encoder.
        """
        save_model(folder, layout, self.model.config, self.model, self.encoder)
        self.tokenizer.save(folder)

    @torch.inference_mode()
    def extract_features(
        self, photos: Sequence[Any] = (), texts: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """What the Q-Former makes of photos, of texts, or of pairs of both.

        For search, take ``image_embeds`` and ``text_embeds``: a photo's similarity to a text is
        the *greatest* cosine over its queries, so don't average the queries. Nothing else here is
        for search: states have no shared space, and those of a pair need both at once.

        Parameters
        ----------
        photos, texts : sequence
            One of them, or both in equal number ``B``: then pair by pair, too.

        Returns
        -------
        dict
            On the CPU, in fp32. With photos: ``image_features`` ``[B, N, C]`` of the frozen
            encoder, ``query_states`` ``[B, Q, D]`` (the photo for a classifier or another model),
            ``image_embeds`` ``[B, Q, d]``, unit length. With texts: ``text_states`` ``[B, T, D]``,
            ``text_mask`` ``[B, T]``, ``text_embeds`` ``[B, d]``, unit length. With both:
            ``pair_states`` ``[B, Q, D]`` (queries that have read photo and text, for a classifier
            of pairs), ``match`` ``[B]``, the probability that they belong together.

        Raises
        ------
        UserError
            Neither is given, they differ in number, or a photo can't be used.
        """
        if not photos and not texts:
            raise UserError("Features of what? Give photos, texts, or both.")
        if photos and texts and len(photos) != len(texts):
            raise UserError(
                f"There are {len(photos)} photos and {len(texts)} texts; give one for each other, "
                "or ask for them in two calls."
            )
        found: dict[str, Tensor] = {}
        if photos:
            pixels = torch.stack([self.preprocess(photo) for photo in photos])
            found["image_features"] = self.encoder(pixels.to(self.device)).float()
            states = self.model.image_states(found["image_features"])
            found["query_states"] = self.model.qformer.encode_image(states).queries
            found["image_embeds"] = self.model.project_queries(found["query_states"])
        if texts:
            ids, mask = self._pieces(texts)
            found["text_states"] = self.model.qformer.encode_text(ids, mask).text
            found["text_mask"] = mask
            found["text_embeds"] = self.model.project_texts(found["text_states"])
        if photos and texts:
            queries = self.model.qformer(states, ids, mask, "bidirectional").queries
            found["pair_states"] = queries
            found["match"] = self._probability(self.model.judge(queries))
        return {
            name: (value.float() if value.is_floating_point() else value).cpu()
            for name, value in found.items()
        }

    @torch.inference_mode()
    def image_states(self, pixels: Tensor) -> ImageStates:  # [B, 3, S, S]
        """What the Q-Former reads of photos, to be matched with many texts."""
        return self.model.image_states(self.encoder(pixels.to(self.device)).float())

    @torch.inference_mode()
    def embed_states(self, states: ImageStates) -> Tensor:  # -> [B, Q, d]
        """Embeddings of photos of which :meth:`image_states` are at hand."""
        queries = self.model.qformer.encode_image(states).queries
        return self.model.project_queries(queries).cpu()

    def embed_pixels(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, Q, d]
        """Embeddings of normalised photos, unit length, fp32 on the CPU."""
        return self.embed_states(self.image_states(pixels))

    @property
    def writer(self) -> QFormerWriter:
        """What writes captions by ITG.

        Raises
        ------
        UserError
            The checkpoint has no head of ITG, as published ones of Hugging Face's layout.
        """
        if not self.model.config.lm_head:
            raise UserError(
                f"{self.name} has no head of ITG, so it can't write; take a checkpoint of stage 1 "
                "in the own layout, or one of LAVIS."
            )
        if self._writer is None:
            self._writer = QFormerWriter(self.model, self.tokenizer)
        return self._writer

    @property
    def answerer(self) -> AnswerWriter | None:
        """What answers questions by ITG, where the model was taught to."""
        if self._answerer is None and self.model.config.answers_questions:
            self._answerer = AnswerWriter(self.model, self.tokenizer)
        return self._answerer

    @torch.inference_mode()
    def states_of(self, photos: Sequence[Any]) -> ImageStates:
        """What of ``B`` photos :attr:`writer` and :meth:`match_states` look at.

        Parameters
        ----------
        photos : sequence
            Each everything that :func:`blip2.processing.open_photo` takes.
        """
        return self.image_states(torch.stack([self.preprocess(photo) for photo in photos]))

    def caption(self, photo: Any, **decoding: Any) -> Any:
        """Say what a photo shows, by the Q-Former itself (ITG).

        Parameters
        ----------
        photo
            One photo, or a list of them.
        **decoding
            See :class:`blip2.decoding.Decoding`.

        Returns
        -------
        str or list of str
            A list for a list.

        Raises
        ------
        UserError
            A photo can't be used, an option is out of range, or there is no head of ITG.
        """
        photos = list(photo) if isinstance(photo, list | tuple) else [photo]
        options, writer = Decoding(**decoding), self.writer
        if not photos:
            return []
        captions = writer.generate(self.states_of(photos), [""] * len(photos), options)
        return captions if isinstance(photo, list | tuple) else captions[0]

    def embed_images(self, photos: Sequence[Any], batch_size: int = 32) -> Tensor:
        """Embed photos for search.

        Parameters
        ----------
        photos : sequence
            Each is anything that :func:`blip2.processing.open_photo` takes.
        batch_size : int
            Photos that the model sees at once.

        Returns
        -------
        Tensor
            ``[B, Q, d]``, unit length, fp32 on the CPU.
        """
        if not photos:
            return torch.empty(0, self.num_queries, self.dim)
        chunks = [photos[i : i + batch_size] for i in range(0, len(photos), batch_size)]
        return torch.cat(
            [self.embed_pixels(torch.stack([self.preprocess(p) for p in c])) for c in chunks]
        )

    def read_text(self, text: str) -> ReadText:
        """How much of a user's text :meth:`embed_texts` and :meth:`match` would read.

        Raises
        ------
        UnreadableTextError
            The model knows no word of it.
        """
        read = self.tokenizer.read(text)
        if not read.known_words:
            name = Path(self.name).name or self.model.config.name  # of a folder the last part
            raise UnreadableTextError(f"{name} knows no word of this; it reads English.")
        return read

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Embed texts for search.

        Returns
        -------
        Tensor
            ``[B, d]``, unit length, fp32 on the CPU.
        """
        if not texts:
            return torch.empty(0, self.dim)
        parts = []
        for start in range(0, len(texts), batch_size):
            ids, mask = self._pieces(texts[start : start + batch_size])
            parts.append(self.model.embed_texts(ids, mask).cpu())
        return torch.cat(parts)

    def match(self, photos: Sequence[Any], texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Judge whether each photo belongs with its text (ITM).

        Parameters
        ----------
        photos, texts : sequence
            Pairs, of equal number ``B``.

        Returns
        -------
        Tensor
            ``[B]``, probabilities, fp32 on the CPU.

        Raises
        ------
        UserError
            Photos and texts differ in number, or a photo can't be used.
        """
        if len(photos) != len(texts):
            raise UserError(
                f"There are {len(photos)} photos and {len(texts)} texts to match; "
                "give one text for each photo."
            )
        parts = [torch.empty(0)]
        for start in range(0, len(photos), batch_size):
            end = start + batch_size
            pixels = torch.stack([self.preprocess(photo) for photo in photos[start:end]])
            parts.append(self.match_states(self.image_states(pixels), texts[start:end]))
        return torch.cat(parts)

    @torch.inference_mode()
    def match_states(self, states: ImageStates, texts: Sequence[str]) -> Tensor:
        """As :meth:`match`, for photos of which :meth:`image_states` are at hand."""
        ids, mask = self._pieces(texts)
        with torch.autocast(
            self.device.type, self.match_dtype, enabled=self.match_dtype != torch.float32
        ):
            logits = self.model.match_logits(states, ids, mask)
        return self._probability(logits).cpu()

    def _probability(self, logits: Tensor) -> Tensor:  # [B, 2] -> [B]
        """Probability of a match, calibrated."""
        return (logits.float() / self.match_temperature).softmax(-1)[:, 1]

    def _pieces(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self.tokenizer(list(texts))
        return ids.to(self.device), mask.to(self.device)
