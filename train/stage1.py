"""Stage 1: vision-language representation learning (paper, section 3.2).

Trains the Q-Former with ITC, ITM and ITG over the features of a frozen image encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.command import run_recipe
from train.config import Recipe, model_config

if TYPE_CHECKING:
    from torch import Tensor

    from blip2.representation import Representation

FRESH = ("image_reader", "cross_attention", "query_tokens", "itm_head", "image_projection",
         "text_projection", "lm_transform", "lm_norm")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "stage1", __doc__, run)


def run(recipe: Recipe) -> None:
    """Train a recipe and write the finished retriever to ``<output>/model``."""
    import torch

    from blip2.checkpoints import save_checkpoint
    from blip2.representation import Representation
    from blip2.tokenization import TextTokenizer
    from train.data import CaptionedPhotos
    from train.loop import train
    from train.optim import build_optimizer

    config = model_config(recipe.preset, stage=1)
    torch.manual_seed(recipe.seed)
    model = Representation(config)
    vocabulary, fresh = start_model(model, recipe.start)
    tokenizer = TextTokenizer(vocabulary / "tokenizer.json", config.max_text_length)
    photos = CaptionedPhotos(
        recipe.data, config.image_encoder, recipe.cache, recipe.views, recipe.seed
    )
    print(photos.report.describe())
    per_epoch = photos.steps_per_epoch(recipe.batch_size)

    def losses_at(model, step, device):
        batch = photos.batch_at(step, recipe.batch_size)
        ids, mask = tokenizer(batch.captions)
        ramp = recipe.hardness_epochs * per_epoch
        hardness = min(1.0, step / ramp) if ramp else 1.0
        kept = None
        if recipe.token_keep < 1:
            kept = draw_tokens(batch.features, recipe.token_keep).to(device)
        return model(
            batch.features.to(device),
            ids.to(device),
            mask.to(device),
            batch.image_ids.to(device),
            hardness,
            kept,
            recipe.diversity,
        )

    validate = None
    if recipe.dev_data:
        dev = CaptionedPhotos(recipe.dev_data, config.image_encoder, recipe.cache)
        validate = Stage1Validation(dev, tokenizer)
    optimizer = build_optimizer(model, recipe, fresh)
    model = train(
        recipe, model, optimizer, recipe.epochs * per_epoch, losses_at, validate, photos.digest
    )
    folder = f"{recipe.output}/model"
    save_checkpoint(model, config, folder)
    tokenizer.save(folder)
    print(f"the finished model is in {folder}")


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
    from blip2.assets import minilm_dir
    from blip2.checkpoints import EMBEDDED, fill, read_tensors, start_from_bert
    from train.optim import EVERYTHING

    if not start:
        return minilm_dir(), EVERYTHING
    if start == "minilm":
        folder = minilm_dir()
    else:
        folder = EMBEDDED / start if (EMBEDDED / start).is_dir() else Path(start)
    tensors = read_tensors(folder)
    if any(name.startswith("qformer.") for name in tensors):
        fill(model, tensors, str(folder))
        return folder, FRESH  # they keep their higher rate
    start_from_bert(model.qformer, tensors)
    return folder, FRESH


def draw_tokens(features: Tensor, share: float) -> Tensor:
    """Draw which of a photo's features a step reads, from torch's random state.

    Parameters
    ----------
    features : Tensor
        ``[B, N, C]``
    share : float
        At least one feature is kept.

    Returns
    -------
    Tensor
        ``[B, K]`` positions, ascending, another draw for each photo.
    """
    import torch

    batch, tokens = features.shape[:2]
    number = max(1, round(tokens * share))
    return torch.rand(batch, tokens).topk(number).indices.sort(1).values


class Stage1Validation:
    """Losses, recall of ITC and accuracy of ITM on hard pairs of a dev set.

    Parameters
    ----------
    photos : CaptionedPhotos
        In one view.
    tokenizer : TextTokenizer
        Of the model.
    """

    def __init__(self, photos, tokenizer) -> None:
        self.photos, self.tokenizer = photos, tokenizer

    def __call__(self, model, device) -> dict[str, float]:
        """Measure, with one caption of each photo standing for its texts."""
        import numpy as np
        import torch

        from blip2.objectives import similarity

        rows = np.arange(len(self.photos))
        chunks = [self.photos.batch(part) for part in np.array_split(rows, max(1, len(rows) // 64))]
        image, text, states, pieces, losses = [], [], [], [], []
        torch.manual_seed(0)  # the same negatives each time; the next step sets its own
        for chunk in chunks:
            ids, mask = (t.to(device) for t in self.tokenizer(chunk.captions))
            features = chunk.features.to(device)
            losses.append(model(features, ids, mask, chunk.image_ids.to(device)))
            of_chunk = model.image_states(features)
            queries = model.qformer.encode_image(of_chunk).queries
            image.append(model.project_queries(queries))
            text.append(model.embed_texts(ids, mask))
            states.append(of_chunk)
            pieces.append((ids, mask))
        sim = similarity(torch.cat(image), torch.cat(text))
        right = torch.arange(len(sim), device=device)

        def recall(scores, k):
            best = scores.topk(min(k, len(scores)), dim=1).indices
            return float((best == right[:, None]).any(1).float().mean())

        figures = {n: float(np.mean([float(of[n]) for of in losses])) for n in losses[0]}
        figures |= {"tr1": recall(sim, 1), "ir1": recall(sim.T, 1), "ir10": recall(sim.T, 10)}
        itm = [self._match(model, s, ids, mask, e, t) for s, (ids, mask), e, t in
               zip(states, pieces, image, text, strict=True)]  # fmt: skip
        figures["itm_hard"] = float(np.mean(itm))
        figures["temperature"] = float(model.temperature.detach())
        return figures

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
