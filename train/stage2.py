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
    from blip2.tokenization import TextTokenizer
    from train.data import Batch
    from train.parts import Part


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "stage2", __doc__, run, "mini_stage2.yaml")


def run(recipe: Recipe) -> None:
    """Train a recipe and write the finished generator to ``<output>/model``."""
    import torch
    from accelerate import PartialState

    from blip2.checkpoints import save_checkpoint
    from blip2.generation import Stage2, VisualPrompt
    from blip2.language_models import Placement, build_language_model
    from blip2.parts import bert_folder, fresh_prompt
    from train.inputs import attach_encoder, dev_photos, frozen_precision, training_photos
    from train.loop import train
    from train.optim import build_optimizer

    if not recipe.prompts and not recipe.split_captions and recipe.texts != "qa":
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
    precision = frozen_precision(recipe)
    language = for_training(build_language_model(config.language_model, precision, Placement(cpu)))
    if recipe.match_scale:
        match_scale(prompt, language)
    model = Stage2(prompt, language, recipe.diversity)
    encoder = attach_encoder(recipe, config, prompt.image_reader)
    photos = training_photos(recipe, encoder)
    losses_at = Stage2Losses(recipe, photos, language)
    validate = None
    if recipe.dev_data:
        dev = dev_photos(recipe, encoder, photos)
        validate = Stage2Validation(dev, losses_at)
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


def for_training(language: FrozenLanguageModel) -> FrozenLanguageModel:
    """The same model with the attention whose backward pass is the faster."""
    import torch

    if not torch.cuda.is_available():
        # In bf16 on a CPU the fused attention's backward pass is slower than the plain one.
        language.model.set_attn_implementation("eager")
    return language


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
    tokenizer : TextTokenizer, optional
        Of a Q-Former that reads what is asked.
    """

    def __init__(
        self,
        recipe: Recipe,
        photos,
        language: FrozenLanguageModel,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        self.recipe, self.photos, self.language = recipe, photos, language
        self.tokenizer = tokenizer
        self._turns: list[Batch] = []  # this process's parts of the batch
        self._words: list[tuple[Sequence[str], Sequence[str]]] = []
        self._length = 0  # tokens that the whole batch answers

    def __call__(self, model, step: int, device, part: Part) -> dict[str, Tensor]:
        """The part's share: its sum over the parts is the loss of the whole batch."""
        from train.parts import total

        if part.turn == 0:
            self._turns = self.photos.batches_at(step, self.recipe.batch_size, part)
            self._words = [self.words(batch) for batch in self._turns]  # each call draws anew
            length = sum(self.language.answer_length(said) for _, said in self._words)
            self._length = total(length, device) if part.count > 1 else length
        batch = self._turns[part.turn]
        asked, said = self._words[part.turn]
        features = batch.features.to(device)
        losses = model(features, asked, said, self.pieces(asked, device))
        if part.count == 1:
            return losses
        # The loss is a mean over the words of the whole batch, so parts count by their words.
        share = self.language.answer_length(said) / self._length
        return {n: loss * (share if n == "lm" else 1 / part.count) for n, loss in losses.items()}

    def words(self, batch: Batch) -> tuple[Sequence[str], Sequence[str]]:
        """What is asked of each photo, and what shall be answered."""
        from blip2.encoder_decoder import split_prefix

        if self.recipe.split_captions:
            pairs = [split_prefix(c, k) for c, k in zip(batch.captions, batch.keys, strict=True)]
            return tuple(zip(*pairs, strict=True))
        form = self.recipe.question_prompt or self.language.form.question
        prompts = self.recipe.prompts or (self.language.form.caption,)
        asked = [
            form.replace("{}", question) if question else key.choice(prompts)
            for question, key in zip(batch.questions, batch.keys, strict=True)
        ]
        return asked, batch.captions

    def pieces(self, asked: Sequence[str], device) -> tuple[Tensor, Tensor] | None:
        """Word pieces of what is asked, for a Q-Former that reads them."""
        from blip2.prompts import bare

        if self.tokenizer is None:
            return None
        ids, mask = self.tokenizer([bare(text) for text in asked])
        return ids.to(device), mask.to(device)


class Stage2Validation:
    """Loss on a dev set and, to read by eye, what is said of its first photos.

    Parameters
    ----------
    photos : CaptionedPhotos
        In one view.
    losses : Stage2Losses
        Of the training, which says how photos are asked.
    """

    def __init__(self, photos, losses: Stage2Losses) -> None:
        self.photos, self.losses = photos, losses

    def __call__(self, model, device) -> dict[str, float]:
        """Measure on one text of each row."""
        import numpy as np
        from tqdm import tqdm

        from blip2.decoding import Decoding
        from train.inputs import watched_rows

        rows = watched_rows(len(self.photos), self.losses.recipe.watch)
        losses = []
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            batch = self.photos.batch(part)
            asked, said = self.losses.words(batch)
            features = batch.features.to(device)
            pieces = self.losses.pieces(asked, device)
            losses.append(float(model(features, asked, said, pieces)["lm"]))
        few = self.photos.batch(rows[:4])
        asked, _ = self.losses.words(few)
        visual = model.prompt(few.features.to(device), self.losses.pieces(asked, device))
        texts = [model.language.prompt(text) for text in asked]
        answers = model.language.generate(visual, texts, Decoding())
        for question, answer in zip(few.questions, answers, strict=True):
            tqdm.write(f"  {question} {answer}")
        return {"lm": float(np.mean(losses))}


if __name__ == "__main__":
    sys.exit(main())
