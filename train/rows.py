"""What can be drawn of a photo: a caption or several, a question, a conversation."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from train.shards import Sample

Talk = list[tuple[str, str]]  # what is asked ("" for a description) and what is answered

DESCRIBED = 0.3  # of conversations about a photo with captions, how many begin with one


@dataclass(frozen=True)
class Row:
    """What can be drawn: a photo with its captions, one question with its answers, or a talk.

    Attributes
    ----------
    photo : int
        Which one.
    name : str
        Of the row.
    texts : list of str
        Captions or answers.
    question : str
        What ``texts`` answer.
    asked : list of (str, list of str)
        Of a talk the questions with their answers; ``texts`` are the photo's captions then.
    typical : list of str
        Captions that are drawn, where not all are.
    """

    photo: int
    name: str
    texts: list[str]
    question: str = ""
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    typical: list[str] = field(default_factory=list)

    @property
    def described(self) -> bool:
        """Whether the photo is to be described, and ``texts`` are all its captions."""
        return not self.question and not self.asked

    def told(self, turn: int, seed: int, at_once: int = 1, turns: int = 1) -> list[Talk]:
        """What is learned of it when it is drawn for the ``turn``-th time, counted from 0.

        Parameters
        ----------
        turn, seed : int
            They decide it.
        at_once : int
            Captions, as far as there are so many; they take turns.
        turns : int
            Most questions of a talk.
        """
        order: list = list(self.asked or self.typical or self.texts)
        random.Random(f"{seed}/{self.name}").shuffle(order)
        if self.asked:
            return [self._talk(order, turn, seed, turns)]
        count = min(at_once, len(order)) if self.described else 1
        return [
            [(self.question, order[(turn * count + number) % len(order)])]
            for number in range(count)
        ]

    def _talk(self, order: list[tuple[str, list[str]]], turn: int, seed: int, turns: int) -> Talk:
        """Some questions, each with an answer of someone; sometimes a caption before them."""
        draw = random.Random(f"{seed}/{turn}/{self.name}/talk")
        count = draw.randint(1, min(turns, len(order)))
        asked = [order[(turn + number) % len(order)] for number in range(count)]
        talk = [(question, draw.choice(answers)) for question, answers in asked]
        if self.texts and draw.random() < DESCRIBED:
            talk.insert(0, ("", draw.choice(self.typical or self.texts)))
        return talk


def with_typical(rows: list[Row], number: int) -> list[Row]:
    """Have only those ``number`` captions of a photo drawn that agree most with its others.

    One caption in five tells what nobody else saw, or tells it oddly. Agreement is the mean CIDEr
    with the photo's other captions (consensus, Vedantam et al., CVPR 2015).
    """
    from train.rewards import CiderReward

    described = {row.photo: row.texts for row in rows if not row.question and row.texts}
    reward = CiderReward(list(described.values()), end="")
    best: dict[int, list[str]] = {}
    for photo, texts in described.items():
        scores = [
            reward([text], [*texts[:place], *texts[place + 1 :]])[0]
            for place, text in enumerate(texts)
            if len(texts) > number
        ]
        # Of equals the first; a photo with no more captions keeps all.
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        best[photo] = [texts[place] for place in sorted(order[:number])]
    return [row if row.question else replace(row, typical=best.get(row.photo, [])) for row in rows]


def rows_of(sample: Sample, texts: str, photo: int, turns: int = 1) -> list[Row]:
    """What can be drawn of a sample; ``texts`` and ``turns`` as for :class:`CaptionedPhotos`."""
    found = []
    captions = [clean_caption(caption) for caption in sample.captions]
    if texts != "qa" and captions:
        found.append(Row(photo, sample.image_id, captions))
    if texts != "captions":
        asked = [(entry["question"], entry["answers"]) for entry in sample.qa if entry["answers"]]
        if turns > 1 and asked:
            found.append(Row(photo, f"{sample.image_id}/talk", captions, asked=asked))
        elif turns == 1:
            found += [
                Row(photo, f"{sample.image_id}/{question}", answers, question)
                for question, answers in asked
            ]
    return found


def clean_caption(text: str) -> str:
    """Drop what a tokenised corpus adds: spaces before punctuation, the closing full stop."""
    words = text.strip().rstrip(".").strip()
    for mark in (",", ";", ":", "'s", "!", "?"):
        words = words.replace(f" {mark}", mark)
    return " ".join(words.split())
