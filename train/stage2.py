"""Stage 2: vision-to-language generative learning (paper, section 3.3).

Trains the Q-Former and a projection so that a frozen language model can read photos.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blip2.config import OBJECTIVES
from blip2.display import one_line
from blip2.errors import UserError
from train.command import run_recipe
from train.config import Recipe, pretraining_config

if TYPE_CHECKING:
    from torch import Tensor

    from blip2.language import FrozenLanguageModel, Told
    from blip2.prompts import Turns
    from blip2.tokenization import TextTokenizer
    from blip2.visual_prompt import VisualPrompt
    from train.data import Batch
    from train.parts import Part
    from train.rewards import SelfCritical
    from train.rows import Talk


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "stage2", __doc__, run, "mini_stage2.yaml")


def run(recipe: Recipe) -> None:
    """Train a recipe and write the finished generator to ``<output>/model``."""
    import torch
    from accelerate import PartialState

    from blip2.checkpoints import save_checkpoint
    from blip2.language_models import Placement, build_language_model
    from blip2.parts import bert_folder, fresh_prompt
    from blip2.visual_prompt import Stage2, VisualPrompt
    from train.inputs import attach_encoder, dev_photos, frozen_precision, training_photos
    from train.loop import train
    from train.optim import build_optimizer

    if not recipe.prompts and not recipe.split_captions and recipe.texts != "qa":
        raise UserError("The recipe has no prompts; give at least one instruction.")
    if recipe.objectives != OBJECTIVES:
        raise UserError("ITC, ITM and ITG are learned in stage 1; leave objectives out.")
    if recipe.hide_pieces:
        raise UserError("Word pieces are hidden in stage 1; leave hide_pieces out.")
    if recipe.questions:
        raise UserError("questions are learned beside pairs in stage 1; give texts: both instead.")
    if recipe.samples == 1 or (recipe.samples and (recipe.pool or recipe.shard)):
        raise UserError(
            f"samples: {recipe.samples} doesn't go with this recipe; give at least 2, without pool "
            "and shard."
        )
    config = pretraining_config(recipe, 2)
    torch.manual_seed(recipe.seed)
    prompt = VisualPrompt(config)
    if recipe.start == "minilm":  # without stage 1: the ablation of figure 5
        prompt = fresh_prompt(config, bert_folder("minilm"))
    trained_on = recipe.start not in ("", "minilm") and start_from(prompt, recipe.start)
    prompt.qformer.checkpointing = recipe.checkpointing
    cpu = torch.device("cpu")  # accelerate moves it to where training runs
    precision = frozen_precision(recipe)
    language = for_training(build_language_model(config.language_model, precision, Placement(cpu)))
    if recipe.match_scale and not trained_on:
        match_scale(prompt, language)
    model = Stage2(prompt, language, recipe.diversity)
    encoder = attach_encoder(recipe, config, prompt.image_reader)
    photos = training_photos(recipe, encoder)
    critic = None
    if recipe.samples:
        from train.rewards import CiderReward, SelfCritical

        described = [row.texts for row in photos.rows if row.described]
        critic = SelfCritical(model, CiderReward(described), recipe.samples)
    losses_at = Stage2Losses(recipe, photos, language, critic=critic)
    validate = None
    if recipe.dev_data:
        dev = dev_photos(recipe, encoder, photos)
        validate = Stage2Validation(dev, losses_at)
    optimizer = build_optimizer(model, recipe, () if trained_on else fresh_parts(recipe.start))
    total = recipe.steps or recipe.epochs * photos.steps_per_epoch(recipe.batch_size)
    train(recipe, model, optimizer, total, losses_at, validate, photos)
    folder = f"{recipe.output}/model"
    if PartialState().is_main_process:
        save_checkpoint(prompt, config, folder)
        print(f"the finished model is in {one_line(folder)}")


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


def start_from(prompt: VisualPrompt, folder: str) -> bool:
    """Start from a checkpoint of either stage; of stage 1, text branch and heads fall away.

    Returns
    -------
    bool
        Whether it was of stage 2, so that all parts are trained on.

    Raises
    ------
    UserError
        The folder is no checkpoint of this Q-Former.
    """
    from pathlib import Path

    from blip2.checkpoint_files import find_checkpoint
    from blip2.checkpoints import fill, read_tensors
    from blip2.config import Blip2Config

    source = Path(find_checkpoint(folder))
    tensors = read_tensors(source)
    trained_on = Blip2Config.read(source / "config.json").stage == 2
    if not trained_on:
        own = prompt.state_dict()
        tensors = {name: value for name, value in tensors.items() if name in own}
        tensors |= {n: value for n, value in own.items() if n.startswith("projection.")}
    fill(prompt, tensors, str(source))
    return trained_on


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
    critic : SelfCritical, optional
        Draws captions to learn from.
    """

    def __init__(
        self,
        recipe: Recipe,
        photos,
        language: FrozenLanguageModel,
        tokenizer: TextTokenizer | None = None,
        critic: SelfCritical | None = None,
    ) -> None:
        self.recipe, self.photos, self.language = recipe, photos, language
        self.tokenizer, self.critic = tokenizer, critic
        self._turns: list[Batch] = []  # this process's parts of the batch
        self._told: list[Told] = []
        self._length = 0  # tokens that the whole batch answers
        self.scores: list[float] = []  # of captions drawn since they were last told

    def __call__(self, model, step: int, device, part: Part) -> dict[str, Tensor]:
        """The part's share: its sum over the parts is the loss of the whole batch.

        The reward of a batch is the mean of its parts'.
        """
        from train.inputs import kept_tokens
        from train.parts import total

        if part.turn == 0:
            self._turns = self.photos.batches_at(step, self.recipe.batch_size, part)
            self._told = [self.told(batch) for batch in self._turns]  # each call draws anew
            learned = zip(self._turns, self._told, strict=True)
            length = sum(
                self.language.told_length(self.learned(batch, told)) for batch, told in learned
            )
            self._length = total(length, device) if part.count > 1 else length
        batch, told = self._turns[part.turn], self._told[part.turn]
        features = batch.features.to(device)
        pieces = self.pieces([talks[0][-1][0] for talks in told], device)
        kept = kept_tokens(self.recipe, self.photos, len(told), device)
        learned = self.learned(batch, told)
        losses = model(features, learned, pieces, kept, *self.drawn(batch, told, features))
        if self.critic is not None:  # every part says it, also one without captions
            losses["reward"] = self.recipe.reward * losses.get("reward", 0 * losses["lm"])
        if part.count == 1:
            return losses
        # The loss is a mean over the words of the whole batch, so parts count by their words.
        share = self.language.told_length(learned) / max(1, self._length)
        return {n: loss * (share if n == "lm" else 1 / part.count) for n, loss in losses.items()}

    def told(self, batch: Batch) -> list[list[Turns]]:
        """What people ask and answer of each photo: every turn of a talk ends a text."""
        return [
            [
                turns[: number + 1]
                for talk in talks
                for turns in [self._put(talk, key)]
                for number in range(len(turns))
            ]
            for talks, key in zip(batch.told, batch.keys, strict=True)
        ]

    def learned(self, batch: Batch, told: list[list[Turns]]) -> list[list[Turns]]:
        """What of it is imitated: nothing of photos whose captions the model draws itself."""
        if self.critic is None:
            return told
        return [[] if truth else of for of, truth in zip(told, batch.references, strict=True)]

    def _put(self, talk: Talk, key: random.Random) -> Turns:
        """A talk in the words in which the language model is asked."""
        from blip2.encoder_decoder import split_prefix

        if self.recipe.split_captions:
            return [split_prefix(answer, key) for _, answer in talk]
        form = self.recipe.question_prompt or self.language.form.question
        prompts = self.recipe.prompts or (self.language.form.caption,)
        return [
            (form.replace("{}", asked) if asked else key.choice(prompts), answer)
            for asked, answer in talk
        ]

    def drawn(
        self, batch: Batch, told: list[list[Turns]], features: Tensor
    ) -> tuple[Told, Tensor] | tuple[()]:
        """Captions that the model draws for photos with captions, and their worth."""
        rows = [number for number, truth in enumerate(batch.references) if truth]
        if self.critic is None or not rows:
            return ()
        asked = [told[row][0][0][0] for row in rows]
        truth = [batch.references[row] for row in rows]
        captions, worth, score = self.critic(features[rows], asked, truth)
        self.scores.append(score)
        found: list[list[Turns]] = [[] for _ in told]
        for row, question, own in zip(rows, asked, captions, strict=True):
            found[row] = [[(question, text)] for text in own]
        return found, worth

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
            told = self.losses.told(batch)
            features = batch.features.to(device)
            pieces = self.losses.pieces([talks[0][-1][0] for talks in told], device)
            losses.append(float(model(features, told, pieces)["lm"]))
        few = self.photos.batch(rows[:4])
        asked = [talks[0][0][0] for talks in self.losses.told(few)]
        visual = model.prompt(few.features.to(device), self.losses.pieces(asked, device))
        texts = [model.language.prompt(text) for text in asked]
        answers = model.language.generate(visual, texts, Decoding())
        for question, answer in zip(few.questions, answers, strict=True):
            tqdm.write(f"  {question} {answer}")
        figures = {"lm": float(np.mean(losses))}
        if self.losses.scores:
            figures["drawn_cider"] = float(np.mean(self.losses.scores))
            self.losses.scores.clear()
        return figures


if __name__ == "__main__":
    sys.exit(main())
