"""Published figures, and when a measurement may be held against one.

A figure belongs to its protocol: data set, split, how many photos or questions, prompt, beams, and
what the model was fine-tuned on. Only a measurement that agrees in all of them gets a verdict;
any other is not comparable, and its score is not even named beside the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blip2.errors import UserError

PAPER = "Li et al., BLIP-2, ICML 2023 (arXiv 2301.12597 v3)"
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Anchor:
    """One published figure.

    Attributes
    ----------
    name : str
        By which the command line asks for it.
    table, row : str
        Where it stands in the paper.
    task : str
        "caption", "retrieval" or "vqa", as `train.evaluate` calls them.
    metric : tuple of str
        Where a report's "metrics" hold the same figure.
    value : float
        From 0 to 1 (CIDEr: as a factor, 1.458 for 145.8).
    protocol : dict
        What a measurement must agree in.
    tolerance : float
        How far from ``value`` still reproduces it.
    """

    name: str
    table: str
    row: str
    task: str
    metric: tuple[str, ...]
    value: float
    protocol: dict[str, Any]
    tolerance: float = 0.005
    paper: str = PAPER


def _short(row: str) -> str:
    """A language model as the checkpoints spell it: FlanT5-XL is flan-t5-xl."""
    return row.lower().replace("flant5", "flan-t5")


def _anchors() -> dict[str, Anchor]:
    coco = {
        "dataset": "coco", "split": "karpathy-test", "photos": 5000, "prompt": "a photo of",
        "num_beams": 5, "fine_tuned": "coco",
    }  # fmt: skip
    found = []
    for row, bleu, cider in (
        ("OPT-2.7B", 0.437, 1.458), ("OPT-6.7B", 0.435, 1.452), ("FlanT5-XL", 0.424, 1.445),
    ):  # fmt: skip
        where = {"table": "3", "row": f"BLIP-2 ViT-g {row}", "task": "caption", "protocol": coco}
        name = f"coco-caption-{_short(row)}"
        found.append(Anchor(f"{name}-bleu4", metric=("BLEU-4",), value=bleu, **where))
        found.append(Anchor(f"{name}-cider", metric=("CIDEr",), value=cider, **where))
    nocaps = coco | {"dataset": "nocaps", "split": "val", "photos": 4500}
    for row, cider in (("OPT-2.7B", 1.197), ("OPT-6.7B", 1.210), ("FlanT5-XL", 1.216)):
        found.append(
            Anchor(f"nocaps-{_short(row)}-cider", "3", f"BLIP-2 ViT-g {row}", "caption",
                   ("CIDEr",), cider, nocaps)
        )  # fmt: skip
    questions = {
        "vqav2": ("test-dev", 107_394, (0.523, 0.526, 0.630, 0.650)),
        "gqa": ("test-dev", 12_578, (0.346, 0.364, 0.442, 0.447)),
        "ok-vqa": ("test", 5046, (0.317, 0.364, 0.407, 0.459)),
    }
    for dataset, (split, size, values) in questions.items():
        rows = ("OPT-2.7B", "OPT-6.7B", "FlanT5-XL", "FlanT5-XXL")
        for row, value in zip(rows, values, strict=True):
            form = "Short answer" if row.startswith("Flan") else "Answer"
            protocol = {
                "dataset": dataset, "split": split, "questions": size, "fine_tuned": "none",
                "prompt": f"Question: {{}} {form}:", "num_beams": 5,
            }  # fmt: skip
            kind = "exact match" if dataset == "gqa" else "VQA accuracy"
            found.append(
                Anchor(f"{dataset}-{_short(row)}", "2", f"BLIP-2 ViT-g {row}", "vqa",
                       (kind, "all"), value, protocol)
            )  # fmt: skip
    retrieval = {"k_test": 128, "captions_per_photo": 5, "texts_limit": None}
    flickr = retrieval | {
        "dataset": "flickr30k", "split": "test", "photos": 1000, "fine_tuned": "coco",
    }  # fmt: skip
    own = retrieval | {
        "dataset": "coco", "split": "karpathy-test", "photos": 5000, "fine_tuned": "coco",
    }  # fmt: skip
    for name, row, protocol, text, image in (
        ("flickr30k-vit-g", "BLIP-2 ViT-g", flickr, 0.976, 0.897),
        ("flickr30k-vit-l", "BLIP-2 ViT-L", flickr, 0.969, 0.886),
        ("coco-vit-g", "BLIP-2 ViT-g", own, 0.854, 0.683),
    ):
        for key, value in (("TR@1", text), ("IR@1", image)):
            found.append(
                Anchor(f"{name}-{key[:2].lower()}1", "5", row, "retrieval",
                       ("itm", key), value, protocol)
            )  # fmt: skip
    return {anchor.name: anchor for anchor in found}


ANCHORS = _anchors()


def find_anchors(names: list[str], task: str) -> list[Anchor]:
    """Anchors by name; "all" stands for every one of the task.

    Raises
    ------
    UserError
        There is no such anchor.
    """
    of_task = [name for name, anchor in ANCHORS.items() if anchor.task == task]
    wanted = [one for name in names for one in (of_task if name == "all" else [name])]
    for name in wanted:
        if name not in ANCHORS:
            raise UserError(
                f"There is no published figure {name!r}; choose all or of {', '.join(of_task)}."
            )
    return [ANCHORS[name] for name in dict.fromkeys(wanted)]


def differences(anchor: Anchor, task: str, protocol: dict[str, Any]) -> list[str]:
    """In what a measurement's protocol differs from an anchor's; empty where in nothing."""
    if task != anchor.task:
        return [f"task: {task}, published: {anchor.task}"]
    return [
        f"{key}: {NOT_STATED if protocol.get(key) is None else protocol[key]}, published: {value}"
        for key, value in anchor.protocol.items()
        if protocol.get(key) != value
    ]


def verdict(
    anchor: Anchor, task: str, protocol: dict[str, Any], metrics: dict[str, Any]
) -> dict[str, Any]:
    """Hold a measurement against a published figure.

    Parameters
    ----------
    anchor : Anchor
        The published figure.
    task : str
        What was measured.
    protocol : dict
        How; a missing or None entry is not stated, and agrees with nothing.
    metrics : dict
        The report's figures.

    Returns
    -------
    dict
        The anchor with "verdict": "reproduced", "below" or "above" with "measured"; or
        "not comparable" with the list "differences" and no score.
    """
    said = {
        "anchor": anchor.name, "paper": anchor.paper, "table": anchor.table, "row": anchor.row,
        "metric": " ".join(anchor.metric), "published": anchor.value,
    }  # fmt: skip
    found = differences(anchor, task, protocol)
    value: Any = metrics
    for key in () if found else anchor.metric:
        value = value.get(key) if isinstance(value, dict) else None
    if not found and not isinstance(value, float):
        found = [f"metric: {said['metric']} was not measured"]
    if found:
        return said | {"verdict": "not comparable", "differences": found}
    distance = value - anchor.value
    word = "reproduced" if abs(distance) <= anchor.tolerance + 1e-9 else (
        "below" if distance < 0 else "above"
    )  # fmt: skip
    return said | {"verdict": word, "measured": value}
