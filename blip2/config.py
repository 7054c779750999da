"""What a BLIP-2 is made of, as plain data that travels in ``config.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from blip2.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot be read or does not make sense."""


@dataclass(frozen=True)
class QFormerConfig:
    """The Q-Former's dimensions; the defaults are the paper's (BERT-base, section 3.1).

    Attributes
    ----------
    encoder_width : int
        Width of the image features that cross-attention reads.
    cross_attention_every : int
        A layer has cross-attention when its number is a multiple of this.
    vocab_size : int
        Word pieces of the text branch, with ``[DEC]`` as the last one.
    dropout, attention_dropout : float
        Probabilities on hidden states and on attention weights.
    """

    num_queries: int = 32
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    encoder_width: int = 1408
    cross_attention_every: int = 2
    vocab_size: int = 30523
    max_positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads "
                f"{self.num_heads}; choose a width that the heads can share."
            )


@dataclass(frozen=True)
class Blip2Config:
    """One model: its frozen parts by name, its Q-Former, and the sizes of its heads.

    Attributes
    ----------
    name : str
        What to call it in reports and in the interface.
    stage : int
        1 for a retriever (ITC, ITM, ITG heads), 2 for a generator (projection to the LLM).
    image_encoder, language_model : str
        Names in the registries of ``blip2.vision`` and ``blip2.language``.
    image_positions : int
        Number of learned positions added to the image features, 0 for none. A ViT's tokens
        know where they are; the cells of a convolutional map barely do.
    embed_dim : int
        Width of the shared space of photos and texts (ITC).
    temperature : float
        Initial ITC temperature, a divisor (section 3.2).
    max_text_length : int
        Word pieces of a text in stage 1, ``[CLS]`` and ``[SEP]`` included.
    language_width : int
        Embedding width of the language model, 0 in stage 1.
    image_norm_eps : float
        Of the LayerNorm on the image features: 1e-5 in the official code, 1e-6 in the published
        Hugging Face checkpoints.
    match_temperature : float
        Divisor of ITM's log-odds, fitted on photos that were not trained on (temperature scaling):
        a matching head is surer of photos that it does not know than it should be.
    lm_head : bool
        Whether stage 1 has the head of ITG; published Hugging Face checkpoints lack it.
    holds_image_encoder : bool
        Whether the image encoder's weights stand in the checkpoint, as after fine-tuning.
    image_size : int
        Side in pixels for which an image encoder in the checkpoint has positions, 0 for its own.
    reads_question : bool
        Stage 2: whether the Q-Former reads the question, too, as VQA fine-tuning has it (section
        4.3).
    grounding : str
        Stage 2: a stage-1 model that writes plain descriptions (ITG), says whether something is
        there (ITM), answers in a word or two what it was taught to (ITG) and with its description
        opens what the language model reads of a photo; "" has the language model answer everything
        by the visual prompt, as in the paper.
    answers_questions : bool
        Stage 1: whether it was taught to answer questions by ITG, too.
    presence_threshold : float
        Stage 2: above this probability by ITM what a question names counts as there; fitted on
        photos that were not trained on.
    """

    name: str = "blip2"
    stage: int = 1
    image_encoder: str = "efficientnet-lite2"
    image_positions: int = 0
    embed_dim: int = 256
    temperature: float = 0.07
    max_text_length: int = 32
    language_model: str = ""
    language_width: int = 0
    image_norm_eps: float = 1e-5
    match_temperature: float = 1.0
    lm_head: bool = True
    holds_image_encoder: bool = False
    image_size: int = 0
    reads_question: bool = False
    answers_questions: bool = False
    grounding: str = ""
    presence_threshold: float = 0.5
    qformer: QFormerConfig = field(default_factory=QFormerConfig)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Blip2Config:
        """Build from nested plain dictionaries.

        Raises
        ------
        ConfigError
            A key that no attribute has, or a value of another type or out of range.
        """
        qformer = _checked(QFormerConfig, data.get("qformer", {}) if isinstance(data, dict) else {})
        return _checked(cls, {**data, "qformer": qformer} if isinstance(data, dict) else data)

    @classmethod
    def read(cls, path: str | Path) -> Blip2Config:
        """Read ``config.json``.

        Raises
        ------
        ConfigError
            The file is missing or is not such a configuration.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"The configuration {path} can't be read ({error.strerror}); "
                "name a folder that holds config.json."
            ) from error
        except ValueError as error:  # not UTF-8, or not JSON
            raise ConfigError(
                f"The configuration {path} is not JSON ({error}); restore the file."
            ) from error
        try:
            return cls.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f"The configuration {path} can't be used: {error}") from error

    def write(self, path: str | Path) -> None:
        """Write as JSON, readable by :meth:`read`."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def _checked(cls: type, values: Any) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{cls.__name__} must be a JSON object; restore the file.")
    kinds = {f.name: f.type for f in fields(cls)}
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise ConfigError(
            f"{cls.__name__} has no setting {', '.join(unknown)}; remove it or correct its name."
        )
    types = {"int": int, "float": (int, float), "str": str, "bool": bool}
    for name, value in values.items():
        expected = types.get(kinds[name])
        mistaken = isinstance(value, bool) and expected is not bool  # Python counts True as 1
        if expected and (not isinstance(value, expected) or mistaken):
            raise ConfigError(f"{name} must be of type {kinds[name]}, not {value!r}; mend it.")
        if kinds[name] == "int" and value < (0 if name in MAY_BE_ZERO else 1):
            raise ConfigError(f"{name} is {value}, which makes no sense; mend it.")
    if values.get("stage", 1) not in (1, 2):
        raise ConfigError(f"stage is {values['stage']}; it must be 1 or 2.")
    return cls(**values)


