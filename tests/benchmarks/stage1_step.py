"""What sharing the image's keys and values saves in a step of stage 1.

`python -m tests.benchmarks.stage1_step` times forward and backward of ITC, ITM and ITG at the
feature shapes of ViT-g (257 x 1408, Q-Former base), with the cross-attention keys and values
computed once a photo and gathered for ITM's negatives, against the same step that computes them
anew in every pass, as the official code does. Not a test: pytest does not collect it.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from blip2.config import PRESETS
from blip2.qformer import ImageStates
from blip2.representation import Representation


class Photos(ImageStates):
    """Photos whose keys and values are computed again by every pass that reads them."""

    def __init__(self, model: Representation, features: Tensor) -> None:
        super().__init__(model.qformer.image_states(model.image_reader(features)).layers)
        self.model, self.features = model, features

    def select(self, index: Tensor) -> ImageStates:
        """Compute the keys and values of the chosen photos, a photo chosen thrice three times."""
        return Photos(self.model, self.features.index_select(0, index))


class Recomputing(Representation):
    """Stage 1 without sharing."""

    def image_states(self, features: Tensor, kept: Tensor | None = None) -> ImageStates:
        """As :class:`Photos`."""
        return Photos(self, features)


def step(model: nn.Module, batch: tuple[Tensor, ...], precision: torch.dtype) -> list[float]:
    """Forward and backward; gives the three losses."""
    torch.manual_seed(0)  # the same negatives
    model.zero_grad(set_to_none=True)
    device = batch[0].device.type
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        losses = model(*batch)
    sum(losses.values()).backward()
    return [float(losses[name].detach()) for name in ("itc", "itm", "itg")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each kind (5)")
    parser.add_argument("--batch", type=int, default=0, help="pairs (8; on a GPU 128)")
    parser.add_argument("--length", type=int, default=16, help="word pieces of a caption (16)")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = options.batch or (128 if device.type == "cuda" else 8)
    config = PRESETS["pretrain-vit-g"]
    torch.manual_seed(0)
    shared = Representation(config).to(device).eval()  # no dropout: the losses are compared
    anew = Recomputing(config).to(device).eval()
    anew.load_state_dict(shared.state_dict())
    ids = torch.randint(1000, 30000, (size, options.length), device=device)
    batch = (
        torch.randn(size, 257, config.qformer.encoder_width, device=device),
        ids,
        torch.ones_like(ids),
        torch.arange(size, device=device),
    )
    for precision in (torch.float32, torch.bfloat16):
        taken: dict[str, list[float]] = {"shared": [], "anew": []}
        losses: dict[str, list[float]] = {}
        for turn in range(options.rounds + 1):  # the first warms up
            for name, model in (("shared", shared), ("anew", anew)):
                if device.type == "cuda":
                    torch.cuda.synchronize()
                start = time.perf_counter()
                losses[name] = step(model, batch, precision)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    taken[name].append(time.perf_counter() - start)
        one, other = (statistics.median(taken[name]) for name in ("shared", "anew"))
        apart = max(abs(a - b) for a, b in zip(losses["shared"], losses["anew"], strict=True))
        print(
            f"{str(precision)[6:]:9} {device.type}, {size} pairs: shared {one:.3f} s, "
            f"anew {other:.3f} s, {other / one:.2f} x as fast; {size / one:.1f} pairs/s; "
            f"losses apart by {apart:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
