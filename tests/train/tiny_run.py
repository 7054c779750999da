"""A training run small enough to be killed: `python -m tests.train.tiny_run OUTPUT LOSSES PAUSE`.

Appends each step's losses to the file LOSSES, in full precision, as they are computed.
"""

import sys
import time
from pathlib import Path

import torch

from blip2.representation import Representation
from tests.tiny import STAGE1, features
from train.config import Recipe
from train.loop import train
from train.optim import build_optimizer

STEPS = 24


def run(output: str, record: Path, pause: float = 0.0, **settings) -> None:
    """Train; the batch and the dropout depend on the step."""
    recipe = Recipe(
        preset="tiny",
        data="none",
        output=output,
        epochs=1,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=5,
        save_every=5,
        precision="no",
        **settings,
    )
    torch.manual_seed(0)
    model = Representation(STAGE1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1

    def losses_at(model, step, device, part):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(4, 30, (4, 6), generator=generator)
        losses = model(features(4, seed=step), ids, torch.ones_like(ids), torch.arange(4))
        with record.open("a") as file:
            file.write(f"{step} {[float(loss.detach()).hex() for loss in losses.values()]}\n")
        time.sleep(pause)
        return losses

    train(recipe, model, build_optimizer(model, recipe), STEPS, losses_at)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
