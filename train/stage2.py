"""Stage 2: vision-to-language generative learning (paper, section 3.3).

Trains the Q-Former and a projection so that a frozen language model can read photos.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blip2.errors import UserError
from train.command import run_recipe
from train.config import Recipe, model_config

if TYPE_CHECKING:
    from torch import Tensor

    from blip2.generation import VisualPrompt
    from blip2.language import FrozenLanguageModel
    from train.data import Batch
    from train.parts import Part


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "stage2", __doc__, run)


def run(recipe: Recipe) -> None:
    """Train a recipe and write the finished generator to ``<output>/model``."""
    import torch
    from accelerate import PartialState

    from blip2.checkpoints import save_checkpoint
    from blip2.devices import fast_dtype
    from blip2.generation import Stage2, VisualPrompt
    from blip2.language_models import Placement, build_language_model
    from blip2.parts import bert_folder, fresh_prompt
    from train.data import CaptionedPhotos
    from train.loop import train
    from train.optim import build_optimizer

    if not recipe.prompts and not recipe.split_captions:
        raise UserError("The recipe has no prompts; give at least one instruction.")
    config = model_config(recipe.preset, stage=2)
    torch.manual_seed(recipe.seed)
    prompt = VisualPrompt(config)
    if recipe.start == "minilm":  # without stage 1: the ablation of figure 5
        prompt = fresh_prompt(config, bert_folder("minilm"))
    elif recipe.start:
        start_from_stage1(prompt, recipe.start)
    prompt.qformer.checkpointing = recipe.checkpointing
    cpu = torch.device("cpu")  # accelerate moves it to where training runs
    on_gpu = torch.cuda.is_available()
    on_gpus = {"fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}
    precision = on_gpus[recipe.precision] if on_gpu else fast_dtype(cpu)
    language = build_language_model(config.language_model, precision, Placement(cpu))
    if not on_gpu:
        # In bf16 on a CPU the fused attention's backward pass is slower than the plain one.
        language.model.set_attn_implementation("eager")
    if recipe.match_scale:
        match_scale(prompt, language)
    model = Stage2(prompt, language, recipe.diversity)
    photos = CaptionedPhotos(
        recipe.data, config.image_encoder, recipe.cache, recipe.views, recipe.seed
    )
    print(photos.report.describe())

    losses_at = Stage2Losses(recipe, photos, language)
    validate = None
    if recipe.dev_data:
        dev = CaptionedPhotos(recipe.dev_data, config.image_encoder, recipe.cache)
        validate = Stage2Validation(dev, (*recipe.prompts, language.form.caption)[0])
    optimizer = build_optimizer(model, recipe, fresh_parts(recipe.start))
    total = recipe.steps or recipe.epochs * photos.steps_per_epoch(recipe.batch_size)
    train(recipe, model, optimizer, total, losses_at, validate, photos)
    folder = f"{recipe.output}/model"
    if PartialState().is_main_process:
        save_checkpoint(prompt, config, folder)
        print(f"the finished model is in {folder}")


def fresh_parts(start: str) -> tuple[str, ...]:
    """Parts that no checkpoint started, for :func:`train.optim.build_optimizer`."""
    from train.optim import EVERYTHING

    if start == "minilm":
        return ("image_reader", "cross_attention", "query_tokens", "projection")
    return ("projection",) if start else EVERYTHING


def match_scale(prompt: VisualPrompt, language: FrozenLanguageModel) -> None:
    """Give fresh visual tokens the standard deviation of the language model's embeddings.

    The queries come out of a LayerNorm, so an output of the projection is as large as its
    weights times the root of the Q-Former's width.
    """
    import torch

    deviation = float(language.model.get_input_embeddings().weight.float().std())
    width = prompt.config.qformer.hidden_size
    torch.nn.init.normal_(prompt.projection.weight, std=deviation / width**0.5)
    torch.nn.init.zeros_(prompt.projection.bias)


def start_from_stage1(prompt: VisualPrompt, folder: str) -> None:
    """Copy what stages 1 and 2 share; the text branch and the heads of stage 1 fall away.

    Raises
    ------
    UserError
        The folder is no stage-1 checkpoint of this Q-Former.
    """
    from pathlib import Path

    from blip2.checkpoints import fill, find_checkpoint, read_stage, read_tensors

    source = Path(find_checkpoint(folder))
    read_stage(source, 1)
    own = prompt.state_dict()
    stage1 = read_tensors(source)
    shared = {name: value for name, value in stage1.items() if name in own}
    fresh = {name: value for name, value in own.items() if name.startswith("projection.")}
    fill(prompt, {**shared, **fresh}, str(source))


class Stage2Losses:
    """The loss of a step, or of a part of it.

    Parameters
    ----------
    recipe : Recipe
        Of the run.
    photos : CaptionedPhotos
        To train on.
    language : FrozenLanguageModel
        Reads the photos.
    """

    def __init__(self, recipe: Recipe, photos, language: FrozenLanguageModel) -> None:
        self.recipe, self.photos, self.language = recipe, photos, language

    def __call__(self, model, step: int, device, part: Part) -> dict[str, Tensor]:
        """The part's share: its sum over the parts is the loss of the whole batch."""
        batch = self.photos.batch_at(step, self.recipe.batch_size, part)
        asked, said = self._words(batch)
        losses = model(batch.features.to(device).float(), asked, said)
        if part.count == 1:
            return losses
        # The loss is a mean over the words of the whole batch, so parts count by their words.
        _, every = self._words(self.photos.texts_at(step, self.recipe.batch_size))
        share = self.language.answer_length(said) / self.language.answer_length(every)
        return {n: loss * (share if n == "lm" else 1 / part.count) for n, loss in losses.items()}

    def _words(self, batch: Batch) -> tuple[Sequence[str], Sequence[str]]:
        """What is asked of each photo, and what shall be answered."""
        from blip2.encoder_decoder import split_prefix

        if self.recipe.split_captions:
            pairs = [split_prefix(c, k) for c, k in zip(batch.captions, batch.keys, strict=True)]
            return tuple(zip(*pairs, strict=True))
        return [key.choice(self.recipe.prompts) for key in batch.keys], batch.captions


class Stage2Validation:
    """Loss on a dev set and, to read by eye, captions of its first photos.

    Parameters
    ----------
    photos : CaptionedPhotos
        In one view.
    instruction : str
        Asked of each photo.
    """

    def __init__(self, photos, instruction: str) -> None:
        self.photos, self.instruction = photos, instruction

    def __call__(self, model, device) -> dict[str, float]:
        """Measure on one caption of each photo."""
        import numpy as np
        from tqdm import tqdm

        from blip2.decoding import Decoding

        rows = np.arange(len(self.photos))
        losses = []
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            batch = self.photos.batch(part)
            prompts = [self.instruction] * len(part)
            features = batch.features.to(device).float()
            losses.append(float(model(features, prompts, batch.captions)["lm"]))
        few = self.photos.batch(rows[:4])
        visual = model.prompt(few.features.to(device).float())
        text = model.language.prompt(self.instruction)
        for caption in model.language.generate(visual, [text] * len(visual), Decoding()):
            tqdm.write(f"  {caption}")
        return {"lm": float(np.mean(losses))}


if __name__ == "__main__":
    sys.exit(main())
