"""Questions by yes and no on what other questions ask openly: "is the dog brown?", "is it white?".

People ask by yes and no about colours, numbers, deeds, places and kinds far more than about whether
something is there. Each open question that has one clear answer gives two: that answer, to be
affirmed, and another answer of the same kind, drawn by how often the data give it, to be denied.
What might be right as well is never denied, and where no other answer is safe nothing is asked.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from train.answers import PEOPLE, normalise
from train.nouns import LEXICON, MASS
from train.phrases import COLOURS, NUMBERS
from train.presence import deniable
from train.verbs import FROM_ING, word_set

MOST = 3  # pairs on one photo
_AGREED = 0.5  # of ten people, how many have to give an answer
_LONGEST = 3  # words of an answer that fits into another question

_PLACES = r"(?:on|in|behind|under|above|below|near|beneath|beside|next to|in front of|" + (
    r"(?:to |on |at )?(?:the )?(?:left|right)(?: hand)?(?: side)? of)"
)
_RULES = [
    ("color", r"what (?:colou?rs? (?P<be>is|are)|is the colou?r of) (?P<what>.+)",
     "{be} {what} {said}?"),
    ("number", r"how many (?P<what>.+?) (?:are|is) (?:there(?: |$))?(?P<where>.*)",
     "are there {said} {what} {where}?"),
    ("doing", r"what (?P<be>is|are) (?P<what>.+) doing", "{be} {what} {said}?"),
    ("kind", r"what (?:(?:kind|type|sort) of )?(?P<kind>animal|bird|vehicle|fruit|room|sport|food|"
     r"vegetable|toy|instrument|game|season|meal) is (?:this|that|it|shown|pictured)(?: .+)?",
     "is this {said}?"),
    ("place", rf"what (?:is|are) (?:the objects? )?(?P<where>{_PLACES} .+)",
     "{be} the {said} {where}?"),
    ("deed", r"what (?P<be>is|are) (?P<what>(?:the|this|that|these|those) \w+(?: \w+)?|he|she|they)"
     r" (?P<verb>\w+ing(?: (?:in|on|over|through|under|across|with))?)",
     "{be} {what} {verb} {said}?"),
]  # fmt: skip
_RULES = [(kind, re.compile(ask), form) for kind, ask, form in _RULES]
_WITHOUT_ARTICLE = word_set("sport food season meal game")
# What is worn, or is in a picture, is seldom all said.
_UNSAID = re.compile(r"wearing|in (?:the|this) (?:photo|picture|image|background|foreground|scene)")
# Colours that people call by each other's name.
_NEAR = [
    set(line.split())
    for line in (
        "red maroon pink orange", "orange yellow gold", "green turquoise", "blue turquoise purple",
        "brown tan beige gold maroon orange", "white beige silver gray grey tan",
        "black gray grey", "purple pink", "silver gray grey",
    )
]  # fmt: skip
# Of deeds only those are denied that nobody can do together with the one that was seen.
_DEEDS = [
    word_set("sitting lying laying sleeping kneeling"),
    word_set("running jumping leaping racing"),
    word_set("swimming diving"),
    word_set("climbing"),
    word_set("skiing snowboarding sledding"),
    word_set("surfing"),
    word_set("eating"),
]
_TOGETHER = [  # these go together, whatever the list above says
    {"jumping", "leaping", "racing", "running", "diving", "skiing", "snowboarding", "sledding",
     "surfing", "climbing"},
    {"sitting", "lying", "laying", "kneeling", "eating", "sledding", "surfing"},
]  # fmt: skip


@dataclass
class Known:
    """Best answers to open questions, by what is asked, with how often the data give each."""

    answers: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Count the questions of one photo."""
        for entry in entries:
            if open_question := take_question(entry):
                self.answers[open_question.key][open_question.answer] += 1


@dataclass(frozen=True)
class OpenQuestion:
    """A question whose answer fits into another one.

    Attributes
    ----------
    kind : str
        "color", "number", "doing", "kind", "place" or "deed".
    key : str
        The same for questions whose answers can stand for each other.
    answer : str
        The best one.
    right : list of str
        All that were given.
    form : str
        The other question, with ``{}`` for an answer.
    """

    kind: str
    key: str
    answer: str
    right: list[str]
    form: str

    def ask(self, answer: str) -> str:
        """The question whether it is this answer."""
        said, form = self._with_article(answer), self.form
        if self.kind == "place" and _several(answer):
            form = form.replace("is", "are", 1)
        return " ".join(form.replace("{}", said).split()).replace(" ?", "?")

    def _with_article(self, answer: str) -> str:
        noun = LEXICON.get(tuple(answer.split()))
        bare = self.kind == "kind" and self.key.partition(" ")[2] in _WITHOUT_ARTICLE
        if self.kind not in {"kind", "deed"} or bare or (noun and noun.family in MASS):
            return answer
        if _several(answer):
            return answer
        if self.kind == "deed" and noun and noun.category == "scenery":
            return f"the {answer}"
        return f"{'an' if answer[0] in 'aeio' else 'a'} {answer}"


