"""Answers by type of question, beside what the best constant answer gets, and yes/no as in POPE.

A figure says little by itself where most questions have the same answer: a model that says "yes"
to all is right on half of them. So each stands beside the one answer that, given to every question
of that type, scores most by the same measure.

Li et al.: Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from train.answers import best_constant, exact_match, measure_of, normalise


def kind_of(entry: Mapping[str, Any]) -> str:
    """The type of a question: as the data say it, else as its words do (DAQUAR has no types)."""
    for key in ("answer_type", "question_type"):
        if entry.get(key):
            return str(entry[key])
    question = entry["question"].lower()
    if "how many" in question:
        return "number"
    return "color" if "color" in question or "colour" in question else "object"


def by_type(
    answers: Sequence[str], given: Sequence[Sequence[str]], kinds: Sequence[str]
) -> dict[str, dict]:
    """Figures of each type of question and, first, of all.

    Parameters
    ----------
    answers : sequence of str
        The model's, one a question.
    given : sequence of sequence of str
        The right ones.
    kinds : sequence of str
        Type of each question.

    Returns
    -------
    dict
        By type: "questions"; for "accuracy" (VQA accuracy where people answered, else exact match)
        and "exact match" (the answer is one of those given) the "score", the best constant answer
        ("constant"), its "constant_score" and how many "points" of a hundred lie between.
    """
    rows: dict[str, list[int]] = {"all": list(range(len(kinds)))}
    for row, kind in sorted(enumerate(kinds), key=lambda pair: pair[1]):
        rows.setdefault(kind, []).append(row)
    figures = {}
    for kind, mine in rows.items():
        said, right = [answers[row] for row in mine], [given[row] for row in mine]
        figures[kind] = {
            "questions": len(mine),
            "accuracy": _beside_constant(said, right, lambda people: measure_of(people)[1]),
            "exact match": _beside_constant(said, right, lambda _: exact_match),
        }
    return figures


def _beside_constant(said: Sequence[str], right: Sequence[Sequence[str]], choose: Any) -> dict:
    score = sum(choose(p)(a, p) for a, p in zip(said, right, strict=True)) / len(right)
    constant, total = best_constant(right, choose)
    fixed = total / len(right)
    return {
        "score": score,
        "constant": constant,
        "constant_score": fixed,
        "points": 100 * (score - fixed),
    }


def yes_no(answers: Sequence[str], given: Sequence[Sequence[str]]) -> dict[str, Any] | None:
    """Figures of the questions whose right answer is yes or no; None where there are none.

    Parameters
    ----------
    answers : sequence of str
        The model's to all questions; "yes, it is" is a yes, and what begins with neither is wrong.
    given : sequence of sequence of str
        The right ones; what most people said counts.

    Returns
    -------
    dict
        "questions", "accuracy", "balanced_accuracy" (mean of the recalls of yes and of no; None
        where one is never right), "precision", "recall" and "F1" of yes, "yes_share" of the
        model's answers, "true_yes_share" and "neither_share".
    """
    seen: Counter[tuple[str, str]] = Counter()  # (right, said)
    for answer, people in zip(answers, given, strict=True):
        votes = Counter(normalise(text) for text in people)
        truth = max(sorted(votes), key=votes.get)
        if truth in {"yes", "no"}:
            first = (normalise(answer).split() or [""])[0]
            seen[truth, first if first in {"yes", "no"} else "neither"] += 1
    total = seen.total()
    if not total:
        return None
    truths, said = defaultdict(int), defaultdict(int)
    for (truth, word), count in seen.items():
        truths[truth] += count
        said[word] += count
    recalls = {word: _ratio(seen[word, word], truths[word]) for word in ("yes", "no")}
    hit = seen["yes", "yes"]
    both = None not in recalls.values()
    return {
        "questions": total,
        "accuracy": (hit + seen["no", "no"]) / total,
        "balanced_accuracy": (recalls["yes"] + recalls["no"]) / 2 if both else None,
        "precision": _ratio(hit, said["yes"]),
        "recall": recalls["yes"],
        "F1": _ratio(2 * hit, said["yes"] + truths["yes"]),
        "yes_share": said["yes"] / total,
        "true_yes_share": truths["yes"] / total,
        "neither_share": said["neither"] / total,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def table(types: Mapping[str, dict], answered: Mapping[str, Any] | None) -> list[str]:
    """Both as lines for a reader, in percent."""
    lines = [f"{'type':<12}{'questions':>10}{'accuracy':>10}{'constant':>10}{'points':>8}"
             f"{'exact':>8}{'constant':>10}{'points':>8}  constant answer"]  # fmt: skip
    for kind, figures in types.items():
        line = f"{kind[:11]:<12}{figures['questions']:>10}"
        for name, width in (("accuracy", 10), ("exact match", 8)):
            one = figures[name]
            line += f"{100 * one['score']:>{width}.1f}{100 * one['constant_score']:>10.1f}"
            line += f"{one['points']:>+8.1f}"
        lines.append(f"{line}  {figures['accuracy']['constant']}")
    if answered:
        shown = [f"{name.replace('_', ' ')} {_percent(value)}" for name, value in answered.items()
                 if name != "questions"]  # fmt: skip
        lines.append(f"yes/no ({answered['questions']}): {', '.join(shown)}")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
