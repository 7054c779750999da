"""What a recipe would do, without weights: parameter groups, schedule, batch, memory.

Activations are counted by the rule of Korthikanti et al. (2022, "Reducing activation
recomputation in large transformer models", equation 2), ``s b h (34 + 5 a s / h)`` bytes for a
layer in 16 bits; what a step really takes depends on the libraries' kernels, by tens of percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.config import Recipe, model_config, pairs_of_part

if TYPE_CHECKING:
    from torch import nn

    from blip2.config import Blip2Config, QFormerConfig

TRAINED = 16  # bytes of a trained parameter: weight, gradient, two moments, in fp32
FROZEN = 2  # in 16 bits
# Sizes that can be said without fetching anything: parameters of the frozen parts, and of the
# language models layers and heads, too. Parts that are not here count as nothing.
ENCODERS = {"eva-vit-g": 985_894_528, "clip-vit-l": 303_179_776, "efficientnet-lite2": 4_811_072}
LANGUAGE_MODELS = {
    "facebook/opt-2.7b": (2_651_596_800, 32, 32), "facebook/opt-6.7b": (6_658_473_984, 32, 32),
    "google/flan-t5-xl": (2_849_757_184, 48, 32), "google/flan-t5-xxl": (11_135_332_352, 48, 64),
    "smollm2-135m-instruct": (134_515_008, 30, 9),
}  # fmt: skip
WORDS = 20  # word pieces of a caption, on average


@dataclass
class Memory:
    """Bytes on one GPU."""

    trained: int
    frozen: int
    activations: int

    def describe(self) -> str:
        """In GB, one line."""
        parts = (
            (self.trained, "trained parameters with gradients and AdamW"),
            (self.frozen, "frozen parts"),
            (self.activations, "activations"),
        )
        each = " + ".join(f"{size / 1e9:.1f} {what}" for size, what in parts)
        total = self.trained + self.frozen + self.activations
        return f"memory a process, estimated: {total / 1e9:.1f} GB ({each})"


def describe(recipe: Recipe, stage: int, processes: int = 1) -> str:
    """What a recipe would do, as text.

    Parameters
    ----------
    recipe : Recipe
        Of the stage.
    stage : int
        1 or 2.
    processes : int
        That share a batch.

    Raises
    ------
    UserError
        The recipe's preset is not of this stage.
    """
    from train.optim import learning_rate_factor, parameter_groups

    config = model_config(recipe.preset, stage)
    model, fresh = skeleton(config, recipe)
    lines = [f"{recipe.preset}, stage {stage}", "parameter groups:"]
    for group in parameter_groups(model, recipe, fresh):
        size = sum(parameter.numel() for parameter in group["params"])
        lines.append(
            f"  {size:>12,} in {len(group['params']):>3} tensors, learning rate {group['lr']:g}, "
            f"weight decay {group['weight_decay']:g}"
        )
    lines.append(f"  {trained(model):>12,} altogether")
    part = pairs_of_part(recipe, processes)
    lines.append(
        f"batch: {recipe.batch_size} pairs = {processes} processes x {recipe.accumulate} turns x "
        f"{part}"
    )
    if recipe.steps:
        lines.append(f"learning rate over {recipe.steps:,} steps (of the first group):")
        marks = {0, recipe.warmup_steps, recipe.steps // 2, recipe.steps - 1}
        for step in sorted(marks):
            rate = recipe.learning_rate * learning_rate_factor(step, recipe.steps, recipe)
            lines.append(f"  step {step + 1:>9,}: {rate:.3g}")
    else:
        lines.append(
            f"learning rate over {recipe.epochs} passes: to {recipe.learning_rate:g} in "
            f"{recipe.warmup_steps:,} steps, then cosine to {recipe.final_learning_rate:g}"
        )
    lines.append(memory(config, recipe, part).describe())
    sized = [*ENCODERS, *LANGUAGE_MODELS, ""]
    named = (config.image_encoder, config.language_model)
    lines += [f"not counted, its size is not known here: {n}" for n in named if n not in sized]
    return "\n".join(lines)


def skeleton(config: Blip2Config, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...]]:
    """The trained part without weights, and which of its parameters are fresh."""
    import torch

    from blip2.generation import VisualPrompt
    from blip2.representation import Representation
    from train.optim import EVERYTHING
    from train.stage1 import FRESH
    from train.stage2 import fresh_parts

    with torch.device("meta"):
        model = Representation(config) if config.stage == 1 else VisualPrompt(config)
    if config.stage == 2:
        return model, fresh_parts(recipe.start)
    return model, FRESH if recipe.start else EVERYTHING


def trained(model: nn.Module) -> int:
    """Count the trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def memory(config: Blip2Config, recipe: Recipe, part: int) -> Memory:
    """Estimate what one process needs for ``part`` pairs at once."""
    model, _ = skeleton(config, recipe)
    frozen = 0 if recipe.cache else ENCODERS.get(config.image_encoder, 0) * FROZEN
    qformer = config.qformer
    queries = qformer.num_queries
    again = recipe.checkpointing
    if config.stage == 1:
        size = (
            _activations(qformer, again, part, queries)  # ITC, photos
            + _activations(qformer, again, part, WORDS)  # ITC, texts
            + _activations(qformer, again, 3 * part, queries + WORDS)  # ITM
            + _activations(qformer, again, part, WORDS, queries + WORDS)  # ITG
        )
        # Logits over the vocabulary in fp32, with their gradient.
        size += part * WORDS * qformer.vocab_size * 8
    else:
        parameters, layers, heads = LANGUAGE_MODELS.get(config.language_model, (0, 0, 1))
        frozen += parameters * FROZEN
        length, width = queries + WORDS, config.language_width
        size = _activations(qformer, again, part, queries)
        size += layers * part * length * (34 * width + 5 * heads * length)
    return Memory(trained(model) * TRAINED, frozen, int(size))


def _activations(
    qformer: QFormerConfig, again: bool, batch: int, length: int, seen: int = 0
) -> float:
    """Of all layers of one pass of the Q-Former, cross-attention with it.

    Computed ``again``, only what enters a layer is kept, and one layer's at a time.
    """
    seen = seen or length
    layer = length * (34 * qformer.hidden_size + 5 * qformer.num_heads * seen)
    tokens = 257  # features of a photo at 224 pixels
    crossing = -(-qformer.num_layers // qformer.cross_attention_every)
    across = 5 * qformer.num_heads * length * tokens
    states = crossing * 4 * tokens * qformer.hidden_size  # shared by all passes of a photo
    if again:
        kept = qformer.num_layers * length * 2 * qformer.hidden_size
        return batch * (kept + layer + across + states)
    return batch * (qformer.num_layers * layer + crossing * across + states)
