"""Frozen language models behind one interface: visual prompt and words in, loss or words out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blip2.decoding import Decoding
from blip2.errors import UserError
from blip2.memory import Memory
from blip2.prompts import PromptForm, Turns

MEMORIES = 8  # conversations whose keys and values are kept
PAUSE = 0.25  # seconds between signs of life while beams are followed
Told = Sequence[Sequence[Turns]]  # of each photo its texts, each the turns up to an answer
LANGUAGE_MODELS: dict[str, Callable[[], FrozenLanguageModel]] = {}


class FrozenLanguageModel(nn.Module):
    """A frozen language model (section 3.3): soft visual prompt and words in, words out.

    Subclasses say how the visual prompt enters (:meth:`inputs`) and how likely a text is
    (:meth:`log_likelihoods`).

    Parameters
    ----------
    model : PreTrainedModel
        A language model of transformers.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    form : PromptForm
        Its prompt.
    end : str
        Ends an answer: text of one token.
    """

    def __init__(self, model: Any, tokenizer: Any, form: PromptForm, end: str) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer, self.form = tokenizer, form
        added = tokenizer.added_tokens_decoder.values()
        self._special = [token.content for token in added if token.special]
        self.end_token_id = self.token_ids(end)[-1]
        self.width = model.get_input_embeddings().weight.shape[1]
        # T5's positions are relative, so that it has no limit of its own.
        self.context = getattr(model.config, "max_position_embeddings", 2048)
        self._memories: list[Memory] = []  # the latest first
        # The last states of a prompt are a slice. With a frozen head torch multiplies slices row by
        # row, each with a copy of the head: seconds for a batch with 50,000 words. A clone has
        # strides of its own (`contiguous` leaves a batch of one as it is).
        head = model.get_output_embeddings()
        whole = torch.contiguous_format
        head.register_forward_pre_hook(lambda _, rows: (rows[0].clone(memory_format=whole),))

    def train(self, mode: bool = True) -> FrozenLanguageModel:
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    def loss(self, visual: Tensor, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Language-modelling loss on the answers and their end token (section 3.3).

        Parameters
        ----------
        visual : Tensor
            ``[B, Q, W]`` soft visual prompts.
        prompts, answers : sequence of str
            ``B`` instructions and what should be answered.

        Returns
        -------
        Tensor
            Scalar, the mean over answer tokens.
        """
        told = [[[pair]] for pair in zip(prompts, answers, strict=True)]
        return -self.log_likelihoods(visual, told).sum() / self.answer_length(answers)

    def log_likelihoods(self, visual: Tensor, told: Told) -> Tensor:
        """Log-probability of what is told of photos.

        Parameters
        ----------
        visual : Tensor
            ``[B, Q, W]`` soft visual prompts.
        told : sequence of sequence of turns
            For each photo its texts, as many as there are: what was asked and answered in turn,
            of which the last answer counts and the turns before it are read.

        Returns
        -------
        Tensor
            ``[M]``, one for each text, photo by photo: the sum over the answer's tokens and its
            end token.
        """
        raise NotImplementedError

    def inputs(self, visual: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Padded embeddings ``[B, L, W]`` of photo and text, and their mask."""
        raise NotImplementedError

    def read_once(self, inputs: dict[str, Tensor], rows: int) -> dict[str, Any]:
        """What spares ``generate`` reading a prompt for each of its ``rows``; none if it can't.

        Parameters
        ----------
        inputs : dict
            From :meth:`inputs`.
        rows : int
            Beams, or answers drawn, of each prompt.
        """
        return {}

    def read_tokens(self, num_queries: int, text: str) -> list[int]:
        """Tokens that a cache of keys and values would hold, in order; none if it can't help."""
        return []

    def token_ids(self, text: str) -> list[int]:
        """Tokens of a text, special ones read, none added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answer_length(self, answers: Sequence[str]) -> int:
        """Tokens that :meth:`loss` averages over: those of the answers and their end tokens."""
        return sum(len(self.token_ids(answer)) + 1 for answer in answers)

    def told_length(self, told: Told) -> int:
        """Tokens whose log-probabilities :meth:`log_likelihoods` adds up."""
        return self.answer_length([turns[-1][1] for texts in told for turns in texts])

    def question(self, words: str) -> str:
        """A question as this model wants it put."""
        return self.form.question.format(words)

    def prompt(self, question: str, turns: Turns = ()) -> str:
        """What follows the photo in a prompt, from words of a user.

        Special tokens that a user typed are taken out, so that words can't end a turn.
        """
        plain = [(self._plain(asked), self._plain(answered)) for asked, answered in turns]
        return self.form.text(plain, self._plain(question))

    def _plain(self, text: str) -> str:
        while found := [token for token in self._special if token in text]:
            for token in found:  # taking one out may join the halves of another, so look again
                text = text.replace(token, "")
        return text

    def embed(self, ids: Sequence[int]) -> Tensor:  # [T] -> [T, W]
        """Embeddings of tokens, on the language model's device."""
        words = self.model.get_input_embeddings()
        return words(torch.tensor(ids, dtype=torch.long, device=words.weight.device))

    def _attend_to(self, memory: Memory) -> None:
        """Forget all but the latest conversations: a cache takes megabytes, visitors come many."""
        others = [other for other in self._memories if other is not memory]
        for old in others[MEMORIES - 1 :]:
            old.forget()
        self._memories = [memory, *others[: MEMORIES - 1]]

    @torch.inference_mode()
    def generate(
        self,
        visual: Tensor,
        texts: Sequence[str],
        decoding: Decoding,
        memory: Memory | None = None,
        **watching: Any,
    ) -> list[str]:
        """Answer prompts about photos.

        Parameters
        ----------
        visual : Tensor
            ``[B, Q, W]`` soft visual prompts.
        texts : sequence of str
            What follows each photo, from :meth:`prompt`.
        decoding : Decoding
            How words are chosen.
        memory : Memory, optional
            Of a conversation about the one photo; without beams, what it holds is not read again.
        **watching
            ``stopping_criteria`` and ``streamer``, as the ``generate`` of transformers takes them.

        Returns
        -------
        list of str
            ``B`` answers.
        """
        read: list[int] = []
        if memory is not None and decoding.num_beams == 1 and len(texts) == 1:
            read = self.read_tokens(visual.shape[1], texts[0])
        if read:
            self._attend_to(memory)
            watching["past_key_values"] = memory.recall(read, self.model.config)
        ids = self._decode(visual, texts, decoding, **watching)
        if read:
            memory.keep([*read, *ids[0].tolist()])
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _decode(self, visual: Tensor, texts: Sequence[str], decoding: Decoding, **more: Any) -> Any:
        """Run the ``generate`` of transformers, as far as it is the same for all answers."""
        if decoding.seed is not None:
            torch.manual_seed(decoding.seed)
        inputs = self.inputs(visual, texts)
        rows = max(decoding.num_beams, more.get("num_return_sequences", 1))
        if rows > 1:
            more |= self.read_once(inputs, rows)
        return self.model.generate(
            **inputs,
            **decoding.arguments(),
            eos_token_id=self.end_token_id,
            pad_token_id=self.end_token_id,
            **more,
        )

    @torch.inference_mode()
    def samples(
        self, visual: Tensor, texts: Sequence[str], decoding: Decoding, number: int
    ) -> list[list[str]]:
        """``number`` answers drawn for each prompt; the rest as in :meth:`generate`."""
        ids = self._decode(visual, texts, decoding, num_return_sequences=number)
        said = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            [text.strip() for text in said[start : start + number]]
            for start in range(0, len(said), number)
        ]

    @torch.inference_mode()
    def candidates(
        self,
        visual: Tensor,
        texts: Sequence[str],
        decoding: Decoding,
        number: int,
        stopped: threading.Event | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Several answers to each prompt, the best first.

        Parameters
        ----------
        visual, texts, decoding
            As in :meth:`generate`.
        number : int
            Answers to each; beams can give as many as there are beams.
        stopped : threading.Event, optional
            Once it is set, answers end where they are.

        Returns
        -------
        list of list of (str, float)
            ``B`` times ``number`` answers with their log-probability for each token (of beams,
            divided by length to the power of ``length_penalty`` instead).

        Raises
        ------
        UserError
            More are asked for than there are beams, or decoding is greedy.
        """
        if not decoding.do_sample and number > decoding.num_beams:
            raise UserError(
                f"{number} candidates need as many beams, or sampling; there are "
                f"{decoding.num_beams} beams."
            )
        found = self._decode(
            visual,
            texts,
            decoding,
            num_return_sequences=number,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            stopping_criteria=stop_with(stopped or threading.Event()),
        )
        if decoding.num_beams > 1:
            scores = found.sequences_scores
        else:
            logits = torch.stack(found.logits, dim=1).float()  # [B * number, T, V]
            written = found.sequences[:, -logits.shape[1] :]  # [B * number, T]
            each = logits.log_softmax(-1).gather(-1, written[..., None])[..., 0]
            # What follows the first end token is padding.
            ends = (written == self.end_token_id).int()
            counted = (ends.cumsum(1) - ends == 0).float()
            scores = (each * counted).sum(1) / counted.sum(1)
        answers = self.tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
        pairs = [(text.strip(), float(s)) for text, s in zip(answers, scores, strict=True)]
        groups = [pairs[start : start + number] for start in range(0, len(pairs), number)]
        return [sorted(group, key=lambda pair: -pair[1]) for group in groups]

    def stream(
        self, visual: Tensor, text: str, decoding: Decoding, memory: Memory | None = None
    ) -> Iterator[str]:
        """Answer one prompt piece by piece; beams can only be shown when they are finished.

        Parameters
        ----------
        visual : Tensor
            ``[1, Q, W]``.
        text, decoding, memory
            As in :meth:`generate`.

        Yields
        ------
        str
            Pieces whose concatenation is the answer. Closing the iterator stops the model. With
            beams, empty ones come while nothing can be shown, so that it can be closed meanwhile.
        """
        stopped = threading.Event()
        alone = decoding.num_beams == 1
        pause = None if alone else PAUSE
        streamer = self._streamer(pause)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                watching = {"stopping_criteria": stop_with(stopped)}
                if alone:
                    watching["streamer"] = streamer
                answers = self.generate(visual, [text], decoding, memory, **watching)
                if not alone:
                    streamer.on_finalized_text(answers[0], stream_end=True)
            except BaseException as error:  # handed to the reader below, which raises it
                failures.append(error)
                streamer.text_queue.put(streamer.stop_signal)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            begun, space = False, ""
            while True:
                try:
                    piece = next(streamer)
                except queue.Empty:
                    yield ""
                    continue
                except StopIteration:
                    break
                piece = space + (piece if begun else piece.lstrip())
                kept = piece.rstrip()
                # White space waits for the next word, so that the answer does not end in it.
                space = piece[len(kept) :]
                if kept:
                    begun = True
                    yield kept
        finally:
            stopped.set()
            worker.join()
        if failures:
            raise failures[0]

    def _streamer(self, pause: float | None) -> Any:
        """What ``generate`` hands tokens to and :meth:`stream` takes text from."""
        from transformers import TextIteratorStreamer

        return TextIteratorStreamer(self.tokenizer, timeout=pause, skip_special_tokens=True)


def stop_with(stopped: threading.Event) -> Any:
    """Criteria for the ``generate`` of transformers that end all answers once an event is set."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Stop(StoppingCriteria):
        def __call__(self, ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            return torch.full((len(ids),), stopped.is_set(), device=ids.device)

    return StoppingCriteriaList([Stop()])


def pad(rows: Sequence[Tensor], side: str = "right") -> dict[str, Tensor]:
    """Embeddings of unequal length as what a model of transformers takes.

    Parameters
    ----------
    rows : sequence of Tensor
        ``B`` of ``[L_i, W]``.
    side : str
        Where the padding goes: ``"left"`` where a model shall continue the rows.

    Returns
    -------
    dict
        ``inputs_embeds`` ``[B, L, W]`` and ``attention_mask`` ``[B, L]``, 0 on padding.
    """
    there = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    padded = {"inputs_embeds": rows, "attention_mask": there}
    return {
        name: nn.utils.rnn.pad_sequence(list(entries), batch_first=True, padding_side=side)
        for name, entries in padded.items()
    }


def register_language_model(name: str) -> Callable:
    """Make the decorated builder available as ``language_model: name`` in a configuration."""

    def register(builder: Callable[[], FrozenLanguageModel]) -> Callable[[], FrozenLanguageModel]:
        LANGUAGE_MODELS[name] = builder
        return builder

    return register
