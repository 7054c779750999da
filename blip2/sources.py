"""Where a model's weights come from: ours, Hugging Face's layout, or a file of LAVIS."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from blip2.checkpoint_files import (
    CheckpointError,
    find_checkpoint,
    fingerprint,
    is_huggingface,
    read_stage,
)
from blip2.checkpoints import FINE_TUNED, fill, read_tensors, save_checkpoint
from blip2.config import Blip2Config
from blip2.huggingface import Published, save_huggingface
from blip2.language import FrozenLanguageModel
from blip2.language_models import Placement, build_language_model
from blip2.lavis import LavisFile
from blip2.vision import ImageEncoder, build_architecture, build_image_encoder
from blip2.vision_transformers import at_size

Trained = TypeVar("Trained", bound=nn.Module)


class OwnCheckpoint:
    """A folder that :func:`blip2.checkpoints.save_checkpoint` wrote.

    It holds what was trained, after fine-tuning the image encoder, too; the frozen parts are
    named in its configuration and come from their own homes.

    Parameters
    ----------
    folder : Path
        With ``config.json``.
    stage : int
        1 for a retriever, 2 for a generator.

    Raises
    ------
    CheckpointError
        It is damaged or of the other stage.
    """

    def __init__(self, folder: Path, stage: int) -> None:
        self.words = folder
        self.config: Blip2Config = read_stage(folder, stage)

    def build(self, kind: type[Trained], device: torch.device) -> Trained:
        """One of our modules with the checkpoint's weights, in fp32 and eval mode."""
        module = kind(self.config)
        fill(module, self._tensors(of_encoder=False), str(self.words))
        return module.to(device).eval()

    def image_encoder(self, dtype: torch.dtype, image_size: int | None = None) -> ImageEncoder:
        """Its image encoder, frozen: fine-tuned, or in the precision of its home.

        Raises
        ------
        UserError
            Another image size is asked for than the encoder can have.
        """
        if self.config.holds_image_encoder:
            encoder = build_architecture(self.config.image_encoder, self.config.image_size)
            fill(encoder, self._tensors(of_encoder=True), str(self.words))
            encoder = encoder.to(dtype)
        else:
            encoder = build_image_encoder(self.config.image_encoder)
        return at_size(encoder, image_size)

    def language_model(self, dtype: torch.dtype, placement: Placement) -> FrozenLanguageModel:
        """Its frozen language model."""
        return build_language_model(self.config.language_model, dtype, placement)

    def fingerprint(self) -> str:
        """Digest of the checkpoint."""
        return fingerprint(self.words)

    def _tensors(self, of_encoder: bool) -> dict[str, Tensor]:
        """The image encoder's tensors, or all others."""
        found = read_tensors(self.words).items()
        if not of_encoder:
            return {n: v for n, v in found if not n.startswith(FINE_TUNED)}
        return {n.removeprefix(FINE_TUNED): v for n, v in found if n.startswith(FINE_TUNED)}


def open_source(name: str, stage: int) -> OwnCheckpoint | Published | LavisFile:
    """Find a model's weights, of whatever layout.

    Parameters
    ----------
    name : str
        ``"mini"`` or ``"mini-itm"``; a folder; a model of the Hugging Face Hub; a ``.pth`` file.
    stage : int
        1 for a retriever, 2 for a generator.

    Raises
    ------
    CheckpointError
        There is none of this name, or it is damaged or of the other stage.
    """
    if name.endswith(".pth"):
        return LavisFile(Path(name), stage)
    folder = find_checkpoint(name)
    return (Published if is_huggingface(folder) else OwnCheckpoint)(folder, stage)


def save_model(
    folder: str | Path,
    layout: str,
    config: Blip2Config,
    trained: nn.Module,
    encoder: ImageEncoder,
    language: FrozenLanguageModel | None = None,
) -> None:
    """Write a model in the layout ``"own"`` or ``"huggingface"``.

    Raises
    ------
    CheckpointError
        There is no such layout, or it has no place for this model.
    """
    if layout == "own":
        save_checkpoint(trained, config, folder, encoder if config.holds_image_encoder else None)
    elif layout == "huggingface" and config.reads_question:
        raise CheckpointError(
            "Hugging Face's layout has no place for a Q-Former that reads questions; save it in "
            "the project's own form."
        )
    elif layout == "huggingface" and config.grounding:
        raise CheckpointError(
            "Hugging Face's layout has no place for a stage 1 that answers beside the language "
            "model; save it in the project's own form."
        )
    elif layout == "huggingface":
        save_huggingface(folder, config, trained, encoder, language)
    else:
        raise CheckpointError(f"There is no layout {layout!r}; choose own or huggingface.")
