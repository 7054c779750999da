"""Which language model a name means, and how it is loaded: precision, devices, quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from blip2.checkpoint_files import too_small
from blip2.decoder import FrozenDecoder
from blip2.encoder_decoder import FrozenEncoderDecoder
from blip2.errors import UserError
from blip2.language import LANGUAGE_MODELS, FrozenLanguageModel
from blip2.prompts import CHATML, OPT_FORM, T5_FORM, PromptForm


@dataclass(frozen=True)
class Placement:
    """Where a language model goes and how small it is made.

    Attributes
    ----------
    device : torch.device
        Where it goes when it is not spread.
    device_map : str or None
        ``"auto"``: over what GPUs and memory there are, by accelerate.
    quantize : str or None
        ``"8bit"`` or ``"4bit"`` (nf4), by bitsandbytes.

    Raises
    ------
    UserError
        Another kind of either is asked for.
    """

    device: torch.device
    device_map: str | None = None
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.quantize not in (None, "8bit", "4bit"):
            raise UserError(f"There is no quantisation {self.quantize!r}; choose 8bit or 4bit.")
        if self.device_map not in (None, "auto"):
            raise UserError(f"There is no device map {self.device_map!r}; choose auto.")

    def check(self, language_model: str) -> None:
        """Refuse to quantise or to spread a registered language model: they are small.

        Raises
        ------
        UserError
            That is asked for.
        """
        if language_model in LANGUAGE_MODELS and (self.quantize or self.device_map):
            raise UserError(too_small(language_model))

    def options(self, dtype: torch.dtype) -> dict[str, Any]:
        """The same for the ``from_pretrained`` of transformers."""
        # Quantised weights can't be moved afterwards, so all are placed while they are loaded.
        options: dict[str, Any] = {"device_map": self.device_map or {"": self.device}}
        if self.quantize:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = (
                BitsAndBytesConfig(load_in_8bit=True)
                if self.quantize == "8bit"
                else BitsAndBytesConfig(
                    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
                )
            )
        return options


def build_language_model(
    name: str, dtype: torch.dtype, placement: Placement
) -> FrozenLanguageModel:
    """Load a frozen language model by name.

    Parameters
    ----------
    name : str
        A registered one; else a causal or encoder-decoder model that transformers loads, from a
        folder or from the Hugging Face Hub.
    dtype : torch.dtype
        Its precision.
    placement : Placement
        Where it goes.

    Raises
    ------
    UserError
        There is no such model, or a registered one is to be quantised or spread.
    """
    if name not in LANGUAGE_MODELS:
        return load_language_model(name, dtype, placement)
    placement.check(name)
    return LANGUAGE_MODELS[name]().to(placement.device, dtype)


def load_language_model(name: str, dtype: torch.dtype, placement: Placement) -> FrozenLanguageModel:
    """Load any causal or encoder-decoder model with transformers; see the function above."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    try:
        config = AutoConfig.from_pretrained(name)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(name)
        with quiet():
            model = loader.from_pretrained(name, dtype=dtype, **placement.options(dtype))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The language model {name!r} can't be loaded ({reason}); name a folder, a model of "
            f"the Hugging Face Hub, or one of {', '.join(sorted(LANGUAGE_MODELS))}."
        ) from error
    return wrap(model, tokenizer)


def wrap(model: Any, tokenizer: Any) -> FrozenLanguageModel:
    """Put a language model of transformers behind our interface, with the prompt of its kind.

    Parameters
    ----------
    model : PreTrainedModel
        Causal or encoder-decoder.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    """
    if model.config.is_encoder_decoder:
        return FrozenEncoderDecoder(model, tokenizer, T5_FORM, end=tokenizer.eos_token)
    if model.config.model_type == "opt":
        return FrozenDecoder(model, tokenizer, OPT_FORM, end="\n")
    if "<|im_start|>" in tokenizer.get_vocab():
        return FrozenDecoder(model, tokenizer, CHATML, end="<|im_end|>")
    form = PromptForm(**{**vars(OPT_FORM), "before_question": tokenizer.bos_token or ""})
    return FrozenDecoder(model, tokenizer, form, end=tokenizer.eos_token)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from telling of keys that another part of a checkpoint takes."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
