"""A training recipe: one YAML file, with ``key=value`` overrides from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from blip2.config import OBJECTIVES, PRESETS, Blip2Config
from blip2.errors import UserError

PRECISIONS = ("bf16", "fp16", "no")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run.

    Attributes
    ----------
    preset : str
        A name in ``blip2.config.PRESETS``, or the folder of a saved model of the same stage, such
        as one of your own parts (``Blip2.from_parts(...).save_pretrained(folder)``): its sizes and
        frozen parts. What the weights start from says ``start``.
    data, dev_data : str
        Shards to train on and to watch, see :mod:`train.shards`.
    watch : int
        Rows of ``dev_data`` that are measured at most, spread over it.
    output : str
        Folder of the run: checkpoints, logs and the finished model.
    cache : str
        Folder of cached image features; "" computes them anew at every step, each time of another
        random view.
    start : str
        Stage 1: folder of a BERT, ``"minilm"`` for the packaged one, or a stage-1 checkpoint to
        train on. Stage 2: a checkpoint of either, or ``"minilm"`` to go without stage 1. ``""``
        starts from random weights.
    texts : str
        ``"captions"``, ``"qa"`` (a row for each question) or ``"both"``; stage 1 reads captions
        or both.
    questions : int
        Stage 1: questions of ``data`` that a step learns to answer by ITG beside its
        ``batch_size`` pairs; they take turns by themselves. Needs ``texts: both``.
    answer : float
        Weight of learning to answer them.
    match_share : float
        Stage 1: share of a step's pairs whose matching is learned, see
        :meth:`blip2.representation.Representation.forward`.
    pool : int
        Stream the shards, by URL, too: so many are at hand at once, see :mod:`train.stream`; 0
        reads the list of all photos before the first step.
    resample : bool
        Draw shards anew for each pool, in proportion to their sources' weights.
    task : str
        Fine-tuning: ``"caption"``, ``"vqa"`` or ``"retrieval"``.
    train_encoder : bool
        Fine-tuning: train the image encoder, too.
    image_size : int
        Fine-tuning: side in pixels of the photos, 0 for the image encoder's own.
    layer_decay : float
        Fine-tuning: the learning rate of an image encoder's layer is this many times that of the
        layer after it.
    text_start : str
        Fine-tuning for VQA: a stage-1 model, whose text branch lets the Q-Former read questions;
        ``""`` goes without.
    question_prompt : str
        Stage 2: how a question is put to the language model, with ``{}`` for its words; ``""`` as
        that model wants it.
    query_tokens : int
        Pre-training: learned queries, in the place of the preset's number; 0 keeps that. Give it
        in both stages.
    image_encoder : str
        Pre-training: a registered image encoder in the place of the preset's, with its width and,
        where the preset has positions, as many as it has features; "" keeps that. Stage 1 may
        start from a model that read less of a photo (:mod:`train.growth`).
    dropout : float
        Pre-training: of the Q-Former's hidden states, in the place of the preset's; below 0 keeps
        that.
    match_smoothing : float
        Stage 1: label smoothing of ITM; 0 as in the paper.
    objectives : tuple of str
        Stage 1 and fine-tuning for retrieval: which of ``itc``, ``itm`` and ``itg`` are learned;
        ``itc`` always, since ITM's hard negatives are drawn by it. The head of one that is left
        out stays as it was, so don't match or re-rank by ITM without ``itm``
        (``train.evaluate retrieval --k-test 0``).
    views : int
        Cached views of each photo, see :mod:`train.features`; 1 is the whole photo alone.
    epochs, steps : int
        Length of the run: passes over the photos, or steps where those are given.
    batch_size : int
        Pairs of one step, over all processes.
    accumulate : int
        Parts in which each process computes its share of a batch, one after the other: less
        memory for the same update.
    checkpointing : bool
        Compute the activations of the Q-Former and of a trained vision transformer again in the
        backward pass: less memory, more time.
    compile : str
        Backend by which torch compiles the model, such as ``"inductor"``; ``""`` does without.
    shard : bool
        Cut the model over the processes instead of giving each a copy (FSDP), see
        :mod:`train.sharding`.
    learning_rate, final_learning_rate : float
        Peak and end of the cosine.
    fresh_learning_rate : float
        Peak for parameters that no checkpoint started; 0 uses ``learning_rate``.
    warmup_steps : int
        Steps of linear warm-up.
    betas : tuple of float
        AdamW's.
    weight_decay, clip_norm : float
        Clipping is off at 0.
    hardness_epochs : float
        Stage 1: ITM's negatives go from uniform to fully hard over this many passes.
    token_keep : float
        Share of a photo's features that a step reads, drawn anew each time; less than 1
        keeps the Q-Former from learning photos by heart.
    hide_pieces : float
        Stage 1 and fine-tuning for retrieval: share of a caption's word pieces that a step reads
        as ``[MASK]``, drawn anew each time, so that it matches and writes by the photo; 0 as in
        the paper.
    save_every, validate_every, log_every : int
        In steps.
    keep : int
        Checkpoints kept for resuming.
    average_last : int
        The finished model has the mean of the weights of so many checkpoints, the last ones, in
        the place of the last alone (stochastic weight averaging, Izmailov et al., UAI 2018), at
        best at a rate that stays high; at most ``keep``. 0 takes the last.
    precision : str
        ``"bf16"``, ``"fp16"`` or ``"no"``.
    prompts : tuple of str
        Stage 2: instructions, one drawn for each photo.
    diversity : float
        Weight of the loss that keeps the queries apart, see
        :func:`blip2.objectives.diversity_loss`; 0 as in the paper.
    split_captions : bool
        Stage 2 of an encoder-decoder: the first part of a caption is read, the rest is written.
    captions_at_once : int
        Captions of a photo that one step learns; the photo is read once for all. In stage 1 that
        is ITC, where they share the photo's target; ITM and ITG learn the first of them.
    typical : int
        Draw only so many captions of a photo, those that agree most with its others; 0 draws all.
    turns : int
        Stage 2: most questions of one conversation about a photo; 1 asks each by itself.
    samples : int
        Captions that the model itself draws for each photo with captions, learned from by how
        much better they match what people say than the others do, see :mod:`train.rewards`; 0 as
        in the paper.
    drawn_share : float
        Stage 1: share of a step's photos that captions are drawn for.
    reward : float
        Weight of learning from them.
    match_scale : bool
        Stage 2: start the projection so that visual tokens are as large as the language model's
        own embeddings, instead of several times larger.
    seed : int
        Decides order, captions, views and dropout.
    """

    preset: str
    data: str
    dev_data: str = ""
    watch: int = 5000
    output: str = "runs/run"
    cache: str = "cache"
    start: str = ""
    texts: str = "captions"
    questions: int = 0
    answer: float = 1.0
    match_share: float = 1.0
    pool: int = 0
    resample: bool = False
    task: str = ""
    train_encoder: bool = False
    image_size: int = 0
    layer_decay: float = 1.0
    text_start: str = ""
    question_prompt: str = ""
    query_tokens: int = 0
    image_encoder: str = ""
    dropout: float = -1.0
    match_smoothing: float = 0.0
    objectives: tuple[str, ...] = OBJECTIVES
    views: int = 1
    epochs: int = 1
    steps: int = 0
    batch_size: int = 96
    accumulate: int = 1
    checkpointing: bool = False
    compile: str = ""
    shard: bool = False
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    fresh_learning_rate: float = 0.0
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    hardness_epochs: float = 0.0
    token_keep: float = 1.0
    hide_pieces: float = 0.0
    save_every: int = 100
    validate_every: int = 200
    log_every: int = 10
    keep: int = 2
    average_last: int = 0
    precision: str = "bf16"
    prompts: tuple[str, ...] = ()
    diversity: float = 0.0
    split_captions: bool = False
    captions_at_once: int = 1
    typical: int = 0
    turns: int = 1
    samples: int = 0
    drawn_share: float = 1.0
    reward: float = 1.0
    match_scale: bool = False
    seed: int = 0


