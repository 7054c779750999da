"""What sharing the image's keys and values saves in a step of stage 1.

`python -m tests.benchmarks.stage1_step` times forward and backward of ITC, ITM and ITG at the
feature shapes of ViT-g (257 x 1408, Q-Former base), with the cross-attention keys and values
computed once a photo and gathered for ITM's negatives, against the same step that computes them
anew in every pass, as the official code does; and says which share of the device's matrix peak,
measured too, a step reaches. On a GPU it also looks for the largest batch that fits, and profiles a
step of it. Not a test: pytest does not collect it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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


def make_batch(size: int, length: int, device: torch.device) -> tuple[Tensor, ...]:
    """Random photos at ViT-g's shape with captions of ``length`` word pieces."""
    ids = torch.randint(1000, 30000, (size, length), device=device)
    features = torch.randn(size, 257, 1408, device=device)
    return features, ids, torch.ones_like(ids), torch.arange(size, device=device)


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that something takes, and what it gives."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - start, result


def matrix_peak(device: torch.device, precision: torch.dtype) -> float:
    """Operations a second of a large matrix product: the most that a step could reach."""
    side = 8192 if device.type == "cuda" else 2048
    one, other = torch.randn(2, side, side, device=device, dtype=precision)
    times = [timed(device, lambda: one @ other)[0] for _ in range(12)]
    return 2 * side**3 / statistics.median(times[2:])


def count_operations(model: nn.Module, batch: tuple[Tensor, ...]) -> int:
    """Operations of a step, forward and backward, as torch counts those of its kernels."""
    with FlopCounterMode(display=False) as counter:
        step(model, batch, torch.bfloat16)
    return counter.get_total_flops()


def largest_batch(model: nn.Module, length: int, device: torch.device) -> int:
    """The largest multiple of 64 pairs whose step fits the GPU's memory, in bf16."""
    size = 64
    while True:
        try:
            step(model, make_batch(size + 64, length, device), torch.bfloat16)
        except torch.cuda.OutOfMemoryError:
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            return size
        size += 64


def profile(model: nn.Module, batch: tuple[Tensor, ...]) -> str:
    """Where a step's time on the GPU goes."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as seen:
        step(model, batch, torch.bfloat16)
    return seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=15)


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
    batch = make_batch(size, options.length, device)
    operations = count_operations(shared, batch)
    for precision in (torch.float32, torch.bfloat16):
        taken: dict[str, list[float]] = {"shared": [], "anew": []}
        losses: dict[str, list[float]] = {}
        for turn in range(options.rounds + 1):  # the first warms up
            for name, model in (("shared", shared), ("anew", anew)):
                work = functools.partial(step, model, batch, precision)
                seconds, losses[name] = timed(device, work)
                if turn:
                    taken[name].append(seconds)
        one, other = (statistics.median(taken[name]) for name in ("shared", "anew"))
        apart = max(abs(a - b) for a, b in zip(losses["shared"], losses["anew"], strict=True))
        peak = matrix_peak(device, precision)
        print(
            f"{str(precision)[6:]:9} {device.type}, {size} pairs: shared {one:.3f} s, "
            f"anew {other:.3f} s, {other / one:.2f} x as fast; {size / one:.1f} pairs/s, "
            f"{operations / one / peak:.0%} of {peak / 1e12:.2f} TFLOP/s; "
            f"losses apart by {apart:.1e}",
            flush=True,
        )
    if device.type == "cuda":
        del anew
        size = largest_batch(shared, options.length, device)
        batch = make_batch(size, options.length, device)
        operations = count_operations(shared, batch)
        times = [
            timed(device, functools.partial(step, shared, batch, torch.bfloat16))[0]
            for _ in range(options.rounds + 1)
        ]
        one = statistics.median(times[1:])
        print(
            f"largest batch that fits, in steps of 64: {size} pairs, {one:.3f} s, "
            f"{size / one:.1f} pairs/s, {operations / one / peak:.0%} of the peak in bf16, "
            f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
        )
        print(profile(shared, batch))


if __name__ == "__main__":
    main()
