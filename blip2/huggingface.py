"""Checkpoints in the layout of Hugging Face transformers, as ``Salesforce/blip2-*`` are published.

The Q-Former and its heads go to our modules tensor by tensor; the frozen image encoder and
language model are transformers' own, which also loads them (shards, precision, devices,
quantisation).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from blip2.checkpoint_files import ARCHITECTURES, CheckpointError, check_architecture, fingerprint
from blip2.config import Blip2Config, QFormerConfig
from blip2.language import FrozenLanguageModel
from blip2.language_models import Placement, quiet, wrap
from blip2.names import HUGGING_FACE, translations
from blip2.vision import ImageEncoder
from blip2.vision_transformers import EvaViT

VISION, LANGUAGE = "vision_model.", "language_model."
Trained = TypeVar("Trained", bound=nn.Module)


class Published:
    """A folder in Hugging Face's layout, opened for reading.

    Parameters
    ----------
    folder : Path
        With ``config.json`` and safetensors files, sharded or not.

    stage : int
        1 for a retriever, 2 for a generator.

    Raises
    ------
    CheckpointError
        It holds no BLIP-2 of this stage, or a shard is missing or damaged.
    """

    def __init__(self, folder: Path, stage: int) -> None:
        from transformers import Blip2Config as TheirConfig

        check_architecture(folder, stage)
        self.folder = folder
        self.theirs = TheirConfig.from_pretrained(folder, local_files_only=True)
        self.config = our_config(self.theirs, stage, folder.name)
        self.files = tensor_files(folder)

    def build(self, kind: type[Trained], device: torch.device) -> Trained:
        """One of our modules with the checkpoint's weights, in fp32 and eval mode.

        Parameters
        ----------
        kind : type
            ``Representation`` or ``VisualPrompt``.
        device : torch.device
            Where it goes.
        """
        with torch.device("meta"):  # its random start would be thrown away
            module = kind(self.config)
        module = module.to_empty(device=device)
        if self.config.stage == 1:  # the layout has no place for what was learned
            nn.init.constant_(module.temperature, self.config.temperature)
        self.fill(module)
        return module.eval()

    @torch.no_grad()
    def fill(self, module: nn.Module) -> None:
        """Copy what was trained into one of our modules, one tensor at a time.

        Raises
        ------
        CheckpointError
            Tensors are missing, unknown or of another shape; each is named.
        """
        from safetensors import safe_open

        own = module.state_dict()
        wanted = translations(own, HUGGING_FACE)
        problems = [f"{name} is missing" for name in wanted if name not in self.files]
        problems += [f"{name} is unknown" for name in self._unclaimed(wanted)]
        problems += [
            f"{name} has shape {self.files[name].shape} instead of {list(own[ours].shape)}"
            for name, ours in wanted.items()
            if name in self.files and self.files[name].shape != list(own[ours].shape)
        ]
        if problems:
            self._refuse(problems)
        for file in {self.files[name].path for name in wanted}:
            with safe_open(file, "pt") as tensors:
                for name in wanted.keys() & tensors.keys():
                    own[wanted[name]].copy_(tensors.get_tensor(name))

    def _unclaimed(self, wanted: dict[str, str]) -> list[str]:
        frozen = (VISION,) if self.config.stage == 1 else (VISION, LANGUAGE)
        return [
            name for name in self.files
            if name not in wanted and not name.startswith(frozen)
            and not name.endswith("position_ids")  # a constant that older files hold
        ]  # fmt: skip

    def _refuse(self, problems: list[str]) -> None:
        raise CheckpointError(
            f"The checkpoint {self.folder} does not fit its configuration: {'; '.join(problems)}; "
            "fetch it again."
        )

    def image_encoder(self, dtype: torch.dtype, image_size: int | None = None) -> ImageEncoder:
        """Its image encoder, frozen."""
        from transformers import Blip2VisionModel

        config = self.theirs.vision_config
        model = self._frozen(Blip2VisionModel, config, VISION, dtype=dtype)
        return EvaViT(model, image_size).freeze()

    def language_model(self, dtype: torch.dtype, placement: Placement) -> FrozenLanguageModel:
        """Its language model with its tokenizer and published prompt, frozen."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        config = self.theirs.text_config
        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        options = placement.options(dtype)
        return wrap(self._frozen(loader, config, LANGUAGE, dtype=dtype, **options), tokenizer)

    @property
    def words(self) -> Path:
        """Where the word pieces of the text branch are."""
        return self.folder

    def fingerprint(self) -> str:
        """Digest of the checkpoint."""
        return fingerprint(self.folder)

    def _frozen(self, loader: Any, config: Any, prefix: str, **options: Any) -> Any:
        """A part of the checkpoint as transformers' own module, every tensor accounted for."""
        with quiet():
            model, report = loader.from_pretrained(
                self.folder,
                config=config,
                key_mapping={"^" + prefix.replace(".", r"\."): ""},
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below, with everything else
                **options,
            )
        own = {name.removeprefix(prefix) for name in self.files if name.startswith(prefix)}
        problems = [f"{prefix}{name} is missing" for name in sorted(report["missing_keys"])]
        problems += [
            f"{prefix}{name} is unknown" for name in sorted(own & set(report["unexpected_keys"]))
        ]
        problems += [
            f"{prefix}{name} has shape {list(found)} instead of {list(needed)}"
            for name, found, needed in sorted(report["mismatched_keys"])
        ]
        if problems:
            self._refuse(problems)
        return model


