"""Stage 1: vision-language representation learning (paper, section 3.2).

Trains the Q-Former with ITC, ITM and ITG over the features of a frozen image encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.display import one_line
from blip2.errors import UserError
from train.command import run_recipe
from train.config import Recipe, pretraining_config

if TYPE_CHECKING:
    from torch import Tensor

    from blip2.representation import Asked, Drawn, Representation
    from train.data import Batch
    from train.parts import Part

FRESH = ("image_reader", "cross_attention", "query_tokens", "itm_head", "image_projection",
         "text_projection", "lm_transform", "lm_norm")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "stage1", __doc__, run, "mini_stage1.yaml")


def run(recipe: Recipe) -> None:
    """Train a recipe and write the finished retriever to ``<output>/model``."""
    import torch
    from accelerate import PartialState

    from blip2.checkpoints import save_checkpoint
    from blip2.representation import Representation
    from blip2.tokenization import TextTokenizer
    from train.inputs import attach_encoder, dev_photos, training_photos
    from train.loop import train
    from train.optim import build_optimizer

    config = pretraining_config(recipe, 1)
    check(recipe)
    config = replace(config, answers_questions=bool(recipe.questions))
    torch.manual_seed(recipe.seed)
    model = Representation(config)
    model.qformer.checkpointing = recipe.checkpointing
    vocabulary, fresh = start_model(model, recipe.start)
    leave_out(model, recipe.objectives)
    tokenizer = TextTokenizer(vocabulary / "tokenizer.json", config.max_text_length)
    encoder = attach_encoder(recipe, config, model.image_reader)
    photos = training_photos(recipe, encoder)
    losses_at = Stage1Losses(recipe, photos, tokenizer)

    validate = None
    if recipe.dev_data:
        dev = dev_photos(recipe, encoder, photos)
        validate = Stage1Validation(dev, losses_at)
    optimizer = build_optimizer(model, recipe, fresh)
    steps_per_epoch = losses_at.photos.steps_per_epoch(recipe.batch_size)
    total = recipe.steps or recipe.epochs * steps_per_epoch
    model = train(recipe, model, optimizer, total, losses_at, validate, losses_at)
    folder = f"{recipe.output}/model"
    if PartialState().is_main_process:
        save_checkpoint(model, config, folder)
        tokenizer.save(folder)
        print(f"the finished model is in {one_line(folder)}")


def check(recipe: Recipe) -> None:
    """Refuse what stage 1 can't do.

    Raises
    ------
    UserError
        The recipe asks for what can't go together.
    """
    if recipe.texts == "qa" or (recipe.texts == "both") != bool(recipe.questions):
        raise UserError(
            "Stage 1 learns from captions; leave texts out, or give texts: both and questions: N, "
            "how many a step learns to answer."
        )
    if (recipe.questions or recipe.samples) and recipe.pool:
        raise UserError("Questions and drawn captions need the list of all photos; set pool: 0.")
    if (recipe.questions or recipe.samples) and "itg" not in recipe.objectives:
        raise UserError("Answers and drawn captions are learned by ITG; leave itg in objectives.")
    if recipe.samples == 1:
        raise UserError("samples: 1 has nothing to be compared with; give at least 2, or 0.")
    if recipe.samples and recipe.shard:
        raise UserError("Captions are not drawn from a sharded model; leave samples or shard out.")
    if recipe.turns > 1:
        raise UserError("Stage 1 holds no talks, each question stands alone; leave turns out.")


def start_model(model: Representation, start: str) -> tuple[Path, tuple[str, ...]]:
    """Fill a fresh model as the recipe's ``start`` says.

    Parameters
    ----------
    model : Representation
        Freshly initialised.
    start : str
        See :class:`train.config.Recipe`.

    Returns
    -------
    Path
        Folder of the word pieces (``tokenizer.json``).
    tuple of str
        Parts that no checkpoint started, for :func:`train.optim.build_optimizer`.

    Raises
    ------
    UserError
        The start is missing, damaged or of another size.
    """
    from blip2.checkpoints import fill, read_tensors, start_from_bert
    from blip2.parts import bert_folder
    from train.growth import grown
    from train.optim import EVERYTHING

    folder = bert_folder(start)
    if not start:
        return folder, EVERYTHING
    tensors = read_tensors(folder)
    if any(name.startswith("qformer.") for name in tensors):
        fill(model, grown(tensors, model.config), str(folder))
        return folder, FRESH  # they keep their higher rate
    start_from_bert(model.qformer, tensors)
    return folder, FRESH


def leave_out(model: Representation, objectives: Collection[str]) -> None:
    """Freeze the heads of objectives that are not learned, which no gradient would reach."""
    heads = {"itm_head": "itm", "lm_transform": "itg", "lm_norm": "itg", "lm_bias": "itg"}
    for name, parameter in model.named_parameters():
        objective = heads.get(name.partition(".")[0])
        if objective:
            parameter.requires_grad_(objective in objectives)


def answers(batch: Batch) -> list[str]:
    """Answers as they are scored: "two" and "2" are one, and so learned as one."""
    from train.answers import normalise

    return [normalise(answer) for answer in batch.captions]


class Stage1Losses:
    """The losses of a step, or of a part of it.

    Parameters
    ----------
    recipe : Recipe
        Of the run.
    photos : CaptionedPhotos
        To train on.
    tokenizer : TextTokenizer
        Of the model.

    Raises
    ------
    UserError
        The recipe asks for what can't go together.
    """

    def __init__(self, recipe: Recipe, photos, tokenizer) -> None:
        if recipe.compile and recipe.accumulate > 1:
            raise UserError(
                "Stage 1 can't be compiled and accumulate: what is compiled draws other dropout "
                "than what embeds the other turns; leave one of them out."
            )
        if recipe.hide_pieces and tokenizer.mask_token_id is None:
            raise UserError(
                "The word pieces have no [MASK] to hide words behind; leave hide_pieces out."
            )
        self.questions = None
        if recipe.questions:
            self.questions, photos = photos.only("qa"), photos.only("captions")
            if len(self.questions) < recipe.questions:
                raise UserError(
                    f"There are {len(self.questions)} questions, fewer than the {recipe.questions} "
                    "of a step; choose a smaller questions."
                )
        self.recipe, self.photos, self.tokenizer = recipe, photos, tokenizer
        from blip2.answering import QUESTION_PIECES

        self.question_tokenizer = tokenizer.with_length(QUESTION_PIECES)
        self.critic = None
        if recipe.samples:
            from train.rewards import CiderReward, DrawnCaptions

            reward = CiderReward([row.texts for row in photos.rows])
            self.critic = DrawnCaptions(tokenizer, reward, recipe.samples)
        epochs = recipe.hardness_epochs
        self.ramp = epochs * photos.steps_per_epoch(recipe.batch_size) if epochs else 0
        self._turns: list[Batch] = []  # this process's parts of the batch
        self._asked: list[Batch] = []  # and of the questions
        self._answered = 0  # pieces that ITG predicts of all answers
        self._image_ids = self._joint = None  # of the whole batch
        self._pieces = 0  # that ITG predicts in the whole batch

    def __call__(self, model, step: int, device, part: Part) -> dict[str, Tensor]:
        """The part's share: its sum over the parts is the loss of the whole batch."""
        from blip2.objectives import JointBatch
        from train.loop import seed_step
        from train.parts import join_turns

        hardness = min(1.0, step / self.ramp) if self.ramp else 1.0
        if part.turn == 0:
            self._begin(model, step, device, part)
        asked, drawn = self._questions(part, device), self._drawn(model, part, device)
        seed_step(self.recipe.seed, step, part.number)  # the same draws as in `_embed`
        features, ids, mask, kept, own_ids, read_ids = self._inputs(part, device)
        recipe = self.recipe
        more = read_ids, recipe.match_share, asked, drawn, recipe.match_smoothing
        settings = recipe.diversity, recipe.objectives
        if part.count == 1:  # no other part to join, and no share to take
            pairs = features, ids, mask, own_ids, hardness, kept
            return self._weighed(model(*pairs, *settings, None, *more))

        def join(images, texts):
            if part.turns == 1:
                images, texts = join_turns([images]), join_turns([texts])
            else:
                images, texts = self._joint
            return JointBatch(images, texts, self._image_ids, len(own_ids) * part.number)

        losses = model(features, ids, mask, own_ids, hardness, kept, *settings, join, *more)
        # ITC comes as a share; ITG is a mean over word pieces, the others over pairs. The reward
        # of a batch is the mean of its parts'.
        written = mask[:: self.recipe.captions_at_once, 1:]
        shares = {"itc": 1.0, "itg": int(written.sum()) / self._pieces}
        if asked is not None:
            shares["answer"] = int(asked.answer_mask[:, 1:].sum()) / self._answered
        parts = {name: loss * shares.get(name, 1 / part.count) for name, loss in losses.items()}
        return self._weighed(parts)

    @property
    def digest(self) -> str:
        """Of photos and texts; a run goes on only with the same."""
        return self.photos.digest

    def describe(self, step: int, batch_size: int, part: Part | None = None) -> dict:
        """A step's batch for a reader, see :meth:`train.data.CaptionedPhotos.describe`."""
        told = self.photos.describe(step, batch_size, part)
        if self.questions is not None:
            asked = self.questions.describe(step, self.recipe.questions, part)
            told["questions"] = asked["pairs"]
        return told

    def _weighed(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = {"answer": self.recipe.answer, "reward": self.recipe.reward}
        return {name: weights.get(name, 1) * loss for name, loss in losses.items()}

    def _begin(self, model, step: int, device, part: Part) -> None:
        """Read this process's parts of a batch, and learn what they need of all others."""
        from train.parts import join_turns, total

        self._turns = self.photos.batches_at(step, self.recipe.batch_size, part)
        if self.questions is not None:
            self._asked = self.questions.batches_at(step, self.recipe.questions, part)
        if part.count == 1:
            return
        masks = [self.tokenizer(answers(batch))[1] for batch in self._asked]
        self._answered = total(sum(int(mask[:, 1:].sum()) for mask in masks), device)
        self._image_ids = join_turns([batch.image_ids.to(device) for batch in self._turns])
        masks = [self.tokenizer(batch.captions)[1] for batch in self._turns]
        self._pieces = total(sum(int(mask[:, 1:].sum()) for mask in masks), device)
        if part.turns > 1:
            self._joint = self._embed(model, step, device, part)

    def _inputs(self, part: Part, device):
        from train.inputs import hide_pieces, kept_tokens

        batch = self._turns[part.turn]
        several = self.recipe.captions_at_once
        ids, mask = self.tokenizer(
            [talks[n % len(talks)][0][1] for talks in batch.told for n in range(several)]
        )
        kept = kept_tokens(self.recipe, self.photos, len(batch.captions), device)
        read_ids = hide_pieces(ids, mask, self.recipe.hide_pieces, self.tokenizer.mask_token_id)
        texts = ids.to(device), mask.to(device)
        own = batch.image_ids.to(device)
        return batch.features.to(device), *texts, kept, own, read_ids.to(device)

    def _questions(self, part: Part, device) -> Asked | None:
        return self.asked(self._asked[part.turn], device) if self.questions is not None else None

    def asked(self, batch: Batch, device, all_features: bool = False) -> Asked:
        """Questions and answers of a batch as the model takes them."""
        from blip2.representation import Asked
        from train.inputs import kept_tokens

        kept = None
        if not all_features:
            kept = kept_tokens(self.recipe, self.photos, len(batch.captions), device)
        asked = (tensor.to(device) for tensor in self.question_tokenizer(batch.questions))
        said = (tensor.to(device) for tensor in self.tokenizer(answers(batch)))
        return Asked(batch.features.to(device), *asked, *said, kept)

    def _drawn(self, model, part: Part, device) -> Drawn | None:
        """Captions of the first photos, drawn from the model as it is at inference."""
        if self.critic is None:
            return None
        batch = self._turns[part.turn]
        number = max(1, round(self.recipe.drawn_share * len(batch.captions)))
        features = batch.features[:number].to(device)
        with self._autocast(device):
            return self.critic(getattr(model, "module", model), features, batch.references)

    def _autocast(self, device):
        """The recipe's precision, for what is computed beside the model's own `forward`."""
        import torch

        precision = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        return torch.autocast(device.type, precision, enabled=self.recipe.precision != "no")

    def _embed(self, model, step: int, device, part: Part):
        """Embeddings of all parts, drawn as their own turns will draw them."""

        from train.loop import seed_step
        from train.parts import join_turns

        module = getattr(model, "module", model)
        found = []
        for turn in range(part.turns):
            other = part.of_turn(turn)
            seed_step(self.recipe.seed, step, other.number)
            features, _, mask, kept, _, read_ids = self._inputs(other, device)
            # In the same precision and with gradient, so that the same kernels draw the same
            # dropout; the graph is dropped.
            with self._autocast(device):
                embeds = module.embed_pairs(features, read_ids, mask, kept)
            found.append([tensor.detach() for tensor in embeds])
        seed_step(self.recipe.seed, step, part.number)
        return [join_turns(list(tensors)) for tensors in zip(*found, strict=True)]


class Stage1Validation:
    """Losses, recall of ITC and accuracy of ITM on hard pairs of a dev set.

    Parameters
    ----------
    photos : CaptionedPhotos
        In one view.
    losses : Stage1Losses
        Of the training, which says what is learned.
    """

    def __init__(self, photos, losses: Stage1Losses) -> None:
        self.losses, self.tokenizer = losses, losses.tokenizer
        self.most, self.objectives = losses.recipe.watch, losses.recipe.objectives
        self.photos, self.questions = photos, None
        if losses.questions is not None:
            self.photos, self.questions = photos.only("captions"), photos.only("qa")

    def __call__(self, model, device) -> dict[str, float]:
        """Measure, with one caption of each photo standing for its texts."""
        import numpy as np
        import torch

        from blip2.objectives import similarity
        from train.inputs import watched_rows

        rows = watched_rows(len(self.photos), self.most)
        image, text, losses, itm = [], [], [], []
        torch.manual_seed(0)  # the same negatives each time; the next step sets its own
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            chunk = self.photos.batch(part)
            ids, mask = (t.to(device) for t in self.tokenizer(chunk.captions))
            features = chunk.features.to(device)
            if model.image_reader.encoder is not None:
                features = model.image_reader.encoder(features)
            image_ids = chunk.image_ids.to(device)
            losses.append(model(features, ids, mask, image_ids, objectives=self.objectives))
            states = model.image_states(features)
            image.append(model.project_queries(model.qformer.encode_image(states).queries))
            text.append(model.embed_texts(ids, mask))
            if "itm" in self.objectives:
                itm.append(self._match(model, states, ids, mask, image[-1], text[-1]))
        sim = similarity(torch.cat(image), torch.cat(text))
        right = torch.arange(len(sim), device=device)

        def recall(scores, k):
            best = scores.topk(min(k, len(scores)), dim=1).indices
            return float((best == right[:, None]).any(1).float().mean())

        figures = {n: float(np.mean([float(of[n]) for of in losses])) for n in losses[0]}
        figures |= {"tr1": recall(sim, 1), "ir1": recall(sim.T, 1), "ir10": recall(sim.T, 10)}
        if itm:
            figures["itm_hard"] = float(np.mean(itm))
        figures["temperature"] = float(model.temperature.detach())
        if self.questions is not None:
            figures["answer"] = self._answers(model, device)
        if self.losses.critic is not None and self.losses.critic.scores:
            figures["drawn_cider"] = float(np.mean(self.losses.critic.scores))
            self.losses.critic.scores.clear()
        return figures

    def _answers(self, model, device) -> float:
        """Loss of ITG on answers."""
        import numpy as np

        from train.inputs import watched_rows

        rows = watched_rows(len(self.questions), self.most)
        found = []
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            asked = self.losses.asked(self.questions.batch(part), device, all_features=True)
            if model.image_reader.encoder is not None:
                asked.features = model.image_reader.encoder(asked.features)
            found.append(float(model.answer_loss(asked)))
        return float(np.mean(found))

    def _match(self, model, states, ids, mask, image, text) -> float:
        """Share of photos that ITM scores higher with their own text than with the hardest."""
        import torch

        from blip2.objectives import similarity

        sim = similarity(image, text)
        sim.fill_diagonal_(-1)
        own = model.match_logits(states, ids, mask)
        hard = sim.argmax(1)
        other = model.match_logits(states, ids[hard], mask[hard])
        return float(((own - other) @ torch.tensor([-1.0, 1.0], device=own.device) > 0)
                     .float().mean())  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
