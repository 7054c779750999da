"""The only training loop: accelerate, schedule, logs, exact resume.

Randomness is a function of seed and step (:func:`seed_step`), and so is the batch
(:mod:`train.data`); a checkpoint therefore needs no random state to continue exactly.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from blip2.errors import UserError
from blip2.language import FrozenLanguageModel
from train.config import Recipe, pairs_of_part
from train.optim import learning_rate_factor
from train.parts import Part
from train.sharding import average_scalars, gathered, put_together, shard
from train.states import Checkpoints

if TYPE_CHECKING:
    from train.data import CaptionedPhotos
    from train.stage1 import Stage1Losses

    Described = CaptionedPhotos | Stage1Losses

Losses = dict[str, Tensor]


class NotANumber(UserError):
    """A loss that is not finite."""


def seed_step(seed: int, step: int, part: int = 0) -> None:
    """Set torch's random state, so that dropout and negatives depend on step and part alone."""
    if part:
        torch.manual_seed(random.Random(f"{seed}/{step}/{part}").getrandbits(63))
    else:
        torch.manual_seed((seed << 32) + step)


def build_accelerator(recipe: Recipe) -> Any:
    """Make the Accelerator of a run: the GPU where there is one, else the CPU.

    Raises
    ------
    UserError
        fp16 is asked for without a GPU or with shards, the batch can't be cut in equal parts, or
        one process alone is to share a model.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a GPU; choose bf16 or no.")

    accelerator = Accelerator(
        mixed_precision=recipe.precision,
        cpu=not torch.cuda.is_available(),
        log_with="tensorboard",
        project_dir=recipe.output,
        # The others wait while one process validates.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
    )
    pairs_of_part(recipe, accelerator.num_processes)
    if recipe.shard and accelerator.num_processes == 1:
        raise UserError("shard: true needs several processes; start them with torchrun.")
    if recipe.shard and recipe.precision == "fp16":
        raise UserError("A sharded model trains in bf16 or no, not in fp16; choose precision=bf16.")
    return accelerator


def train(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    losses_at: Callable[[nn.Module, int, torch.device, Part], Losses],
    validate: Callable[[nn.Module, torch.device], dict[str, float]] | None = None,
    photos: Described | None = None,
) -> nn.Module:
    """Train until ``total_steps``, continuing from the newest checkpoint of ``recipe.output``.

    Parameters
    ----------
    recipe : Recipe
        Schedule, intervals, output.
    model : nn.Module
        Its trainable parameters are what is optimised and kept.
    optimizer : torch.optim.Optimizer
        Over them.
    total_steps : int
        Length of the whole run.
    losses_at : callable
        ``(model, step, device, part) -> {name: scalar}``: the part's share in the losses of the
        whole batch, of which the sum is minimised; see :mod:`train.parts`.
    validate : callable, optional
        ``(model, device) -> {name: figure}``.
    photos : CaptionedPhotos or Stage1Losses, optional
        What is trained on. A run goes on only with the same (``digest``); a batch that gives no
        number is written down (``describe``).

    Returns
    -------
    nn.Module
        The model, trained, in eval mode.

    Raises
    ------
    NotANumber
        A loss is NaN or infinite; the step and the objective are named.
    UserError
        The output folder belongs to another recipe, a state can't be written, the run was
        stopped by a signal, or it saves fewer states than ``recipe.average_last``.
    """
    saved = -(-total_steps // recipe.save_every)
    if saved < recipe.average_last:
        raise UserError(
            f"The run saves {saved} states and average_last is {recipe.average_last}; save more "
            "often, or average fewer."
        )
    accelerator = build_accelerator(recipe)
    accelerator.init_trackers("logs")
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total_steps, recipe)
    )
    if recipe.compile:
        # Texts differ in length from step to step; without `dynamic` each would be compiled anew.
        model.compile(backend=recipe.compile, dynamic=True)
    if recipe.shard:
        wrapped = shard(model.to(accelerator.device), optimizer)
        optimizer = accelerator.prepare(optimizer)
    else:
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    checkpoints = Checkpoints(recipe, accelerator, photos.digest if photos else "")
    start = checkpoints.restore(model, optimizer, scheduler)
    stop = _StopSignal()
    ranks, main = accelerator.num_processes, accelerator.is_main_process
    parts = ranks * recipe.accumulate
    steps = range(start, total_steps)
    every = 0.1 if sys.stderr.isatty() else 15  # seconds; a log file needs fewer lines
    bar = tqdm(
        steps, initial=start, total=total_steps, unit="step", mininterval=every, disable=not main
    )
    for step in bar:
        began = time.monotonic()
        wrapped.train()
        summed: Losses = {}
        for turn in range(recipe.accumulate):
            part = Part(turn * ranks + accelerator.process_index, parts, ranks)
            seed_step(recipe.seed, step, part.number)
            last = turn == recipe.accumulate - 1
            if recipe.shard:
                wrapped.set_requires_gradient_sync(last)
            with nullcontext() if last or recipe.shard else accelerator.no_sync(wrapped):
                with accelerator.autocast() if recipe.shard else nullcontext():
                    losses = losses_at(wrapped, step, accelerator.device, part)
                _check(losses, step, recipe, photos, part)
                # DDP takes the mean of the processes' gradients; the whole's is their sum.
                accelerator.backward(sum(losses.values()) * ranks)
            for name, loss in losses.items():
                summed[name] = summed.get(name, 0) + loss.detach()
        if recipe.shard:
            average_scalars(model)
        if recipe.clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        figures = {
            name: float(accelerator.reduce(loss, "sum") if ranks > 1 else loss)
            for name, loss in summed.items()
        }
        speed = recipe.batch_size / (time.monotonic() - began)
        figures |= {"lr": rate, "samples_per_s": speed, "memory_gb": memory_gb()}
        bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
        accelerator.log(figures, step=step)
        done = step + 1
        asked = stop.asked
        if ranks > 1:  # all of them stop after the same step
            flag = torch.tensor([float(asked)], device=accelerator.device)
            asked = bool(accelerator.reduce(flag, "sum"))
        if main and done % recipe.log_every == 0:
            tqdm.write(_line(done, figures))
        watched = validate and (done % recipe.validate_every == 0 or done == total_steps)
        if watched and (main or recipe.shard):  # a sharded model takes all processes
            wrapped.eval()
            with torch.no_grad(), accelerator.autocast(), gathered(wrapped):
                scores = validate(model, accelerator.device)
            if main:
                tqdm.write(_line(done, scores))
            accelerator.log({f"dev/{name}": value for name, value in scores.items()}, step=step)
        if done % recipe.save_every == 0 or done == total_steps or asked:
            checkpoints.save(done, model, optimizer, scheduler)
        accelerator.wait_for_everyone()
        if asked:
            raise UserError(
                f"Stopped after step {done} of {total_steps}, which is saved in {recipe.output}; "
                "the same command continues."
            )
    stop.restore()
    if recipe.shard:
        put_together(model, but=FrozenLanguageModel)
    if recipe.average_last:
        checkpoints.load_mean(model)
        if validate and main:
            model.eval()
            with torch.no_grad(), accelerator.autocast():
                scores = validate(model, accelerator.device)
            tqdm.write(f"the mean of {recipe.average_last} states: {_told(scores)}")
        accelerator.wait_for_everyone()
    # What gathers gradients goes before the process group does. Were it the last to hold the group,
    # its end would wait for gloo's thread, which may wait for Python's lock in turn, for ever.
    wrapped = None
    accelerator.free_memory()
    accelerator.end_training()  # closes the process group
    return model.eval()


def memory_gb() -> float:
    """Peak memory of the GPU, else of this process, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _check(losses: Losses, step: int, recipe: Recipe, photos: Described | None, part: Part) -> None:
    for name, loss in losses.items():
        if torch.isfinite(loss):
            continue
        kept = ""
        if photos is not None:
            path = Path(recipe.output) / f"not-a-number-step-{step}-part-{part.number}.json"
            path.write_text(json.dumps(photos.describe(step, recipe.batch_size, part), indent=1))
            kept = f" (its photos and captions are in {path})"
        raise NotANumber(
            f"The {name} loss is {loss.item()} at step {step}{kept}; start again into another "
            "output with a lower learning rate or precision=no."
        )


def _line(step: int, figures: dict[str, float]) -> str:
    return f"step {step}: {_told(figures)}"


def _told(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


class _StopSignal:
    """Remembers SIGTERM and SIGINT, so that the running step is finished and saved.

    A second signal acts at once, as it did before the run.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before = {
            number: signal.signal(number, self._remember)
            for number in (signal.SIGTERM, signal.SIGINT)
        }

    def _remember(self, number: int, frame: Any) -> None:
        self.asked = True
        self.restore()

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
