"""Stage 1: vision-language representation learning (paper, section 3.2).

Trains the Q-Former with ITC, ITM and ITG over the features of a frozen image encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from blip2.errors import UserError
from train.command import run_recipe
from train.config import Recipe

FRESH = ("image_reader", "cross_attention", "query_tokens", "itm_head", "image_projection",
         "text_projection", "lm_transform", "lm_norm")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see :func:`train.command.run_recipe`."""
    return run_recipe(argv, "stage1", __doc__, run)


def run(recipe: Recipe) -> None:
    """Train a recipe and write the finished retriever to ``<output>/model``."""
    import torch

    from blip2.checkpoints import read_tensors, save_checkpoint, start_from_bert
    from blip2.config import PRESETS
    from blip2.representation import Representation
    from blip2.tokenization import TextTokenizer
    from train.data import CaptionedPhotos
    from train.loop import train
    from train.optim import EVERYTHING, build_optimizer

    if recipe.preset not in PRESETS or PRESETS[recipe.preset].stage != 1:
        raise UserError(f"The preset {recipe.preset!r} is not of stage 1; choose mini-itm.")
    config = PRESETS[recipe.preset]
    torch.manual_seed(recipe.seed)
    model = Representation(config)
    bert = bert_folder(recipe.start)
    if recipe.start:
        start_from_bert(model.qformer, read_tensors(bert))
    tokenizer = TextTokenizer(bert / "tokenizer.json", config.max_text_length)
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
        return model(
            batch.features.to(device),
            ids.to(device),
            mask.to(device),
            batch.image_ids.to(device),
            hardness,
        )

    validate = None
    if recipe.dev_data:
        dev = CaptionedPhotos(recipe.dev_data, config.image_encoder, recipe.cache)
        validate = Stage1Validation(dev, tokenizer)
    optimizer = build_optimizer(model, recipe, FRESH if recipe.start else EVERYTHING)
    model = train(recipe, model, optimizer, recipe.epochs * per_epoch, losses_at, validate)
    folder = f"{recipe.output}/model"
    save_checkpoint(model, config, folder)
    tokenizer.save(folder)
    print(f"the finished model is in {folder}")


def bert_folder(start: str) -> Path:
    """Folder of the BERT that gives the word pieces and, if asked for, the start."""
    from blip2.assets import minilm_dir

    return minilm_dir() if start in ("", "minilm") else Path(start)


class Stage1Validation:
    """Recall of ITC and accuracy of ITM on hard pairs of a dev set.

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
        chunks = [
            self.photos.batch(part, epoch=0)
            for part in np.array_split(rows, max(1, len(rows) // 64))
        ]
        image, text, states, pieces = [], [], [], []
        for chunk in chunks:
            ids, mask = (t.to(device) for t in self.tokenizer(chunk.captions))
            of_chunk = model.image_states(chunk.features.to(device))
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

        figures = {"tr1": recall(sim, 1), "ir1": recall(sim.T, 1), "ir10": recall(sim.T, 10)}
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
