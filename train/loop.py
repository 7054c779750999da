"""The only training loop: accelerate, schedule, logs, exact resume.

Randomness is a function of seed and step (:func:`seed_step`), and so is the batch
(:mod:`train.data`); a checkpoint therefore needs no random state to continue exactly.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from blip2.cache import sync
from blip2.errors import UserError
from train.config import Recipe
from train.optim import learning_rate_factor

Losses = dict[str, Tensor]


class NotANumber(UserError):
    """A loss that is not finite."""


def seed_step(seed: int, step: int) -> None:
    """Set torch's random state for a step, so that dropout and negatives depend on it alone."""
    torch.manual_seed((seed << 32) + step)


def build_accelerator(recipe: Recipe) -> Any:
    """Make the Accelerator of a run: the GPU where there is one, else the CPU.

    Raises
    ------
    UserError
        Several processes were started, or fp16 is asked for without a GPU.
    """
    from accelerate import Accelerator

    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a GPU; choose bf16 or no.")

    accelerator = Accelerator(
        mixed_precision=recipe.precision,
        cpu=not torch.cuda.is_available(),
        log_with="tensorboard",
        project_dir=recipe.output,
    )
    if accelerator.num_processes > 1:
        raise UserError(
            f"Training runs in one process so far, {accelerator.num_processes} were started; "
            "start it without a launcher."
        )
    return accelerator


