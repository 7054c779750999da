"""Stage 2 (paper, section 3.3): the Q-Former's queries as a soft visual prompt of a frozen LLM."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blip2.answering import asks_in_brief, asks_to_describe
from blip2.attention import photo_maps, watch
from blip2.decoding import Decoding
from blip2.devices import fast_dtype, pick_device, qformer_dtype
from blip2.errors import UserError
from blip2.grounded import QFormerWriter
from blip2.language import FrozenLanguageModel
from blip2.language_models import Placement, build_language_model
from blip2.polar import PolarJudge, statement
from blip2.presence import PresenceJudge, thing_asked_for
from blip2.processing import clean_text, open_photo
from blip2.prompts import Turns, bare
from blip2.qformer import ImageStates
from blip2.retrieval import Blip2Retriever
from blip2.sources import open_source, save_model
from blip2.tokenization import TextTokenizer
from blip2.vision import ImageEncoder, build_image_encoder
from blip2.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from blip2.chat import Chat


class Blip2:
    """A photo and words in, words out. Make one with :meth:`from_pretrained`.

    Parameters
    ----------
    name, fingerprint : str
        What it was loaded as, and the digest of its files.
    encoder : ImageEncoder
        Frozen.
    prompt : VisualPrompt
        Trained.
    language : FrozenLanguageModel
        Frozen.
    device : torch.device
        Where all of them are.
    tokenizer : TextTokenizer, optional
        Of the Q-Former, where it reads questions.
    grounding : Blip2Retriever, optional
        Describes photos (ITG), says whether something is there (ITM) and, where it was taught to,
        answers questions in a word or two (ITG).
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        encoder: ImageEncoder,
        prompt: VisualPrompt,
        language: FrozenLanguageModel,
        device: torch.device,
        tokenizer: TextTokenizer | None = None,
        grounding: Blip2Retriever | None = None,
    ) -> None:
        self.name, self.fingerprint, self.device = name, fingerprint, device
        self.encoder, self.prompt, self.language = encoder, prompt, language
        self.tokenizer, self.grounding = tokenizer, grounding
        self.judge: PresenceJudge | None = None
        self.polar_judge: PolarJudge | None = None
        if grounding:
            grounding.writer  # noqa: B018  (refuses one that can't write now, not at a question)
            threshold = prompt.config.presence_threshold
            self.judge = PresenceJudge(grounding.match_states, threshold)
            if grounding.answerer and grounding.answerer.polar:
                self.polar_judge = PolarJudge(grounding.answerer, grounding.match_states)

    @classmethod
    def from_pretrained(
        cls,
        name: str = "mini",
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        device_map: str | None = None,
        quantize: str | None = None,
        image_size: int | None = None,
    ) -> Blip2:
        """Load a model with its frozen parts.

        Parameters
        ----------
        name : str
            ``"mini"``; a published checkpoint such as ``"Salesforce/blip2-opt-2.7b"``; a folder in
            its layout or written by :func:`blip2.checkpoints.save_checkpoint`; or a ``.pth`` file
            of LAVIS.
        device : str, optional
            Default: the GPU where there is one.
        dtype : torch.dtype, optional
            Precision of the frozen parts; default bf16 where the processor computes in it. The
            Q-Former computes in fp32 unless bf16 is asked for.
        device_map : str, optional
            ``"auto"`` spreads a published language model over what GPUs and memory there are.
        quantize : str, optional
            ``"8bit"`` or ``"4bit"``, for a published language model alone, through bitsandbytes.
            On a CPU that saves memory and costs time. Refused for mini, which is small.
        image_size : int, optional
            Side in pixels of what a published image encoder reads, a multiple of its patch (14);
            another than its own interpolates the position embeddings.

        Raises
        ------
        UserError
            The checkpoint is missing or damaged, or is of another stage.
        """
        place = pick_device(device)
        precision = dtype or fast_dtype(place)
        placement = Placement(place, device_map, quantize)
        source = open_source(name, stage=2)
        placement.check(source.config.language_model)  # before the other parts are loaded
        prompt = source.build(VisualPrompt, place).to(qformer_dtype(dtype))
        encoder = source.image_encoder(precision, image_size).to(place)
        language = source.language_model(precision, placement)
        config, tokenizer = source.config, None
        if config.reads_question:
            tokenizer = TextTokenizer(source.words, config.max_text_length)
        grounding = None
        if config.grounding:
            grounding = Blip2Retriever.from_pretrained(config.grounding, device=device, dtype=dtype)
        parts = encoder, prompt, language, place, tokenizer, grounding
        return cls(name, source.fingerprint(), *parts)

    @classmethod
    def from_parts(
        cls,
        image_encoder: str,
        language_model: str,
        *,
        bert: str = "minilm",
        num_queries: int = 32,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        device_map: str | None = None,
        quantize: str | None = None,
    ) -> Blip2:
        """Start a new, untrained BLIP-2 (section 3.1).

        Parameters
        ----------
        image_encoder : str
            A registered image encoder, see :mod:`blip2.vision`.
        language_model : str
            Any causal or encoder-decoder model that transformers loads, or a registered one.
        bert : str
            Where the Q-Former starts and what size it has: ``"minilm"``, a folder, or a model of
            the Hub such as ``"google-bert/bert-base-uncased"``. Its feed-forward weights serve
            queries and text; cross-attention, queries and projection are random.
        num_queries : int
            Learned queries.
        device, dtype, device_map, quantize
            As in :meth:`from_pretrained`.

        Raises
        ------
        UserError
            A part can't be had.
        """
        from blip2.parts import bert_folder, config_of_parts, fresh_prompt

        place = pick_device(device)
        placement = Placement(place, device_map, quantize)
        encoder = build_image_encoder(image_encoder).to(place)
        language = build_language_model(language_model, dtype or fast_dtype(place), placement)
        start = bert_folder(bert)
        config = config_of_parts(
            image_encoder, encoder, start, num_queries, language_model, language
        )
        prompt = fresh_prompt(config, start).to(place).eval()
        return cls("new", "", encoder, prompt, language, place)

    def save_pretrained(self, folder: str | Path, *, layout: str = "own") -> None:
        """Write the model to a folder that :meth:`from_pretrained` reads.

        Parameters
        ----------
        folder : str or Path
            Made if it doesn't exist.
        layout : str
            ``"own"`` holds what was trained, in fp16, and names the frozen parts;
            ``"huggingface"`` holds everything, as transformers reads it.

        Raises
        ------
        UserError
            There is no such layout, or it has no place for this image encoder.
        """
        config = self.prompt.config
        save_model(folder, layout, config, self.prompt, self.encoder, self.language)
        if self.tokenizer:
            self.tokenizer.save(folder)

    @property
    def reads_question(self) -> bool:
        """Whether the Q-Former, too, reads what is asked, so that each question looks anew."""
        return self.tokenizer is not None

    @torch.inference_mode()
    def visual_prompt(self, photos: Sequence[Any], asked: Sequence[str] = ()) -> Tensor:
        """Soft visual prompts of photos: what the language model sees of them.

        Parameters
        ----------
        photos : sequence
            ``B``, each everything that :func:`blip2.processing.open_photo` takes.
        asked : sequence of str
            ``B`` questions or prompts, for a Q-Former that reads them; others look past them.

        Returns
        -------
        Tensor
            ``[B, Q, W]``
        """
        pixels = torch.stack([self.encoder.transform(open_photo(photo)) for photo in photos])
        features, pieces = self.encoder(pixels.to(self.device)).float(), None
        if self.tokenizer:
            words = [bare(text or self.default_prompt) for text in asked or [""] * len(photos)]
            ids, mask = self.tokenizer(words)
            pieces = ids.to(self.device), mask.to(self.device)
        return self.prompt(features, pieces)

    def attention(self, photo: Any, prompt: str = "") -> Tensor:
        """How much each query looks at each part of a photo; see :mod:`blip2.attention`.

        Parameters
        ----------
        photo
            Everything that :func:`blip2.processing.open_photo` takes.
        prompt : str
            As for :meth:`generate`; moves the maps where the Q-Former reads it, as it does what is
            put to ITM or answered by ITG.

        Returns
        -------
        Tensor
            ``[Q, rows, columns]`` over the whole photo, fp32 on the CPU; each map sums to 1.

        Raises
        ------
        UserError
            The photo can't be used, or the prompt is too long.
        """
        asked = self._asked(prompt)  # refuses what :meth:`generate` refuses
        if witness := self.witness(asked):
            who, about = witness
            states = self.grounding.states_of([photo])
            with torch.inference_mode(), watch(self.grounding.model.qformer) as seen:
                who.look(states, [about])
            return photo_maps(seen, self.grounding.encoder)[0]
        with watch(self.prompt.qformer) as seen:
            self.visual_prompt([photo], [prompt])
        return photo_maps(seen, self.encoder)[0]

    def caption(self, photo: Any, instruction: str = "", **decoding: Any) -> str:
        """Say what a photo shows, in the manner of an instruction.

        Parameters
        ----------
        photo
            Everything that :func:`blip2.processing.open_photo` takes: a path, bytes, a file, a PIL
            image, a NumPy array ``[H, W, 3]``, a torch tensor ``[3, H, W]``, a ``data:`` URL.
        instruction : str
            Empty for a plain description.
        **decoding
            See :class:`blip2.decoding.Decoding`.

        Raises
        ------
        UserError
            The photo can't be used, the instruction is too long or an option out of range.
        """
        return self.generate(photo, instruction, **decoding)

    def generate(self, photo: Any, prompt: str | Sequence[str] = "", **decoding: Any) -> Any:
        """Answer a prompt about a photo, or prompts about a list of photos.

        Parameters
        ----------
        photo
            One photo as for :meth:`caption`, or a list of them; an array or a tensor is one photo.
        prompt : str or sequence of str
            One for all, or one for each photo.
        **decoding
            See :class:`blip2.decoding.Decoding`.

        Returns
        -------
        str or list of str
            A list for a list.

        Raises
        ------
        UserError
            As :meth:`caption`; also where photos and prompts differ in number.
        """
        options = Decoding(**decoding)
        photos = list(photo) if isinstance(photo, list | tuple) else [photo]
        prompts = [prompt] * len(photos) if isinstance(prompt, str) else list(prompt)
        if len(photos) != len(prompts):
            raise UserError(
                f"There are {len(photos)} photos and {len(prompts)} prompts; give one prompt for "
                "all, or one for each photo."
            )
        if not photos:
            return []
        found: dict[int, str] = {}
        for rows, writer, visual, texts in self._reading(photos, prompts):
            found |= zip(rows, writer.generate(visual, texts, options), strict=True)
        answers = [found[row] for row in range(len(photos))]
        return answers if isinstance(photo, list | tuple) else answers[0]

    def candidates(
        self,
        photo: Any,
        prompt: str = "",
        number: int = 3,
        *,
        stopped: threading.Event | None = None,
        **decoding: Any,
    ) -> list[tuple[str, float]]:
        """Several answers to one prompt about one photo, the best first, each with its score.

        Parameters are those of :meth:`generate`; ``number`` answers need as many beams, or
        sampling. Once ``stopped`` is set, they end where they are.
        See :meth:`blip2.language.FrozenLanguageModel.candidates` for the score.
        """
        options = Decoding(**decoding)
        [(_, writer, visual, texts)] = self._reading([photo], [prompt])
        return writer.candidates(visual, texts, options, number, stopped)[0]

    def stream(self, photo: Any, prompt: str = "", **decoding: Any) -> Iterator[str]:
        """Answer a prompt about a photo piece by piece; arguments as :meth:`generate`."""
        options = Decoding(**decoding)
        [(_, writer, visual, [text])] = self._reading([photo], [prompt])
        return writer.stream(visual, text, options)

    @property
    def default_prompt(self) -> str:
        """What asks for a caption where nothing is asked."""
        return self.language.form.caption

    @property
    def question_form(self) -> str:
        """How a question is put, with ``{}`` for its words."""
        return self.language.form.question

    def witness(self, asked: str) -> tuple[QFormerWriter | PresenceJudge, str] | None:
        """Who of stage 1 answers in the language model's place, and about what.

        Parameters
        ----------
        asked : str
            A question or an instruction.

        Returns
        -------
        tuple or None
            The writer for a plain description, also where a question asks for one; the judge with a
            thing for a question whether it is there; for what a word or two can answer the
            answerer, or the polar judge where these are "yes" and "no"; None for everything else,
            also for words that stage 1 does not know or does not read to their end, and without
            :attr:`grounding`.
        """
        if self.grounding is None:
            return None
        question = bare(asked)
        if asked == self.default_prompt or asks_to_describe(question):
            return self.grounding.writer, ""
        if thing := thing_asked_for(question):
            return (self.judge, thing) if self.grounding.tokenizer.read(thing).complete else None
        answerer = self.grounding.answerer
        if answerer and asks_in_brief(question) and answerer.questions.read(question).complete:
            polar = self.polar_judge and statement(question)
            return self.polar_judge if polar else answerer, question
        return None

    def opening(self, states: ImageStates | None) -> list[Turns]:
        """Turns before what the language model is asked about photos: their descriptions.

        Parameters
        ----------
        states : ImageStates or None
            Of ``B`` photos, from :attr:`grounding`; None without one.
        """
        if states is None:
            return []
        return [[(self.default_prompt, text)] for text in self.grounding.writer.describe(states)]

    def _reading(
        self, photos: Sequence[Any], prompts: Sequence[str]
    ) -> list[tuple[list[int], Any, Any, list[str]]]:
        """Photos by who answers: which, the writer, what it sees of them and what it is asked."""
        asked = [self._asked(prompt) for prompt in prompts]
        states = self.grounding.states_of(photos) if self.grounding else None
        witnesses = [self.witness(text) for text in asked]
        found = []
        for who in dict.fromkeys(one[0] for one in witnesses if one):
            rows = [row for row, one in enumerate(witnesses) if one and one[0] is who]
            seen = states.select(torch.tensor(rows, device=self.device))
            found.append((rows, who, seen, [witnesses[row][1] for row in rows]))
        if rows := [row for row, one in enumerate(witnesses) if one is None]:
            own = states.select(torch.tensor(rows, device=self.device)) if states else None
            before = self.opening(own) or [()] * len(rows)
            texts = [self.language.prompt(asked[r], b) for r, b in zip(rows, before, strict=True)]
            seen = self.visual_prompt([photos[r] for r in rows], [asked[r] for r in rows])
            found.append((rows, self.language, seen, texts))
        return found

    def _asked(self, prompt: str) -> str:
        """What is asked; an empty prompt asks for a caption."""
        return clean_text(prompt, "instruction", default=self.default_prompt)

    def chat(self, photo: Any) -> Chat:
        """Begin a conversation about a photo."""
        from blip2.chat import Chat

        return Chat(self, photo)
