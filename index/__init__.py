"""Finding photos by words: FAISS over Q-Former embeddings, photos and their files in SQLite.

The names below are imported on first use, so that ``import index`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from index.alike import Folded, fold_alike
    from index.hits import Hit, best_texts
    from index.manifest import IndexFileError
    from index.places import Where
    from index.report import AddReport
    from index.search import PhotoIndex

__all__ = [
    "AddReport",
    "Folded",
    "Hit",
    "IndexFileError",
    "PhotoIndex",
    "Where",
    "best_texts",
    "fold_alike",
]

_HOMES = {
    "AddReport": "index.report",
    "Folded": "index.alike",
    "Hit": "index.hits",
    "IndexFileError": "index.manifest",
    "PhotoIndex": "index.search",
    "Where": "index.places",
    "best_texts": "index.hits",
    "fold_alike": "index.alike",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