def train(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    losses_at: Callable[[nn.Module, int, torch.device], Losses],
    validate: Callable[[nn.Module, torch.device], dict[str, float]] | None = None,
    data_digest: str = "",
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
        ``(model, step, device) -> {name: scalar}``; the sum is minimised.
    validate : callable, optional
        ``(model, device) -> {name: figure}``.
    data_digest : str
        Of what is trained on; a run goes on only with the same.

    Returns
    -------
    nn.Module
        The model, trained, in eval mode.

    Raises
    ------
    NotANumber
        A loss is NaN or infinite; the step and the objective are named.
    UserError
        The output folder belongs to another recipe, a state can't be written, or the run was
        stopped by a signal.
    """
    accelerator = build_accelerator(recipe)
    accelerator.init_trackers("logs")
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total_steps, recipe)
    )
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    checkpoints = Checkpoints(recipe, accelerator, data_digest)
    start = checkpoints.restore(model, optimizer, scheduler)
    stop = _StopSignal()
    steps = range(start, total_steps)
    every = 0.1 if sys.stderr.isatty() else 15  # seconds; a log file needs fewer lines
    bar = tqdm(steps, initial=start, total=total_steps, unit="step", mininterval=every)
    for step in bar:
        began = time.monotonic()
        seed_step(recipe.seed, step)
        wrapped.train()
        losses = losses_at(wrapped, step, accelerator.device)
        _check(losses, step)
        accelerator.backward(sum(losses.values()))
        if recipe.clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        rate = scheduler.get_last_lr()[0]
        scheduler.step()
        figures = {name: float(loss.detach()) for name, loss in losses.items()}
        speed = recipe.batch_size / (time.monotonic() - began)
        figures |= {"lr": rate, "samples_per_s": speed, "memory_gb": memory_gb()}
        bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
        accelerator.log(figures, step=step)
        done = step + 1
        if done % recipe.log_every == 0:
            tqdm.write(_line(done, figures))
        if validate and (done % recipe.validate_every == 0 or done == total_steps):
            wrapped.eval()
            with torch.no_grad(), accelerator.autocast():
                scores = validate(model, accelerator.device)
            tqdm.write(_line(done, scores))
            accelerator.log({f"dev/{name}": value for name, value in scores.items()}, step=step)
        if done % recipe.save_every == 0 or done == total_steps or stop.asked:
            checkpoints.save(done, model, optimizer, scheduler)
        if stop.asked:
            raise UserError(
                f"Stopped after step {done} of {total_steps}, which is saved in {recipe.output}; "
                "the same command continues."
            )
    stop.restore()
    accelerator.end_training()
    return model.eval()


def memory_gb() -> float:
    """Peak memory of the GPU, else of this process, in GB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Checkpoints:
    """Resumable states ``step-N`` under the run's folder, written aside and then renamed."""

    def __init__(self, recipe: Recipe, accelerator: Any, data_digest: str = "") -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.decisive = _decisive(recipe) | {"data": data_digest or recipe.data}
        self.folder = Path(recipe.output) / "checkpoints"
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, model: nn.Module, optimizer: Any, scheduler: Any) -> None:
        """Write the state after ``step`` steps and drop all but the newest ``keep``.

        Raises
        ------
        UserError
            It can't be written; the states before it stay.
        """
        final = self.folder / f"step-{step:08d}"
        aside = final.with_suffix(".partial")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            self._write(aside, step, model, optimizer, scheduler)
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            before = [path.name for path in self.finished() if path != final]
            raise UserError(
                f"The state after step {step} can't be written to {self.folder} ({error}); make "
                "room there, and the same command goes on "
                f"{f'from {before[-1]}' if before else 'from the beginning'}."
            ) from error
        for old in self.finished()[: -self.recipe.keep]:
            shutil.rmtree(old)

    def _write(
        self, folder: Path, step: int, model: nn.Module, optimizer: Any, scheduler: Any
    ) -> None:
        save_file(trainable_state(model), folder / "model.safetensors")
        tensors, plain = _flatten(optimizer.state_dict())
        save_file(tensors, folder / "optimizer.safetensors")
        state = {
            "step": step,
            "recipe": self.decisive,
            "optimizer": plain,
            "scheduler": scheduler.state_dict()["last_epoch"],
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        (folder / "state.json").write_text(json.dumps(state))
        for path in folder.iterdir():
            sync(path)

    def finished(self) -> list[Path]:
        """Complete states, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if not path.suffix)

    def restore(self, model: nn.Module, optimizer: Any, scheduler: Any) -> int:
        """Load the newest state and return its step, 0 where there is none."""
        if not self.finished():
            return 0
        newest = self.finished()[-1]
        try:
            state = json.loads((newest / "state.json").read_text())
            saved = load_file(newest / "model.safetensors")
            tensors = load_file(newest / "optimizer.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"The state {newest} is damaged ({error}); remove it, and the same command goes on "
                "from the one before."
            ) from error
        differing = [k for k, v in self.decisive.items() if state["recipe"].get(k) != v]
        if differing:
            raise UserError(
                f"{self.recipe.output} holds a run of another recipe (differs in "
                f"{', '.join(differing)}); choose another output or remove the folder."
            )
        own = dict(model.named_parameters())
        if set(saved) != set(trainable_state(model)):
            raise UserError(f"{newest} was written by another model; choose another output.")
        with torch.no_grad():
            for name, value in saved.items():
                own[name].copy_(value)
        optimizer.load_state_dict(_unflatten(tensors, state["optimizer"]))
        scheduler.last_epoch = state["scheduler"]
        rates = zip(optimizer.param_groups, scheduler.base_lrs, strict=True)
        factor = scheduler.lr_lambdas[0](state["scheduler"])
        for group, base in rates:
            group["lr"] = base * factor
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        tqdm.write(f"continuing after step {state['step']} of {newest}")
        return state["step"]


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Trained tensors of a model by name, frozen parts left out."""
    return {
        name: value.detach().contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def _decisive(recipe: Recipe) -> dict[str, Any]:
    """Settings that change what is computed, as JSON gives them back."""
    free = {"output", "cache", "save_every", "validate_every", "log_every", "keep", "dev_data"}
    values = {name: value for name, value in asdict(recipe).items() if name not in free}
    return json.loads(json.dumps(values))


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, entry in state["state"].items()
        for name, value in entry.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def _unflatten(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def _check(losses: Losses, step: int) -> None:
    for name, loss in losses.items():
        if not torch.isfinite(loss):
            raise NotANumber(
                f"The {name} loss is {loss.item()} at step {step}; start again into another output "
                "with a lower learning rate or precision=no."
            )


def _line(step: int, figures: dict[str, float]) -> str:
    return f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


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
