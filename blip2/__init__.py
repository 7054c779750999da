"""BLIP-2 (Li et al., ICML 2023): from a photo and words to embeddings, scores and text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip2.errors import UserError
    from blip2.generation import Blip2
    from blip2.retrieval import Blip2Retriever

__all__ = ["Blip2", "Blip2Retriever", "UserError"]

_HOMES = {
    "Blip2": "blip2.generation",
    "Blip2Retriever": "blip2.retrieval",
    "UserError": "blip2.errors",
}


def __getattr__(name: str) -> Any:
    # Loading torch and transformers takes seconds, which `--help` must not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
