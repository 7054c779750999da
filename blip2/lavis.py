"""Checkpoints of LAVIS, the official code: one ``.pth`` file with what was trained.

Such a file is a pickle. It is read with ``weights_only=True``, which refuses everything but tensors
and plain containers; where you can choose, prefer a safetensors checkpoint all the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blip2.checkpoint_files import CheckpointError, check_file, file_digest
from blip2.checkpoints import fill
from blip2.config import PAPER_LANGUAGE_MODELS, Blip2Config, QFormerConfig
from blip2.language import FrozenLanguageModel
from blip2.language_models import Placement, build_language_model
from blip2.names import LAVIS, translations
from blip2.vision import ImageEncoder, build_image_encoder
from blip2.vision_transformers import EvaViT, at_size

ENCODERS = {1408: "eva-vit-g", 1024: "clip-vit-l"}  # by width
HEAD = 64  # width of a head of every BERT, which no tensor shows
EVA_HEAD = 88
EVA = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks.", "encoder.layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)


class LavisFile:
    """A ``.pth`` file of LAVIS, read.

    Parameters
    ----------
    path : Path
        The file.
    stage : int
        1 for a retriever, 2 for a generator.

    Raises
    ------
    CheckpointError
        It is missing or can't be read, holds more than tensors, or is no BLIP-2 of this stage.
    """

    def __init__(self, path: Path, stage: int) -> None:
        check_file(path)
        self.path, self.stage = path, stage
        try:
            whole = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises anything, from RuntimeError to UnpicklingError
            reason = str(error).split("\n")[0]
            raise CheckpointError(
                f"The file {path} can't be read as tensors alone ({reason}); fetch it again, from "
                "its official source."
            ) from error
        state = whole.get("model", whole) if isinstance(whole, dict) else {}
        # Constants, and copies of the tied word embedding and its bias.
        skipped = ("position_ids", "predictions.decoder.weight", "predictions.decoder.bias")
        state = {name: value for name, value in state.items() if not name.endswith(skipped)}
        self.eva = {n: v for n, v in state.items() if n.startswith("visual_encoder.")}
        self.state = {n: v for n, v in state.items() if n not in self.eva}
        self.language = next((k for k in ("opt", "t5") if f"{k}_proj.weight" in state), "")
        needed = {1: "itm_head.weight", 2: f"{self.language or 'opt'}_proj.weight"}[stage]
        if not {"query_tokens", needed} <= set(state):
            raise CheckpointError(
                f"The file {path} holds no BLIP-2 of stage {stage} (query_tokens and {needed}); "
                "choose another file."
            )
        self.config = self._config()

    def _config(self) -> Blip2Config:
        """From the shapes of the tensors."""
        layer = "Qformer.bert.encoder.layer."
        numbers = {int(m[1]) for n in self.state if (m := re.match(rf"{re.escape(layer)}(\d+)", n))}
        crossing = sorted({n for n in numbers if f"{layer}{n}.crossattention.self.key.weight"
                           in self.state})  # fmt: skip
        shape = {name: tuple(value.shape) for name, value in self.state.items()}
        _, queries, width = shape["query_tokens"]
        words = shape.get("Qformer.bert.embeddings.word_embeddings.weight")
        places = shape.get("Qformer.bert.embeddings.position_embeddings.weight")
        encoder_width = shape["ln_vision.weight"][0]
        qformer = QFormerConfig(
            num_queries=queries,
            hidden_size=width,
            num_layers=max(numbers) + 1,
            num_heads=width // HEAD,
            intermediate_size=shape[f"{layer}0.intermediate_query.dense.weight"][0],
            encoder_width=encoder_width,
            cross_attention_every=crossing[1] - crossing[0] if len(crossing) > 1 else len(numbers),
            vocab_size=words[0] if words else QFormerConfig.vocab_size,
            max_positions=places[0] if places else QFormerConfig.max_positions,
        )
        language_width = shape[f"{self.language}_proj.weight"][0] if self.language else 0
        return Blip2Config(
            name=self.path.stem,
            stage=self.stage,
            image_encoder=ENCODERS.get(encoder_width, "eva-vit-g"),
            embed_dim=256 if self.language else shape["vision_proj.weight"][0],
            language_model=self._language_model(language_width),
            language_width=language_width,
            qformer=qformer,
        )

    def _language_model(self, width: int) -> str:
        fitting = [source for name, (source, its) in PAPER_LANGUAGE_MODELS.items()
                   if its == width and self.language in name]  # fmt: skip
        return fitting[0] if self.language and fitting else ""

    def build(self, kind: type[nn.Module], device: torch.device) -> Any:
        """One of our modules with the file's weights, in fp32 and eval mode.

        Raises
        ------
        CheckpointError
            Tensors are missing, unknown or of another shape; each is named as we call it.
        """
        with torch.device("meta"):
            module = kind(self.config)
        module = module.to_empty(device=device)
        names = translations(module.state_dict(), LAVIS, self.language)
        state = {names.get(name, name): value for name, value in self.state.items()}
        if "temperature" in state:
            state["temperature"] = state["temperature"].reshape(())
        fill(module, state, str(self.path))
        return module.eval()

    def image_encoder(self, dtype: torch.dtype, image_size: int | None = None) -> ImageEncoder:
        """The file's own image encoder; where it has none, the published one of its width.

        Raises
        ------
        CheckpointError
            Tensors are missing, unknown or of another shape; each is named.
        """
        if not self.eva:
            return at_size(build_image_encoder(self.config.image_encoder), image_size).to(dtype)
        from transformers import Blip2VisionConfig, Blip2VisionModel

        state = eva_state(self.eva)
        positions, width = state["embeddings.position_embedding"].shape[1:]
        patch = state["embeddings.patch_embedding.weight"].shape[-1]
        config = Blip2VisionConfig(
            hidden_size=width,
            intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=1 + max(int(n.split(".")[2]) for n in state if "layers." in n),
            num_attention_heads=width // EVA_HEAD,
            image_size=patch * round((positions - 1) ** 0.5),
            patch_size=patch,
        )
        with torch.device("meta"):
            model = Blip2VisionModel(config)
        encoder = EvaViT(model.to(dtype).to_empty(device="cpu"))
        fill(encoder.model, state, str(self.path))
        return at_size(encoder.freeze(), image_size)

    def language_model(self, dtype: torch.dtype, placement: Placement) -> FrozenLanguageModel:
        """The published language model that the file was trained with.

        Raises
        ------
        CheckpointError
            None of the paper's is of this width.
        """
        if not self.config.language_model:
            raise CheckpointError(
                f"The file {self.path} projects to width {self.config.language_width}, which no "
                f"{self.language} language model of the paper has; choose another file."
            )
        return build_language_model(self.config.language_model, dtype, placement)

    @property
    def words(self) -> Path:
        """Where BERT's word pieces are: LAVIS files have none, and all are the same."""
        from blip2.assets import minilm_dir

        return minilm_dir() / "tokenizer.json"

    def fingerprint(self) -> str:
        """Digest of the file."""
        return file_digest(self.path).hex()


def eva_state(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """EVA ViT's tensors of a LAVIS file under the names of transformers.

    LAVIS has biases for queries and values alone; transformers has one for all three.
    """
    state = {}
    for name, value in theirs.items():
        short = name.removeprefix("visual_encoder.")
        if short.endswith("v_bias"):
            continue  # taken together with q_bias
        if short.endswith("q_bias"):
            other = theirs[name.replace("q_bias", "v_bias")]
            value = torch.cat([value, torch.zeros_like(value), other])
            short = short.replace("q_bias", "qkv.bias")
        for old, new in EVA:
            short = short.replace(old, new)
        state[short] = value
    return state
