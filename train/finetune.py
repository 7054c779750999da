"""Fine-tuning for captions, questions or retrieval (section 4): the image encoder learns, too.

The language model stays frozen. For questions the Q-Former reads the question beside the photo
(section 4.3), for which it takes the text branch of a stage-1 model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from blip2.config import OBJECTIVES
from blip2.display import one_line
from blip2.errors import UserError
from train.command import run_recipe
from train.config import Recipe, model_config

if TYPE_CHECKING:
    from blip2.config import Blip2Config
    from blip2.representation import Representation
    from blip2.tokenization import TextTokenizer
    from blip2.vision import ImageEncoder
    from blip2.visual_prompt import VisualPrompt

TASKS = {"caption": 2, "vqa": 2, "retrieval": 1}  # and the stage whose model each goes on from


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "finetune", __doc__, run, "finetune_caption_opt_2_7b.yaml")


def run(recipe: Recipe) -> None:
    """Train a recipe and write the fine-tuned model to ``<output>/model``."""
    import torch
    from accelerate import PartialState

    from blip2.checkpoints import save_checkpoint
    from train.inputs import dev_photos, training_photos
    from train.loop import train
    from train.optim import build_optimizer

    stage = task_stage(recipe)
    torch.manual_seed(recipe.seed)
    tune = _retrieval if stage == 1 else _generation
    whole, trained, config, tokenizer, losses, validation = tune(recipe)
    encoder = trained.image_reader.encoder
    photos = training_photos(recipe, encoder)
    losses_at = losses(photos)
    validate = None
    if recipe.dev_data:
        validate = validation(dev_photos(recipe, encoder, photos), losses_at)
    total = recipe.steps or recipe.epochs * photos.steps_per_epoch(recipe.batch_size)
    train(recipe, whole, build_optimizer(whole, recipe), total, losses_at, validate, photos)
    folder = f"{recipe.output}/model"
    if PartialState().is_main_process:
        save_checkpoint(trained, config, folder)
        if tokenizer:
            tokenizer.save(folder)
        print(f"the fine-tuned model is in {one_line(folder)}")


def task_stage(recipe: Recipe) -> int:
    """Of the model that a task goes on from.

    Raises
    ------
    UserError
        The recipe names no task, or settings that don't go with it.
    """
    if recipe.task not in TASKS:
        raise UserError(f"The recipe has no task; choose {', '.join(TASKS)}.")
    wanted = "qa" if recipe.task == "vqa" else "captions"
    if recipe.texts not in (wanted, "both") or (recipe.texts == "both" and recipe.task != "vqa"):
        raise UserError(f"The task {recipe.task} trains on {wanted}; set texts: {wanted}.")
    if recipe.samples or recipe.questions or recipe.turns > 1:
        raise UserError(
            "Only pre-training draws captions, adds questions and holds talks; leave samples, "
            "questions and turns out."
        )
    if recipe.query_tokens:
        raise UserError("A model has its queries when it is fine-tuned; leave query_tokens out.")
    if recipe.objectives != OBJECTIVES and recipe.task != "retrieval":
        raise UserError("Only retrieval learns by ITC, ITM and ITG; leave objectives out.")
    if recipe.hide_pieces and recipe.task != "retrieval":
        raise UserError("Only retrieval hides word pieces; leave hide_pieces out.")
    if recipe.text_start and recipe.task != "vqa":
        raise UserError("Only vqa has the Q-Former read a question; leave text_start out.")
    return TASKS[recipe.task]


def tuned_config(recipe: Recipe, start: Blip2Config | None = None) -> Blip2Config:
    """The fine-tuned model's configuration.

    Parameters
    ----------
    recipe : Recipe
        Its preset says which frozen parts go with the model.
    start : Blip2Config, optional
        Of the model that is gone on from; by default it is as the preset says.

    Raises
    ------
    UserError
        The preset is of other sizes.
    """
    preset = model_config(recipe.preset, task_stage(recipe))
    start = start or preset
    sizes = ("num_queries", "hidden_size", "num_layers", "encoder_width")
    if any(getattr(start.qformer, n) != getattr(preset.qformer, n) for n in sizes) or (
        start.language_width != preset.language_width
    ):
        raise UserError(
            f"{recipe.start} is of other sizes than the preset {recipe.preset!r}; choose its own."
        )
    return replace(
        start,
        name=f"{start.name} for {recipe.task}",
        image_encoder=preset.image_encoder,
        language_model=preset.language_model,
        holds_image_encoder=True,
        image_size=recipe.image_size or start.image_size,
        reads_question=start.reads_question or bool(recipe.text_start),
        grounding="",  # what is trained answers by itself
        answers_questions=False,  # unlearned, for all that is known
    )


def _retrieval(recipe: Recipe):
    """ITC, ITM and ITG, or what the recipe asks of them, go on, with the image encoder trained."""
    import torch

    from blip2.representation import Representation
    from blip2.sources import open_source
    from blip2.tokenization import TextTokenizer
    from train.stage1 import Stage1Losses, Stage1Validation, leave_out

    source = open_source(recipe.start, stage=1)
    config = tuned_config(recipe, source.config)
    if not config.lm_head and "itg" in recipe.objectives:
        raise UserError(
            f"{recipe.start} lacks the head of ITG, as Hugging Face's layout does; start from the "
            "official .pth file or from a stage 1 of your own, or set objectives: [itc, itm]."
        )
    model = source.build(Representation, torch.device("cpu"))
    leave_out(model, recipe.objectives)
    model.qformer.checkpointing = recipe.checkpointing
    model.config = config
    config = _attach_encoder(recipe, model, source)
    tokenizer = TextTokenizer(source.words, config.max_text_length)
    return (
        model, model, config, tokenizer,
        lambda photos: Stage1Losses(recipe, photos, tokenizer),
        Stage1Validation,
    )  # fmt: skip


def _generation(recipe: Recipe):
    """The language modelling of stage 2 goes on, with the image encoder trained."""
    import torch

    from blip2.language_models import Placement
    from blip2.sources import open_source
    from blip2.tokenization import TextTokenizer
    from blip2.visual_prompt import Stage2, VisualPrompt
    from train.inputs import frozen_precision
    from train.stage2 import Stage2Losses, Stage2Validation, for_training

    source = open_source(recipe.start, stage=2)
    config = tuned_config(recipe, source.config)
    cpu = torch.device("cpu")  # accelerate moves it to where training runs
    prompt, tokenizer = source.build(VisualPrompt, cpu), None
    if recipe.text_start and source.config.reads_question:
        raise UserError(f"{recipe.start} reads questions already; leave text_start out.")
    prompt.config = config
    if recipe.text_start:
        prompt, tokenizer = with_text_branch(prompt, config, recipe.text_start)
    elif config.reads_question:
        tokenizer = TextTokenizer(source.words, config.max_text_length)
    prompt.qformer.checkpointing = recipe.checkpointing
    config = _attach_encoder(recipe, prompt, source)
    language = for_training(source.language_model(frozen_precision(recipe), Placement(cpu)))
    whole = Stage2(prompt, language, recipe.diversity)
    return (
        whole, prompt, config, tokenizer,
        lambda photos: Stage2Losses(recipe, photos, language, tokenizer),
        Stage2Validation,
    )  # fmt: skip


def with_text_branch(
    prompt: VisualPrompt, config: Blip2Config, text_start: str
) -> tuple[VisualPrompt, TextTokenizer]:
    """A stage-2 model whose Q-Former reads questions, too.

    Stage 2 has dropped the text branch; its words, positions and feed-forward layers come from a
    stage-1 model, everything else stays what stage 2 made of it.

    Parameters
    ----------
    prompt : VisualPrompt
        Without text branch.
    config : Blip2Config
        Of the new model, with ``reads_question``.
    text_start : str
        A stage-1 model with a Q-Former of the same size.

    Returns
    -------
    VisualPrompt
        The new model, with its configuration.
    TextTokenizer
        Of its Q-Former.

    Raises
    ------
    UserError
        The stage-1 model is missing or of another size.
    """
    import torch

    from blip2.checkpoints import fill
    from blip2.representation import Representation
    from blip2.sources import open_source
    from blip2.tokenization import TextTokenizer
    from blip2.visual_prompt import VisualPrompt

    words = open_source(text_start, stage=1)
    theirs = words.config.qformer
    # Stage 2 of some layouts does not say how many words its Q-Former once knew.
    qformer = replace(
        config.qformer, vocab_size=theirs.vocab_size, max_positions=theirs.max_positions
    )
    taught = words.build(Representation, torch.device("cpu")).state_dict()
    reading = VisualPrompt(replace(config, qformer=qformer))
    own = prompt.state_dict()
    text = {n: v for n, v in taught.items() if n in reading.state_dict() and n not in own}
    fill(reading, {**own, **text}, text_start)
    return reading, TextTokenizer(words.words, config.max_text_length)


def _attach_encoder(recipe: Recipe, model: Representation | VisualPrompt, source) -> Blip2Config:
    """Have a model read pixels through its image encoder; the configuration with its size."""
    import torch

    from blip2.vision_transformers import VisionTransformer, resized
    from train.inputs import frozen_precision

    # What is trained starts from all that its checkpoint holds.
    precision = torch.float32 if recipe.train_encoder else frozen_precision(recipe)
    encoder: ImageEncoder = resized(source.image_encoder(precision), recipe.image_size)
    model.image_reader.encoder = encoder
    if recipe.train_encoder:
        encoder.unfreeze(recipe.checkpointing)
    size = encoder.image_size if isinstance(encoder, VisionTransformer) else 0
    return replace(model.config, image_size=size)


if __name__ == "__main__":
    sys.exit(main())
