"""Resumable states of a run: written aside and renamed, read back exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from blip2.cache import sync
from blip2.display import one_line
from blip2.errors import UserError
from train.config import Recipe
from train.sharding import like, whole


class Checkpoints:
    """Resumable states ``step-N`` under the run's folder, written aside and then renamed."""

    def __init__(self, recipe: Recipe, accelerator: Any, data_digest: str = "") -> None:
        self.recipe, self.accelerator = recipe, accelerator
        parts = accelerator.num_processes * recipe.accumulate  # draws differ with their number
        self.decisive = _decisive(recipe) | {"data": data_digest or recipe.data, "parts": parts}
        self.folder = Path(recipe.output) / "checkpoints"
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, model: nn.Module, optimizer: Any, scheduler: Any) -> None:
        """Write the state after ``step`` steps, drop all but the newest ``keep`` and the averaged.

        All processes call it, for a sharded model is put together; one of them writes.

        Raises
        ------
        UserError
            It can't be written; the states before it stay.
        """
        main = self.accelerator.is_main_process
        weights = trainable_state(model, main)
        tensors, plain = _flatten(optimizer.state_dict(), main)
        if not main:
            return
        final = self.folder / f"step-{step:08d}"
        aside = final.with_suffix(".partial")
        state = {
            "step": step,
            "recipe": self.decisive,
            "optimizer": plain,
            "scheduler": scheduler.state_dict()["last_epoch"],
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            save_file(weights, aside / "model.safetensors")
            save_file(tensors, aside / "optimizer.safetensors")
            (aside / "state.json").write_text(json.dumps(state))
            for path in aside.iterdir():
                sync(path)
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
        needed = {*self.finished()[-self.recipe.keep :], *self._averaged()}
        for old in self.finished():
            if old not in needed:
                shutil.rmtree(old)

    def finished(self) -> list[Path]:
        """Complete states, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if not path.suffix)

    def _averaged(self) -> list[Path]:
        """States for the mean: the newest, and those before it that no signal has had saved.

        So a run that was stopped and goes on ends with the mean of one that was not.
        """
        states, every = self.finished(), self.recipe.save_every
        states = [s for s in states if s == states[-1] or int(s.name[len("step-") :]) % every == 0]
        return states[-self.recipe.average_last :] if self.recipe.average_last else []

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
        # A setting that is newer than the run was at its default in it.
        known = _decisive(Recipe("", "")) | state["recipe"]
        differing = [k for k, v in self.decisive.items() if known.get(k) != v]
        if differing:
            raise UserError(
                f"{self.recipe.output} holds a run of another recipe (differs in "
                f"{', '.join(differing)}); choose another output or remove the folder."
            )
        own = dict(model.named_parameters())
        if set(saved) != {name for name, value in own.items() if value.requires_grad}:
            raise UserError(f"{newest} was written by another model; choose another output.")
        with torch.no_grad():
            for name, value in saved.items():
                own[name].copy_(like(value, own[name]))
        optimizer.load_state_dict(_unflatten(tensors, state["optimizer"], optimizer))
        scheduler.last_epoch = state["scheduler"]
        rates = zip(optimizer.param_groups, scheduler.base_lrs, strict=True)
        factor = scheduler.lr_lambdas[0](state["scheduler"])
        for group, base in rates:
            group["lr"] = base * factor
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        tqdm.write(f"continuing after step {state['step']} of {one_line(newest)}")
        return state["step"]

    def load_mean(self, model: nn.Module) -> None:
        """Fill a model with the mean weights of the newest states, ``average_last`` of them.

        Parameters
        ----------
        model : nn.Module
            Whole, no longer cut over processes.

        Raises
        ------
        UserError
            There are not as many states, or one is damaged.
        """
        number, states = self.recipe.average_last, self._averaged()
        if len(states) < number:
            raise UserError(
                f"{self.folder} holds {len(states)} states and average_last is {number}; the same "
                f"command with average_last={len(states)} ends the run."
            )
        own = dict(model.named_parameters())
        mean: dict[str, Tensor] = {}
        for state in states:
            try:
                saved = load_file(state / "model.safetensors")
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"The state {state} is damaged ({error}); the same command with a smaller "
                    "average_last ends the run."
                ) from error
            for name, value in saved.items():
                mean[name] = mean.get(name, 0) + value.double() / number
        with torch.no_grad():
            for name, value in mean.items():
                own[name].copy_(value)


def trainable_state(model: nn.Module, kept: bool = True) -> dict[str, Tensor]:
    """Trained tensors of a model by name, frozen parts left out.

    Parameters
    ----------
    model : nn.Module
        Where it is sharded, all processes ask for its tensors.
    kept : bool
        False gives nothing, to those who only help to put them together.
    """
    named = {n: value.detach() for n, value in model.named_parameters() if value.requires_grad}
    return _collected(named, kept)


def _collected(named: dict[str, Tensor], kept: bool) -> dict[str, Tensor]:
    """Whole tensors, put together one at a time and kept in the computer's memory."""
    found = {}
    for name, value in named.items():
        together = whole(value)
        if kept:
            found[name] = together.contiguous().cpu()
    return found


def _decisive(recipe: Recipe) -> dict[str, Any]:
    """Settings that change what is computed, as JSON gives them back."""
    free = {"output", "cache", "save_every", "validate_every", "log_every", "keep", "dev_data",
            "watch", "checkpointing", "accumulate", "shard", "average_last"}  # fmt: skip
    values = {name: value for name, value in asdict(recipe).items() if name not in free}
    return json.loads(json.dumps(values))


def _flatten(state: dict[str, Any], kept: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    named = {
        f"{index}.{name}": value
        for index, entry in state["state"].items()
        for name, value in entry.items()
    }
    return _collected(named, kept), {"param_groups": state["param_groups"]}


def _unflatten(tensors: dict[str, Tensor], plain: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    trained = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        cut = (
            like(value, trained[int(index)]) if value.ndim else value
        )  # but for the count of steps
        state.setdefault(int(index), {})[name] = cut
    return {"state": state, "param_groups": plain["param_groups"]}