OBJECTIVES = ("itc", "itm", "itg")  # of stage 1

MAY_BE_ZERO = ("image_positions", "language_width", "image_size")

MINI_QFORMER = QFormerConfig(
    num_queries=16,
    hidden_size=384,
    num_layers=6,
    num_heads=12,
    intermediate_size=1536,
    encoder_width=1280,
    attention_dropout=0.0,
)

PRESETS: dict[str, Blip2Config] = {
    "mini-itm": Blip2Config(
        name="mini-itm",
        image_encoder="efficientnet-lite2-two-scales",
        image_positions=81,
        max_text_length=24,
        qformer=replace(MINI_QFORMER, encoder_width=1280 + 120),
    ),
    "mini-stage1": Blip2Config(  # what mini starts from
        name="mini-stage1", image_positions=81, max_text_length=24, qformer=MINI_QFORMER
    ),
    "mini": Blip2Config(
        name="mini",
        stage=2,
        image_positions=81,
        language_model="smollm2-135m-instruct",
        language_width=576,
        qformer=MINI_QFORMER,
    ),
    "pretrain-vit-g": Blip2Config(name="pretrain-vit-g", image_encoder="eva-vit-g"),
    "pretrain-vit-l": Blip2Config(
        name="pretrain-vit-l",
        image_encoder="clip-vit-l",
        qformer=QFormerConfig(encoder_width=1024),
    ),
}

# Registered ones, see `blip2.language.register_language_model`: too small to quantise.
SMALL_LANGUAGE_MODELS = ("smollm2-135m-instruct",)

# Stage 2 of the paper: a language model of the Hub and the width of its embeddings.
PAPER_LANGUAGE_MODELS = {
    "opt-2.7b": ("facebook/opt-2.7b", 2560),
    "opt-6.7b": ("facebook/opt-6.7b", 4096),
    "flan-t5-xl": ("google/flan-t5-xl", 2048),
    "flan-t5-xxl": ("google/flan-t5-xxl", 4096),
}
PRESETS |= {
    f"pretrain-{name}": Blip2Config(
        name=f"pretrain-{name}",
        stage=2,
        image_encoder="eva-vit-g",
        language_model=source,
        language_width=width,
    )
    for name, (source, width) in PAPER_LANGUAGE_MODELS.items()
}
