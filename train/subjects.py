"""Who or what a caption speaks of, where a photo leaves no doubt which one is meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from train.nouns import plural
from train.phrases import PLAIN_PLURAL, UNCLEAR, Caption, Mention

_MALE, _FEMALE = frozenset({"man", "boy"}), frozenset({"woman", "girl"})
_CROWDS = frozenset({"group", "crowd"})
_MORE = frozenset({"another", "other", "others"})


def people_of(caption: Caption) -> list[Mention]:
    """Mentions of people."""
    return [m for m in caption.mentions if m.noun.category == "people"]


def sole_person(captions: Sequence[Caption]) -> str:
    """The family of the only person, or of the only people, that captions name; "" for none.

    Where captions do not agree whether it is a man or a woman, "person".
    """
    numbers, words = set(), Counter()
    for caption in captions:
        people = people_of(caption)
        if len(people) > 1 or any(m.family in _CROWDS for m in caption.mentions):
            return ""
        if people:
            numbers.add(people[0].number)
            words[people[0].family] += 1
    several = len(numbers - {PLAIN_PLURAL}) > 1 or numbers >= {1, PLAIN_PLURAL}
    if several or UNCLEAR in numbers or not words:
        return ""
    if set(words) & _MALE and set(words) & _FEMALE:
        return "person"
    del words["person"]
    return words.most_common(1)[0][0] if words else "person"


def one_of_kind(captions: Sequence[Caption], family: str) -> bool:
    """Whether just one man (woman, boy, ...) is named, though others may stand beside him.

    Several captions have to name him, none may speak of several people, and nobody whose kind is
    not said may be there, who could be another of his.
    """
    if family == "person":
        return False
    kinds = {m.family for c in captions for m in people_of(c)}
    alike = {"child", "boy", "girl", "baby"}
    if "person" in kinds or (family in alike and len(kinds & alike) > 1):
        return False
    naming = 0
    for caption in captions:
        mine = [m for m in people_of(caption) if m.family == family]
        naming += bool(mine)
        if len(mine) > 1 or any(m.number != 1 for m in people_of(caption)):
            return False
        if any(m.family in _CROWDS for m in caption.mentions) or _MORE & set(caption.tokens):
            return False
    return naming > 1 or len(captions) < 3


def subject(captions: Sequence[Caption], mention: Mention) -> str:
    """What to call a person or an animal so that no other may be meant; "" where others may be."""
    if not mention.real:
        return ""
    if mention.noun.category == "people":
        family = sole_person(captions)
        if not family and one_of_kind(captions, mention.family):
            family = mention.family
    elif mention.noun.category == "animals":
        alike = [[m for m in c.mentions if m.family == mention.family] for c in captions]
        numbers = {m.number for some in alike for m in some}
        plurals = {m.noun.plural for some in alike for m in some}
        one = all(len(some) < 2 for some in alike) and len(plurals) == 1
        agreed = UNCLEAR not in numbers and len(numbers - {PLAIN_PLURAL}) < 2
        others = any(_MORE & set(c.tokens) for c in captions)
        family = mention.family if one and agreed and not others else ""
    else:
        return ""
    name = family.replace("_", " ")
    return plural(name) if name and mention.noun.plural else name
