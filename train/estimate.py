"""What a recipe would do, without weights: parameter groups, schedule, batch, memory.

Activations are counted by the rule of Korthikanti et al. (2022, "Reducing activation
recomputation in large transformer models", equation 2), ``s b h (34 + 5 a s / h)`` bytes for a
layer in 16 bits; what a step really takes depends on the libraries' kernels, by tens of percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.config import Recipe, pairs_of_part, pretraining_config

if TYPE_CHECKING:
    from torch import nn

    from blip2.config import Blip2Config, QFormerConfig
    from blip2.vision import ImageEncoder

TRAINED = 16  # bytes of a trained parameter: weight, gradient, two moments, in fp32
FROZEN = 2  # in 16 bits
# Sizes that can be said without fetching anything: parameters of the frozen parts, and of the
# language models layers and heads, too. Parts that are not here count as nothing.
ENCODERS = {
    "eva-vit-g": 985_894_528, "clip-vit-l": 303_179_776, "efficientnet-lite2": 4_811_072,
    "efficientnet-lite2-two-scales": 4_811_072, "efficientnet-lite2-two-sizes": 4_811_072,
    "efficientnet-lite2-before-head": 4_357_952, "efficientnet-lite0": 3_371_008,
}  # fmt: skip
LANGUAGE_MODELS = {
    "facebook/opt-2.7b": (2_651_596_800, 32, 32), "facebook/opt-6.7b": (6_658_473_984, 32, 32),
    "google/flan-t5-xl": (2_849_757_184, 48, 32), "google/flan-t5-xxl": (11_135_332_352, 48, 64),
    "smollm2-135m-instruct": (134_515_008, 30, 9),
}  # fmt: skip
TOKENS = 257  # features of a photo at 224 pixels
A100, SHARE = 312e12, 0.4  # operations a second in 16 bits, and how much of them is reached
WORDS = 20  # word pieces of a caption, on average
ANSWER = 4  # of an answer


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


def describe(recipe: Recipe, command: str, processes: int = 1) -> str:
    """What a recipe would do, as text.

    Parameters
    ----------
    recipe : Recipe
        Of the command.
    command : str
        ``"stage1"``, ``"stage2"`` or ``"finetune"``.
    processes : int
        That share a batch.

    Raises
    ------
    UserError
        The recipe is not one of this command.
    """
    from train.optim import learning_rate_factor, parameter_groups

    config = recipe_config(recipe, command)
    model, fresh = skeleton(config, recipe)
    lines = [f"{recipe.preset}, {command} {recipe.task}".rstrip(), "parameter groups:"]
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
    several = ("captions_at_once", "turns", "samples")
    if further := [name for name in several if getattr(recipe, name) > 1]:
        lines.append(f"one text a photo is counted below; {', '.join(further)} add to it")
    needed = memory(config, recipe, part)
    if recipe.shard:
        needed.trained, needed.frozen = needed.trained // processes, needed.frozen // processes
    lines.append(needed.describe())
    each = operations(config, recipe)
    lines.append(f"compute, estimated: {each / 1e12:.2f} TFLOP a pair")
    if recipe.steps:
        whole = each * recipe.batch_size * recipe.steps
        days = whole / (A100 * SHARE) / 86400
        lines[-1] += (
            f", {whole:.1e} FLOP in all, {days:.0f} days of an A100 at {SHARE:.0%} of its peak"
        )
    sized = [*ENCODERS, *LANGUAGE_MODELS, ""]
    named = (config.image_encoder, config.language_model)
    lines += [f"not counted, its size is not known here: {n}" for n in named if n not in sized]
    return "\n".join(lines)


def recipe_config(recipe: Recipe, command: str) -> Blip2Config:
    """The model that a recipe of a command trains.

    Raises
    ------
    UserError
        The recipe is not one of this command.
    """
    from train.finetune import tuned_config
    from train.stage1 import check

    if command == "finetune":
        return tuned_config(recipe)
    if command == "stage1":
        check(recipe)
    return pretraining_config(recipe, int(command[-1]))


def skeleton(config: Blip2Config, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...]]:
    """The trained part without weights, and which of its parameters are fresh."""
    import torch

    from blip2.representation import Representation
    from blip2.vision import build_architecture
    from blip2.visual_prompt import VisualPrompt
    from train.optim import EVERYTHING
    from train.stage1 import FRESH, leave_out
    from train.stage2 import fresh_parts

    with torch.device("meta"):
        model = Representation(config) if config.stage == 1 else VisualPrompt(config)
        if config.stage == 1:
            leave_out(model, recipe.objectives)
        if config.holds_image_encoder:
            encoder = build_architecture(config.image_encoder, config.image_size)
            model.image_reader.encoder = encoder
            if recipe.train_encoder:
                encoder.unfreeze()
    if config.holds_image_encoder:
        return model, ()  # everything was started by the model that is fine-tuned
    if config.stage == 2:
        return model, fresh_parts(recipe.start)
    return model, FRESH if recipe.start else EVERYTHING


def trained(model: nn.Module) -> int:
    """Count the trained parameters."""
    found = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    encoder = model.image_reader.encoder
    return found - (encoder.num_held if encoder is not None and encoder.trained else 0)


def operations(config: Blip2Config, recipe: Recipe) -> float:
    """Floating-point operations for one pair: two for each weight that a token meets.

    The backward pass takes twice as many where weights are trained, and as many again where the
    gradient only passes through. Attention between tokens is left out, a few percent.
    """
    model, _ = skeleton(config, recipe)
    qformer, encoder = config.qformer, model.image_reader.encoder
    tokens = encoder.num_tokens if encoder is not None else TOKENS
    learns = encoder is not None and encoder.trained
    cached = recipe.cache and encoder is None
    seen = (
        0 if cached else ENCODERS.get(config.image_encoder, 0) * 2 * tokens * (3 if learns else 1)
    )
    width = qformer.hidden_size
    layer = 4 * width**2 + 2 * width * qformer.intermediate_size
    crossing = -(-qformer.num_layers // qformer.cross_attention_every)
    queries = qformer.num_queries
    keys = 2 * crossing * tokens * qformer.encoder_width * width  # computed once for all passes
    if config.stage == 1:
        itm, itg = "itm" in recipe.objectives, "itg" in recipe.objectives
        judged, asked = 3 * itm * recipe.match_share, recipe.questions / recipe.batch_size
        alone, together = queries + (1 + itg) * WORDS, judged * (queries + WORDS)
        together += asked * (queries + WORDS + ANSWER)
        across = (1 + judged + asked) * queries * crossing * 2 * width**2
        weights = (alone + together) * qformer.num_layers * layer + across + (1 + asked) * keys
        weights += (itg * WORDS + asked * ANSWER) * qformer.vocab_size * width
        return seen * (1 + asked) + 6 * weights
    parameters, _, _ = LANGUAGE_MODELS.get(config.language_model, (0, 0, 1))
    words = WORDS if config.reads_question else 0
    weights = (queries + words) * qformer.num_layers * layer + keys
    weights += queries * crossing * 2 * width**2
    return seen + 6 * weights + 4 * parameters * (queries + WORDS)


def memory(config: Blip2Config, recipe: Recipe, part: int) -> Memory:
    """Estimate what one process needs for ``part`` pairs at once."""
    model, _ = skeleton(config, recipe)
    cached = recipe.cache and not config.holds_image_encoder
    frozen = 0 if cached else ENCODERS.get(config.image_encoder, 0) * FROZEN
    qformer = config.qformer
    queries = qformer.num_queries
    again = recipe.checkpointing
    encoder, tokens = model.image_reader.encoder, TOKENS
    size = 0.0
    if encoder is not None:
        tokens = encoder.num_tokens
        if encoder.trained:
            frozen = 0
            size = part * _encoder_activations(encoder, again)
    if config.stage == 1:
        size += _activations(qformer, again, part, queries, tokens)  # ITC, photos
        size += _activations(qformer, again, part, WORDS, tokens)  # ITC, texts
        if "itm" in recipe.objectives:
            judged = round(3 * part * recipe.match_share)
            size += _activations(qformer, again, judged, queries + WORDS, tokens)
        if recipe.questions:
            asked = round(part * recipe.questions / recipe.batch_size)
            size += _activations(qformer, again, asked, queries + WORDS + ANSWER, tokens)
        if "itg" in recipe.objectives:
            size += _activations(qformer, again, part, WORDS, tokens, queries + WORDS)
            # Logits over the vocabulary in fp32, with their gradient.
            size += part * WORDS * qformer.vocab_size * 8
    else:
        parameters, layers, heads = LANGUAGE_MODELS.get(config.language_model, (0, 0, 1))
        frozen += parameters * FROZEN
        length, width = queries + WORDS, config.language_width
        size += _activations(qformer, again, part, queries, tokens)
        size += layers * part * length * (34 * width + 5 * heads * length)
    return Memory(trained(model) * TRAINED, frozen, int(size))


def _encoder_activations(encoder: ImageEncoder, again: bool) -> float:
    """Of one photo in a vision transformer that is trained; other encoders count as nothing."""
    model = getattr(encoder, "model", None)
    if model is None:
        return 0.0
    length, heads = encoder.num_tokens, model.config.num_attention_heads
    layer = length * (34 * encoder.width + 5 * heads * length)
    if again:
        return encoder.num_layers * length * 2 * encoder.width + layer
    return encoder.num_layers * layer


def _activations(
    qformer: QFormerConfig, again: bool, batch: int, length: int, tokens: int, seen: int = 0
) -> float:
    """Of all layers of one pass of the Q-Former, cross-attention with it.

    Computed ``again``, only what enters a layer is kept, and one layer's at a time.
    """
    seen = seen or length
    layer = length * (34 * qformer.hidden_size + 5 * qformer.num_heads * seen)
    crossing = -(-qformer.num_layers // qformer.cross_attention_every)
    across = 5 * qformer.num_heads * length * tokens
    states = crossing * 4 * tokens * qformer.hidden_size  # shared by all passes of a photo
    if again:
        kept = qformer.num_layers * length * 2 * qformer.hidden_size
        return batch * (kept + layer + across + states)
    return batch * (qformer.num_layers * layer + crossing * across + states)
