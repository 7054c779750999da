"""What each trained tensor is called: here, in Hugging Face checkpoints and in LAVIS files."""

from __future__ import annotations

import re
from collections.abc import Iterable

# (here, Hugging Face, LAVIS); the longest that fits the beginning of a name counts.
PARTS = (
    ("image_reader.norm", "vision_model.post_layernorm", "ln_vision"),
    ("qformer.query_tokens", "query_tokens", "query_tokens"),
    ("qformer.embedding_norm", "qformer.layernorm", "Qformer.bert.embeddings.LayerNorm"),
    ("qformer.word_embeddings", "embeddings.word_embeddings",
     "Qformer.bert.embeddings.word_embeddings"),
    ("qformer.position_embeddings", "embeddings.position_embeddings",
     "Qformer.bert.embeddings.position_embeddings"),
    ("qformer.layers.", "qformer.encoder.layer.", "Qformer.bert.encoder.layer."),
    ("image_projection", "vision_projection", "vision_proj"),
    ("text_projection", "text_projection", "text_proj"),
    ("itm_head", "itm_head", "itm_head"),
    ("projection", "language_projection", "{lm}_proj"),
    # Hugging Face's checkpoints have neither: they can embed and match, not do ITG.
    ("temperature", None, "temp"),
    ("lm_transform", None, "Qformer.cls.predictions.transform.dense"),
    ("lm_norm", None, "Qformer.cls.predictions.transform.LayerNorm"),
    ("lm_bias", None, "Qformer.cls.predictions.bias"),
)  # fmt: skip
# Within a layer of the Q-Former. An attention of ours is one module, theirs has two.
ATTENTION = (
    ("output.", "output.dense.", "output.dense."),
    ("norm.", "output.LayerNorm.", "output.LayerNorm."),
    ("", "attention.", "self."),  # query, key, value
)
FEED_FORWARD = {
    "query_ffn.inner": "intermediate_query.dense",
    "query_ffn.output": "output_query.dense",
    "query_ffn.norm": "output_query.LayerNorm",
    "text_ffn.inner": "intermediate.dense",
    "text_ffn.output": "output.dense",
    "text_ffn.norm": "output.LayerNorm",
}
HUGGING_FACE, LAVIS = 1, 2


def translate(name: str, layout: int, language: str = "opt") -> str | None:
    """Name of one of our tensors in another layout.

    Parameters
    ----------
    name : str
        As in the state of :class:`blip2.representation.Representation` or
        :class:`blip2.visual_prompt.VisualPrompt`.
    layout : int
        ``HUGGING_FACE`` or ``LAVIS``.
    language : str
        ``"opt"`` or ``"t5"``: LAVIS names the projection after the language model.

    Returns
    -------
    str or None
        None where the layout has no such tensor.

    Raises
    ------
    KeyError
        The name is none of ours.
    """
    part = next((row for row in PARTS if name.startswith(row[0])), None)
    if part is None:
        raise KeyError(name)
    if part[layout] is None:
        return None
    rest = name.removeprefix(part[0])
    if part[0] == "qformer.layers.":
        number, inner = rest.split(".", 1)
        rest = f"{number}.{_in_layer(inner, layout)}"
    return part[layout].format(lm=language) + rest


def _in_layer(name: str, layout: int) -> str:
    for ours, theirs in FEED_FORWARD.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    match = re.fullmatch(r"(attention|cross_attention)\.(.+)", name)
    if match is None:
        raise KeyError(name)
    module, inner = match[1].replace("_", ""), match[2]
    row = next(row for row in ATTENTION if inner.startswith(row[0]))
    return f"{module}.{row[layout]}{inner.removeprefix(row[0])}"


def translations(names: Iterable[str], layout: int, language: str = "opt") -> dict[str, str]:
    """Names of ours by their names in another layout, those that it lacks left out."""
    pairs = ((translate(name, layout, language), name) for name in names)
    return {theirs: ours for theirs, ours in pairs if theirs is not None}
