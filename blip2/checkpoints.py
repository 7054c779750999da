"""Reading and writing what was trained: ``config.json`` beside fp16 safetensors.

Frozen parts are never stored; they are named in the configuration and built from their packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from blip2.checkpoint_files import CheckpointError, weight_files
from blip2.config import Blip2Config

FINE_TUNED = "image_reader.encoder."  # an image encoder's tensors in a fine-tuned checkpoint
MAX_SHARD = "45MB"  # many hosts of repositories refuse or warn of files over 50 MB


def save_checkpoint(
    module: nn.Module,
    config: Blip2Config,
    folder: str | Path,
    encoder: nn.Module | None = None,
) -> None:
    """Write a module's tensors in fp16 and its configuration.

    Parameters
    ----------
    module : nn.Module
        Holds trained parameters only.
    config : Blip2Config
        Written as ``config.json``.
    folder : str or Path
        Made if it doesn't exist.
    encoder : nn.Module, optional
        A fine-tuned image encoder that stands outside the module.
    """
    tensors = module.state_dict() | (encoder.state_dict(prefix=FINE_TUNED) if encoder else {})
    kept = {
        name: value
        for name, value in tensors.items()
        if config.holds_image_encoder or not name.startswith(FINE_TUNED)
    }
    write_tensors(kept, config, folder)


def write_tensors(tensors: Mapping[str, Tensor], config: Blip2Config, folder: str | Path) -> None:
    """Write tensors by name, in fp16, and a configuration, in the place of what was there."""
    from huggingface_hub import save_torch_state_dict

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().cpu() for name, value in tensors.items()}
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    save_torch_state_dict(state, folder, max_shard_size=MAX_SHARD)
    config.write(folder / "config.json")


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files, in the precision in which they are stored.

    Raises
    ------
    CheckpointError
        The folder has none, or one is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            state.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The checkpoint file {file} is damaged ({error}); fetch it again."
            ) from error
    return state


def fill(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a module, all of them or none.

    Raises
    ------
    CheckpointError
        Tensors are missing, left over or of another shape; each is named.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} has shape {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"The checkpoint {source} does not fit this model: {'; '.join(problems)}; "
            "name the checkpoint that belongs to this configuration."
        )
    module.load_state_dict(state)


@torch.no_grad()
def start_from_bert(qformer: nn.Module, state: dict[str, Tensor]) -> None:
    """Start a Q-Former from a BERT of its width (section 3.1; query FFNs copied from the text's).

    Cross-attention, queries and ``[DEC]`` stay fresh. BERT's segment embedding of the first
    segment, which it adds to every piece, is folded into the positions.

    Parameters
    ----------
    qformer : QFormer
        With text branch, freshly initialised.
    state : dict
        A BERT's tensors under the names of transformers, with or without the prefix ``bert.``.

    Raises
    ------
    CheckpointError
        A tensor that is needed is missing or of another shape.
    """
    bert = {name.removeprefix("bert."): value.float() for name, value in state.items()}
    own = dict(qformer.named_parameters())

    def fetch(source: str, shape: tuple[int, ...]) -> Tensor:
        if source not in bert or bert[source].shape != shape:
            found = list(bert[source].shape) if source in bert else "missing"
            raise CheckpointError(
                f"The BERT start does not fit: {source} is {found}, {list(shape)} is needed; "
                "choose a BERT of the Q-Former's size."
            )
        return bert[source]

    def copy(target: str, source: str) -> None:
        own[target].copy_(fetch(source, own[target].shape))

    vocabulary, width = own["word_embeddings.weight"].shape  # one more than BERT's: [DEC]
    words = fetch("embeddings.word_embeddings.weight", (vocabulary - 1, width))
    own["word_embeddings.weight"][:-1] = words
    positions = own["position_embeddings.weight"]
    segment = fetch("embeddings.token_type_embeddings.weight", (2, width))[0]
    positions.copy_(fetch("embeddings.position_embeddings.weight", positions.shape) + segment)
    for kind in ("weight", "bias"):
        copy(f"embedding_norm.{kind}", f"embeddings.LayerNorm.{kind}")
        for number in range(len(qformer.layers)):
            mine, theirs = f"layers.{number}", f"encoder.layer.{number}"
            for part in ("query", "key", "value"):
                copy(f"{mine}.attention.{part}.{kind}", f"{theirs}.attention.self.{part}.{kind}")
            copy(f"{mine}.attention.output.{kind}", f"{theirs}.attention.output.dense.{kind}")
            copy(f"{mine}.attention.norm.{kind}", f"{theirs}.attention.output.LayerNorm.{kind}")
            for ffn in ("text_ffn", "query_ffn"):
                copy(f"{mine}.{ffn}.inner.{kind}", f"{theirs}.intermediate.dense.{kind}")
                copy(f"{mine}.{ffn}.output.{kind}", f"{theirs}.output.dense.{kind}")
                copy(f"{mine}.{ffn}.norm.{kind}", f"{theirs}.output.LayerNorm.{kind}")