# Lowest and highest values that make sense.
LEAST = {
    "views": 1, "epochs": 1, "steps": 0, "batch_size": 2, "learning_rate": 1e-12, "warmup_steps": 0,
    "accumulate": 1, "final_learning_rate": 0, "fresh_learning_rate": 0, "weight_decay": 0,
    "clip_norm": 0, "hardness_epochs": 0, "save_every": 1, "validate_every": 1, "log_every": 1,
    "keep": 1, "seed": 0, "token_keep": 0.01, "diversity": 0,
    "image_size": 0, "layer_decay": 0.01, "pool": 0,
    "watch": 2, "captions_at_once": 1, "typical": 0, "turns": 1, "samples": 0, "reward": 0,
    "query_tokens": 0, "hide_pieces": 0, "average_last": 0, "questions": 0, "answer": 0,
    "match_share": 0.01, "drawn_share": 0.01, "match_smoothing": 0,
}  # fmt: skip
MOST = {
    "token_keep": 1, "layer_decay": 1, "hide_pieces": 0.9, "match_share": 1, "drawn_share": 1,
    "dropout": 0.9, "match_smoothing": 0.9,
}  # fmt: skip
CHOICES = {
    "precision": PRECISIONS,
    "texts": ("captions", "qa", "both"),
    "task": ("", "caption", "vqa", "retrieval"),
    "compile": ("", "inductor", "aot_eager"),
}


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides (values in YAML).

    Raises
    ------
    UserError
        The file is missing or malformed, names a setting that does not exist, or gives one a
        value that makes no sense.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        if not isinstance(values, dict):
            raise UserError(f"The recipe {path} is not a mapping of settings to values; mend it.")
        for override in overrides:
            key, sign, value = override.partition("=")
            if not sign:
                raise UserError(f"The override {override!r} has no '='; write key=value.")
            values[key] = yaml.safe_load(value) if value else ""
    except OSError as error:
        raise UserError(
            f"The recipe {path} can't be read ({error.strerror}); check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"The recipe {path} is not a text file; name a YAML file.") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"The recipe {path} or an override is not YAML: {problem}.") from error
    return _checked(values, str(path))


def pairs_of_part(recipe: Recipe, processes: int) -> int:
    """Pairs that a process computes at once: its share of a batch, cut by ``accumulate``.

    Raises
    ------
    UserError
        The batch can't be cut so.
    """
    parts = processes * recipe.accumulate
    if recipe.batch_size % parts or recipe.batch_size < 2 * parts:
        raise UserError(
            f"The batch_size {recipe.batch_size} can't be cut in {parts} equal parts of at least "
            f"2 ({processes} processes times accumulate {recipe.accumulate}); choose a multiple."
        )
    if recipe.questions % parts:
        raise UserError(
            f"{recipe.questions} questions can't be cut in {parts} equal parts; choose a multiple."
        )
    return recipe.batch_size // parts


def model_config(
    preset: str, stage: int, query_tokens: int = 0, image_encoder: str = "", dropout: float = -1.0
) -> Blip2Config:
    """What a recipe's ``preset`` names, with what its other settings put in the place of that.

    Parameters
    ----------
    preset : str
        As in a recipe.
    stage : int
        Of the recipe's command.
    query_tokens, image_encoder, dropout : int, str, float
        As in a recipe.

    Raises
    ------
    UserError
        There is no such preset, folder or image encoder, or it is of the other stage.
    """
    from blip2.checkpoint_files import read_stage

    if preset not in PRESETS and (Path(preset) / "config.json").is_file():
        # What is trained is to describe and to answer by itself.
        config = replace(read_stage(Path(preset), stage), grounding="")
    elif preset in PRESETS and PRESETS[preset].stage == stage:
        config = PRESETS[preset]
    else:
        fitting = [name for name, config in PRESETS.items() if config.stage == stage]
        raise UserError(
            f"The preset {preset!r} is not of stage {stage}; choose {', '.join(fitting)}, or the "
            "folder of a saved model of that stage."
        )
    changes: dict[str, Any] = {"num_queries": query_tokens} if query_tokens else {}
    if dropout >= 0:
        changes["dropout"] = dropout
    if image_encoder:
        from blip2.vision import build_architecture

        encoder = build_architecture(image_encoder)
        changes["encoder_width"] = encoder.width
        positions = encoder.num_tokens if config.image_positions else 0
        config = replace(config, image_encoder=image_encoder, image_positions=positions)
    return replace(config, qformer=replace(config.qformer, **changes))


def pretraining_config(recipe: Recipe, stage: int) -> Blip2Config:
    """The model of a recipe for pre-training, see :func:`model_config`."""
    more = recipe.query_tokens, recipe.image_encoder, recipe.dropout
    return model_config(recipe.preset, stage, *more)


def _checked(values: dict[str, Any], source: str) -> Recipe:
    kinds = {f.name: f.type for f in fields(Recipe)}
    unknown = sorted(str(name) for name in set(values) - set(kinds))
    if unknown:
        raise UserError(
            f"{source} has the unknown setting {', '.join(unknown)}; see train/config.py."
        )
    if values.get("precision") is False:
        values["precision"] = "no"  # YAML reads a bare `no` as a truth value
    missing = [name for name in ("preset", "data") if not values.get(name)]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}; give it there or as key=value.")
    converted = {
        name: _converted(name, kinds[name], value, source) for name, value in values.items()
    }
    for name, allowed in CHOICES.items():
        if converted.get(name, allowed[0]) not in allowed:
            named = ", ".join(filter(None, allowed))
            raise UserError(f"{source}: {name} must be one of {named}.")
    if converted.get("question_prompt") and "{}" not in converted["question_prompt"]:
        raise UserError(f"{source}: question_prompt has no {{}} for the question; add it.")
    if converted.get("average_last", 0) > converted.get("keep", Recipe.keep):
        raise UserError(f"{source}: average_last needs as many checkpoints; set keep as high.")
    asked = set(converted.get("objectives", OBJECTIVES))
    if "itc" not in asked or asked - set(OBJECTIVES):
        raise UserError(f"{source}: objectives must be itc and any of itm, itg.")
    converted["objectives"] = tuple(name for name in OBJECTIVES if name in asked)
    return replace(Recipe(preset="", data=""), **converted)


def _converted(name: str, kind: str, value: Any, source: str) -> Any:
    """A YAML value as the type of its setting, within its limits."""
    try:
        if kind == "tuple[float, float]":
            first, second = value
            value = (float(first), float(second))
        elif kind == "tuple[str, ...]":
            value = (value,) if isinstance(value, str) and value else tuple(value)
            if not all(isinstance(entry, str) for entry in value):
                raise ValueError("not texts")
        elif kind == "float":
            value = float(value)  # YAML reads 1e-4 as text
        elif kind == "int":
            if float(value) != int(value):
                raise ValueError("not whole")
            value = int(value)
        elif not isinstance(value, bool if kind == "bool" else str):
            raise ValueError(f"not of type {kind}")
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {name} can't be {value!r}; see train/config.py.") from error
    if name in LEAST and not value >= LEAST[name]:
        raise UserError(f"{source}: {name} is {value}; choose at least {LEAST[name]:g}.")
    if name in MOST and not value <= MOST[name]:
        raise UserError(f"{source}: {name} is {value}; choose at most {MOST[name]:g}.")
    return value
