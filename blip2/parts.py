"""A new BLIP-2 from parts of one's own choice, ready for stages 1 and 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.config import Blip2Config, QFormerConfig
from blip2.errors import UserError

if TYPE_CHECKING:
    import torch

    from blip2.language import FrozenLanguageModel
    from blip2.representation import Representation
    from blip2.vision import ImageEncoder


def bert_folder(name: str) -> Path:
    """Folder of a BERT: ``"minilm"`` for the packaged one, a folder, or a model of the Hub.

    Raises
    ------
    UserError
        There is none of this name.
    """
    from blip2.assets import minilm_dir
    from blip2.checkpoint_files import find_checkpoint

    return minilm_dir() if name in ("", "minilm") else find_checkpoint(name)


def qformer_config(bert: Path, encoder_width: int, num_queries: int = 32) -> QFormerConfig:
    """A Q-Former of a BERT's size (section 3.1), with one more word, ``[DEC]``.

    Parameters
    ----------
    bert : Path
        Folder with the BERT's ``config.json``.
    encoder_width : int
        Width of the image features.
    num_queries : int
        Learned queries.

    Raises
    ------
    UserError
        The folder holds no BERT.
    """
    try:
        theirs = json.loads((bert / "config.json").read_text(encoding="utf-8"))
        return QFormerConfig(
            num_queries=num_queries,
            hidden_size=theirs["hidden_size"],
            num_layers=theirs["num_hidden_layers"],
            num_heads=theirs["num_attention_heads"],
            intermediate_size=theirs["intermediate_size"],
            encoder_width=encoder_width,
            vocab_size=theirs["vocab_size"] + 1,
            max_positions=theirs["max_position_embeddings"],
            layer_norm_eps=theirs.get("layer_norm_eps", 1e-12),
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{bert} is no folder of a BERT ({error}); name one with config.json and "
            "model.safetensors."
        ) from error


def config_of_parts(
    encoder_name: str,
    encoder: ImageEncoder,
    bert: Path,
    num_queries: int,
    language_name: str = "",
    language: FrozenLanguageModel | None = None,
) -> Blip2Config:
    """The configuration of a BLIP-2 over these parts; with a language model, of stage 2.

    Features of a convolutional map get learned positions, a transformer's have theirs.
    """
    from blip2.vision_transformers import ClipViT, EvaViT

    return Blip2Config(
        name="new",
        stage=1 if language is None else 2,
        image_encoder=encoder_name,
        image_positions=0 if isinstance(encoder, EvaViT | ClipViT) else encoder.num_tokens,
        language_model=language_name,
        language_width=0 if language is None else language.width,
        qformer=qformer_config(bert, encoder.width, num_queries),
    )


def fresh_representation(config: Blip2Config, bert: Path) -> Representation:
    """Stage 1 before its first step: BERT copied, query FFNs from its text FFNs, the rest random.

    Raises
    ------
    UserError
        The BERT's tensors don't fit.
    """
    from blip2.checkpoints import read_tensors, start_from_bert
    from blip2.representation import Representation

    model = Representation(config)
    start_from_bert(model.qformer, read_tensors(bert))
    return model


def fresh_prompt(config: Blip2Config, bert: Path) -> torch.nn.Module:
    """Stage 2 without stage 1: the Q-Former as :func:`fresh_representation` starts it."""
    from blip2.checkpoints import read_tensors, start_from_bert
    from blip2.qformer import QFormer
    from blip2.visual_prompt import VisualPrompt

    whole = QFormer(config.qformer)
    start_from_bert(whole, read_tensors(bert))
    prompt = VisualPrompt(config)
    own = prompt.qformer.state_dict()
    prompt.qformer.load_state_dict({n: v for n, v in whole.state_dict().items() if n in own})
    return prompt
