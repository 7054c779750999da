"""One step of a stage in parts: `torchrun -m tests.train.tiny_ranks FOLDER STAGE ACCUMULATE NAME`.

Writes the summed losses and the gradients of the whole batch to FOLDER/NAME.safetensors. With the
word `shard` after them the model is cut over the processes, with `split` captions are, and with
`asked` stage 1 learns to answer questions, too; with `several` ITC reads two captions a photo, with
`judged` ITM judges half of the pairs, and with `drawn` it learns from captions of its own.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from blip2.vision import IMAGE_ENCODERS
from tests.tiny import STAGE1, Cells, language_model
from train.config import Recipe
from train.loop import train
from train.parts import gather
from train.sharding import whole

BATCH = 8


def recipe(folder: Path, accumulate: int, name: str = "", words: tuple = ()) -> Recipe:
    """A recipe over the shard that `tests.train.tiny_stage` prepared."""
    return Recipe(
        preset="tiny", data=f"{folder}/photos.tar", cache=f"{folder}/cache", batch_size=BATCH,
        accumulate=accumulate, output=f"{folder}/{name}", precision="no",
        token_keep=0.7, hide_pieces=0.3, clip_norm=0,
        prompts=("describe this photo", "what is this"),
        shard="shard" in words, split_captions="split" in words,
        captions_at_once=1 + ("several" in words), match_share=1 - 0.5 * ("judged" in words),
        samples=3 * ("drawn" in words), drawn_share=0.5,
        texts="both" if "asked" in words else "captions", questions=12 * ("asked" in words),
        warmup_steps=0, validate_every=100, save_every=100, weight_decay=0, learning_rate=1e-3,
    )  # fmt: skip


def stage1(folder: Path, accumulate: int, words: tuple = ()):
    """Model, and the losses of a part."""
    from blip2.representation import Representation
    from blip2.tokenization import TextTokenizer
    from train.data import CaptionedPhotos
    from train.stage1 import Stage1Losses

    torch.manual_seed(0)
    model = Representation(STAGE1)
    settings = recipe(folder, accumulate, words=words)
    kind = {"texts": settings.texts, "at_once": settings.captions_at_once}
    photos = CaptionedPhotos(settings.data, "cells", settings.cache, **kind)
    return model, Stage1Losses(settings, photos, TextTokenizer(folder / "start", 16))


def stage2(folder: Path, accumulate: int, words: tuple = ()):
    """Model, and the losses of a part."""
    from blip2.visual_prompt import Stage2, VisualPrompt
    from tests.tiny import STAGE2
    from train.data import CaptionedPhotos
    from train.stage2 import Stage2Losses

    torch.manual_seed(0)
    # Parts draw their features apart, so that there is no whole to compare with.
    settings = replace(recipe(folder, accumulate, words=words), token_keep=1.0)
    photos = CaptionedPhotos(settings.data, "cells", settings.cache)
    language = language_model()
    return Stage2(VisualPrompt(STAGE2), language), Stage2Losses(settings, photos, language)


class Recorder(torch.optim.SGD):
    """Keeps the gradients that the step would use, and does not move."""

    found: dict = {}  # noqa: RUF012

    def step(self, closure=None):
        """Copy the gradients."""
        for name, parameter in zip(self.names, self.param_groups[0]["params"], strict=True):
            self.found[name] = whole(parameter.grad).clone()


def main() -> None:
    """Run one step of a stage."""
    folder, kind, accumulate, name = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    IMAGE_ENCODERS["cells"] = Cells
    torch.set_num_threads(1)
    words = tuple(sys.argv[5:])
    model, losses_at = {"stage1": stage1, "stage2": stage2}[kind](folder, accumulate, words)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = Recorder(named.values(), lr=1e-3)
    optimizer.names, optimizer.found = list(named), {}
    summed: dict[str, torch.Tensor] = {}

    def at_step(model, step, device, part):
        losses = losses_at(model, step, device, part)
        for key, loss in losses.items():
            of_all = gather(loss).sum(0, keepdim=True)
            summed[f"loss {key}"] = summed.get(f"loss {key}", 0) + of_all
        return losses

    train(recipe(folder, accumulate, name, words), model, optimizer, 1, at_step)
    if int(os.environ.get("RANK", "0")) == 0:
        save_file(optimizer.found | summed, folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
