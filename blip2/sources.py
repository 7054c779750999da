"""Where a model's weights come from: ours, Hugging Face's layout, or a file of LAVIS."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from blip2.checkpoints import (
    CheckpointError,
    find_checkpoint,
    fingerprint,
    is_huggingface,
    load_checkpoint,
    read_stage,
    save_checkpoint,
)
from blip2.config import Blip2Config
from blip2.huggingface import Published, save_huggingface
from blip2.language import FrozenLanguageModel
from blip2.language_models import Placement, build_language_model
from blip2.lavis import LavisFile
from blip2.vision import ImageEncoder, build_image_encoder
from blip2.vision_transformers import at_size

Trained = TypeVar("Trained", bound=nn.Module)


class OwnCheckpoint:
    """A folder that :func:`blip2.checkpoints.save_checkpoint` wrote.

    It holds what was trained; the frozen parts are named in its configuration and come from
    their own homes.

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
        load_checkpoint(module, self.words)
        return module.to(device).eval()

    def image_encoder(self, dtype: torch.dtype, image_size: int | None = None) -> ImageEncoder:
        """Its frozen image encoder, in the precision of its home.

        Raises
        ------
        UserError
            Another image size is asked for than the encoder has.
        """
        return at_size(build_image_encoder(self.config.image_encoder), image_size)

    def language_model(self, dtype: torch.dtype, placement: Placement) -> FrozenLanguageModel:
        """Its frozen language model."""
        return build_language_model(self.config.language_model, dtype, placement)

    def fingerprint(self) -> str:
        """Digest of the checkpoint."""
        return fingerprint(self.words)


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
        There is no such layout, or it has no place for this image encoder.
    """
    if layout == "own":
        save_checkpoint(trained, config, folder)
    elif layout == "huggingface":
        save_huggingface(folder, config, trained, encoder, language)
    else:
        raise CheckpointError(f"There is no layout {layout!r}; choose own or huggingface.")
