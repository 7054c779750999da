"""Scoring answers to questions about photos as the official VQA evaluation does.

Ten people answered each question of VQA v2, and an answer counts in full where three of them gave
it. Data sets with one answer a question (DAQUAR), or with a few that are all right (made ones), are
scored by exact match instead.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PEOPLE = 10  # who answered each question of VQA v2
Measure = Callable[[str, Sequence[str]], float]
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_FORMS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# A form with one of its apostrophes missing; the last entry is a slip of the official table.
CONTRACTIONS = {
    form[:at] + form[at + 1 :]: form
    for form in _FORMS.split()
    for at, mark in enumerate(form)
    if mark == "'"
} | {"somebody'd": "somebodyd"}
_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def without_punctuation(text: str) -> str:
    """Take punctuation out as the official evaluation does.

    A mark beside a space vanishes, one between letters becomes a space; in a text with a comma
    between digits all of them vanish.
    """
    out, thousands = text, bool(_THOUSANDS.search(text))
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_space or thousands else " ")
    return _FULL_STOP.sub("", out)


def normalise(answer: str) -> str:
    """An answer as it is compared: no punctuation, lower case, digits, no articles.

    Parameters
    ----------
    answer : str
        Of the model.
    """
    text = without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """Accuracy of one answer against those of several people (VQA v2, official evaluation).

    Parameters
    ----------
    answer : str
        As the model said it.
    given : sequence of str
        One for each person.

    Returns
    -------
    float
        Mean over all choices of all people but one of ``min(1, agreeing / 3)``. People's answers
        lose their punctuation only where they differ, as in the official evaluation.
    """
    people = [text.replace("\n", " ").replace("\t", " ").strip() for text in given]
    if len(set(people)) > 1:
        people = [without_punctuation(text) for text in people]
    agreeing = people.count(normalise(answer))
    left_out_agrees = agreeing * min(1.0, (agreeing - 1) / 3)
    left_out_differs = (len(people) - agreeing) * min(1.0, agreeing / 3)
    return (left_out_agrees + left_out_differs) / len(people)


def exact_match(answer: str, given: Sequence[str]) -> float:
    """1 where the answer is one of those given, both normalised, else 0."""
    return float(normalise(answer) in {normalise(text) for text in given})


@dataclass
class AnswerScores:
    """Figures of a set of answers.

    Attributes
    ----------
    metrics : dict
        Of each measure ("VQA accuracy", "exact match") the mean "all" and of each type of
        question, and under "best constant" what one fixed answer for each type would reach.
    constants : dict
        The fixed answers, by measure and type.
    each : list of float
        Of each question, in order.
    """

    metrics: dict[str, dict]
    constants: dict[str, dict[str, str]]
    each: list[float]


def score_answers(
    answers: Sequence[str], given: Sequence[Sequence[str]], types: Sequence[str]
) -> AnswerScores:
    """Score answers to questions, and the best that never looks at a photo.

    Parameters
    ----------
    answers : sequence of str
        The model's, one a question.
    given : sequence of sequence of str
        People's; see :func:`measure_of`.
    types : sequence of str
        Of each question.
    """
    each: list[float] = []
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, (answer, people, kind) in enumerate(zip(answers, given, types, strict=True)):
        name, measure = measure_of(people)
        each.append(measure(answer, people))
        groups[name][kind].append(number)
    metrics: dict[str, dict] = {}
    constants: dict[str, dict[str, str]] = {}
    for name, by_kind in groups.items():
        own, fixed, constants[name] = {}, {}, {}
        for kind, numbers in sorted(by_kind.items()):
            own[kind] = sum(each[n] for n in numbers)
            constants[name][kind], fixed[kind] = best_constant([given[n] for n in numbers])
        metrics[name] = _means(own, by_kind) | {"best constant": _means(fixed, by_kind)}
    return AnswerScores(metrics, constants, each)


def best_constant(
    given: Sequence[Sequence[str]], choose: Callable[[Sequence[str]], Measure] | None = None
) -> tuple[str, float]:
    """The one answer that scores most when given to every question, and its summed score.

    Parameters
    ----------
    given : sequence of sequence of str
        People's answers to each question.
    choose : callable, optional
        The measure of a question, from its answers; by default that of :func:`measure_of`.
    """
    votes: dict[str, float] = defaultdict(float)
    for people in given:
        measure = choose(people) if choose else measure_of(people)[1]
        for answer in {normalise(text) for text in people}:
            votes[answer] += measure(answer, people)
    best = min(votes, key=lambda answer: (-votes[answer], answer))  # the first by name of equals
    return best, votes[best]


def measure_of(people: Sequence[str]) -> tuple[str, Measure]:
    """How a question is scored: by VQA accuracy where several people answered it.

    Fewer than ten answers that all differ are no people's votes, but different ways to be right.
    """
    votes = len(people) >= PEOPLE or len(set(people)) < len(people)
    return ("VQA accuracy", vqa_accuracy) if votes else ("exact match", exact_match)


def _means(sums: dict[str, float], by_kind: dict[str, list[int]]) -> dict[str, float]:
    total = sum(len(numbers) for numbers in by_kind.values())
    of_kinds = {kind: value / len(by_kind[kind]) for kind, value in sums.items()}
    return {"all": sum(sums.values()) / total} | of_kinds