class Stored(NamedTuple):
    """Where a tensor is, and its shape."""

    path: Path
    shape: list[int]


def tensor_files(folder: Path) -> dict[str, Stored]:
    """Which file of a folder holds which tensor, by the tensors' names.

    Raises
    ------
    CheckpointError
        There is no safetensors file, or one that is needed is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"The index {index} is damaged; fetch it again.") from error
        paths = [folder / name for name in sorted(named)]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"No .safetensors file is in {folder}; fetch the checkpoint again.")
    files = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (it is no dictionary)
                    files[name] = Stored(path, tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"The checkpoint file {path} is missing or damaged ({error}); fetch it again."
            ) from error
    return files


def our_config(theirs: Any, stage: int, name: str) -> Blip2Config:
    """Our configuration of one of theirs."""
    qformer, vision, text = theirs.qformer_config, theirs.vision_config, theirs.text_config
    return Blip2Config(
        name=name,
        stage=stage,
        image_encoder="eva-vit-g",
        embed_dim=theirs.image_text_hidden_size,
        language_model=text.model_type if stage == 2 else "",
        language_width=text.hidden_size if stage == 2 else 0,
        image_norm_eps=vision.layer_norm_eps,
        lm_head=False,
        qformer=QFormerConfig(
            num_queries=theirs.num_query_tokens,
            hidden_size=qformer.hidden_size,
            num_layers=qformer.num_hidden_layers,
            num_heads=qformer.num_attention_heads,
            intermediate_size=qformer.intermediate_size,
            encoder_width=vision.hidden_size,
            cross_attention_every=qformer.cross_attention_frequency,
            vocab_size=qformer.vocab_size,
            max_positions=qformer.max_position_embeddings,
            dropout=qformer.hidden_dropout_prob,
            attention_dropout=qformer.attention_probs_dropout_prob,
            layer_norm_eps=qformer.layer_norm_eps,
            initializer_range=qformer.initializer_range,
        ),
    )


def their_config(
    config: Blip2Config, vision: Any, text: Any = None, image_token: int | None = None
) -> Any:
    """Transformers' configuration of one of ours, given those of the frozen parts."""
    from transformers import Blip2Config as TheirConfig
    from transformers import Blip2QFormerConfig

    qformer = config.qformer
    theirs = Blip2QFormerConfig(
        vocab_size=qformer.vocab_size,
        hidden_size=qformer.hidden_size,
        num_hidden_layers=qformer.num_layers,
        num_attention_heads=qformer.num_heads,
        intermediate_size=qformer.intermediate_size,
        hidden_dropout_prob=qformer.dropout,
        attention_probs_dropout_prob=qformer.attention_dropout,
        max_position_embeddings=qformer.max_positions,
        initializer_range=qformer.initializer_range,
        layer_norm_eps=qformer.layer_norm_eps,
        cross_attention_frequency=qformer.cross_attention_every,
        encoder_hidden_size=qformer.encoder_width,
        use_qformer_text_input=config.stage == 1,
    )
    whole = TheirConfig(
        vision_config=vision,
        qformer_config=theirs,
        text_config=text,
        num_query_tokens=qformer.num_queries,
        image_text_hidden_size=config.embed_dim,
        image_token_index=image_token,
    )
    whole.architectures = [ARCHITECTURES[config.stage]]
    return whole


def save_huggingface(
    folder: str | Path,
    config: Blip2Config,
    trained: nn.Module,
    encoder: EvaViT,
    language: FrozenLanguageModel | None = None,
) -> None:
    """Write a model in Hugging Face's layout, frozen parts included.

    What that layout has no place for (the ITC temperature, the head of ITG) is left out.

    Parameters
    ----------
    folder : str or Path
        Made if it doesn't exist.
    config : Blip2Config
        Of the model.
    trained : Representation or VisualPrompt
        Our module.
    encoder : EvaViT
        Its frozen image encoder.
    language : FrozenLanguageModel, optional
        Its frozen language model, in stage 2.

    Raises
    ------
    CheckpointError
        The layout has no place for this image encoder.
    """
    from huggingface_hub import save_torch_state_dict

    if not isinstance(encoder, EvaViT):
        raise CheckpointError(
            f"Hugging Face's layout holds an EVA ViT and not {config.image_encoder}; save it in "
            "the project's own form."
        )
    own = trained.state_dict()
    state = {theirs: own[ours] for theirs, ours in translations(own, HUGGING_FACE).items()}
    # A frozen part's tensors under the names that they have in the whole.
    state |= encoder.model.state_dict(prefix=VISION)
    if language is not None:
        words = language.model.state_dict()
        # One tensor of several names goes by the name that transformers looks for.
        for name, source in language.model.all_tied_weights_keys.items():
            if words[name].data_ptr() == words[source].data_ptr():
                del words[name]
        state |= {f"{LANGUAGE}{name}": value for name, value in words.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Copies: transformers changes the configurations that it puts together.
    vision = copy.deepcopy(encoder.model.config)
    token = None if language is None else len(language.tokenizer)
    text = None if language is None else copy.deepcopy(language.model.config)
    their_config(config, vision, text, token).save_pretrained(folder)
    save_torch_state_dict(state, folder, metadata={"format": "pt"})
    if language is not None:
        language.tokenizer.save_pretrained(folder)
