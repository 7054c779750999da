"""Optimizer and schedule: parameter groups, warm-up, cosine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from blip2.vision import ImageEncoder
from train.config import Recipe

EVERYTHING = ("",)  # no parameter was started by a checkpoint


def build_optimizer(
    model: nn.Module, recipe: Recipe, fresh: Iterable[str] = ()
) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, recipe, fresh), betas=recipe.betas, fused=True)


def parameter_groups(
    model: nn.Module, recipe: Recipe, fresh: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate and weight decay.

    An image encoder that is trained has ``layer_decay`` to the power of ``L + 1 - l`` of the
    learning rate in layer ``l`` of ``L``, as the official code computes (and does not use).

    Parameters
    ----------
    model : nn.Module
        Parameters without gradient are left out.
    recipe : Recipe
        Learning rates, weight decay.
    fresh : iterable of str
        Modules or parameters (one or more parts of a dotted name) that no checkpoint started;
        they get ``fresh_learning_rate``.

    Returns
    -------
    list of dict
        As torch's optimizers take them. Biases, norms and other vectors are in groups without
        weight decay.
    """
    fresh = tuple(fresh)
    encoders = {
        name: part for name, part in model.named_modules() if isinstance(part, ImageEncoder)
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = recipe.learning_rate
        if any(not key or f".{key}." in f".{name}." for key in fresh):
            rate = recipe.fresh_learning_rate or rate
        for prefix, encoder in encoders.items():
            if name.startswith(f"{prefix}."):
                layer = encoder.layer_of(name.removeprefix(f"{prefix}."))
                rate = recipe.learning_rate * recipe.layer_decay ** (encoder.num_layers + 1 - layer)
        groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (rate, decays), parameters in groups.items()
    ]


def learning_rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then cosine to the final rate.

    Parameters
    ----------
    step : int
        From 0 to ``total - 1``.
    total : int
        Steps of the whole run.
    """
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    floor = recipe.final_learning_rate / recipe.learning_rate
    done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2