def take_question(entry: Mapping[str, Any]) -> OpenQuestion | None:
    """Read a question of the data; None where it or its answers fit no rule.

    Parameters
    ----------
    entry : mapping
        "question" and "answers": of one person, of ten, or of captions, the best first.
    """
    question = " ".join(entry["question"].lower().rstrip("? ").split())
    right = [normalise(text) for text in entry["answers"]]
    if not right or _UNSAID.search(question) or "," in entry["answers"][0]:
        return None
    best, votes = Counter(right).most_common(1)[0]
    best = right[0] if votes == 1 else best
    if len(right) >= PEOPLE and votes < _AGREED * len(right):
        return None
    for kind, rule, form in _RULES:
        if found := rule.fullmatch(question):
            parts = {name: text or "" for name, text in found.groupdict().items()}
            parts["be"] = parts.get("be") or "is"
            key = " ".join([kind, parts.get("verb", "") or parts.get("kind", "")]).strip()
            if _fits(kind, best):
                return OpenQuestion(kind, key, best, right, form.format(said="{}", **parts))
            return None
    return None


def make_checks(
    entries: Sequence[Mapping[str, Any]],
    words: Sequence[str],
    known: Known,
    draw: random.Random,
    most: int = MOST,
) -> list[dict]:
    """Pairs of questions on a photo, one to be affirmed and one to be denied.

    Parameters
    ----------
    entries : sequence of mapping
        Open questions on the photo, with their answers.
    words : sequence of str
        All words of its captions; none where people answered questions without any.
    known : Known
        Of all photos, for what to deny.
    draw : Random
        Chooses.
    most : int
        Pairs of one photo.

    Returns
    -------
    list of dict
        "question", "answers", "question_type" ("check") and "answer_type" ("yes/no").
    """
    pairs = []
    for entry in entries:
        asked = take_question(entry)
        if asked is None:
            continue
        others = {
            answer: count
            for answer, count in sorted(known.answers[asked.key].items())
            if surely_wrong(asked, answer, words)
        }
        if others:
            wrong = draw.choices(list(others), list(others.values()))[0]
            pairs.append([(asked.ask(asked.answer), "yes"), (asked.ask(wrong), "no")])
    draw.shuffle(pairs)
    chosen = list(dict.fromkeys(entry for pair in pairs[:most] for entry in pair))
    draw.shuffle(chosen)
    return [
        {"question": text, "answers": [said], "question_type": "check", "answer_type": "yes/no"}
        for text, said in chosen
    ]


def surely_wrong(asked: OpenQuestion, answer: str, words: Sequence[str]) -> bool:
    """Whether an answer can be denied: nobody gave it, nor anything that it might go with."""
    said = {word for text in asked.right for word in text.split()}
    if {_stem(word) for word in answer.split()} & {_stem(word) for word in said}:
        return False
    if asked.kind == "color":
        return not any(answer in near and said & near for near in _NEAR)
    if asked.kind == "doing":
        stems = {_stem(word) for word in words}
        return _stem(answer) not in stems and all(_apart(answer, own) for own in asked.right)
    if asked.kind == "deed" and words:
        noun = LEXICON.get(tuple(answer.split()))
        return noun is not None and noun.family in deniable(list(words))
    return True


def _fits(kind: str, answer: str) -> bool:
    """Whether an answer says one thing, of the kind that is asked for."""
    if kind == "color":
        return answer in COLOURS
    if kind == "number":
        return answer.isdigit() and 2 <= int(answer) <= len(NUMBERS)
    if kind == "doing":
        return answer in FROM_ING
    plain = re.fullmatch(r"[a-z]+(?: [a-z]+)*", answer)
    return bool(plain) and len(answer.split()) <= _LONGEST and answer not in {"yes", "no"}


def _apart(one: str, other: str) -> bool:
    """Whether nobody does both."""
    groups = [next((n for n, deeds in enumerate(_DEEDS) if d in deeds), None) for d in (one, other)]
    if None in groups or groups[0] == groups[1]:
        return False
    return not any({one, other} <= both for both in _TOGETHER)


def _several(answer: str) -> bool:
    noun = LEXICON.get(tuple(answer.split()))
    return noun.plural if noun else answer.endswith("s")


def _stem(word: str) -> str:
    return word.removesuffix("s")[:5]
