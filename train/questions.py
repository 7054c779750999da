"""From a photo's captions to questions that they settle, in the manner of COCO-QA.

Five types: what is it ("object"), what color, how many ("number"), is it there ("yes/no"), what is
being done ("action"). Several captions of one photo have to agree, and where they are unclear
nothing is asked. Objects that are not there are drawn as POPE draws them: half by how often the
data name them, half by how often the data name them beside what this photo shows.

Ren, Kiros, Zemel: Exploring Models and Data for Image Question Answering, NeurIPS 2015.
Li et al.: Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from train.nouns import COLOURED, COUNTED, FAMILIES, MASS, PAIRS, plural
from train.phrases import (
    NUMBERS,
    PLAIN_PLURAL,
    UNCLEAR,
    Caption,
    Mention,
    doing,
    object_of,
    take_apart,
)
from train.presence import Statistics, presence_pairs
from train.subjects import people_of, sole_person, subject
from train.verbs import ACTIONS, WITH_OBJECT, word_set

MOST = 6  # questions of one photo
PAIR_KEPT = 0.5  # of the photos with one other question
ONE_KEPT = 0.25  # most photos have one of their thing: kept whole, "1" would be most answers
_WORDS = {number: word for word, number in NUMBERS.items()}
_MARKED = word_set("""spot spots patch patches markings marking paws ears face head chest tail legs
    mane muzzle stripes belly neck feet""")
_GREYSCALE = ("black and white photo", "black and white picture", "black and white image",
              "black and white photograph", "black and white shot", "black-and-white")  # fmt: skip
_ALONE = frozenset({"one", "single", "lone", "alone"})
_TACK = frozenset({"collar", "leash", "harness"})
_NO_PLACE = frozenset({"group", "crowd", "air"})


def make_questions(
    texts: Sequence[str], statistics: Statistics, draw: random.Random, most: int = MOST
) -> list[dict]:
    """Questions on a photo that its captions answer.

    Parameters
    ----------
    texts : sequence of str
        Captions.
    statistics : Statistics
        Of all photos, for objects that are not there.
    draw : Random
        Chooses among more than fit.
    most : int
        Questions of one photo.

    Returns
    -------
    list of dict
        "question", "answers" (the first is best), "question_type" and "answer_type". There are as
        many "no" as "yes".
    """
    captions = [take_apart(text) for text in texts]
    makers = {"object": _objects, "color": _colours, "number": _numbers, "action": _actions}
    made: dict[str, list[tuple[str, list[str]]]] = {}
    for kind, make in makers.items():
        made[kind] = [(q, a) for q, a in make(captions) if not _told(q, a)]
        draw.shuffle(made[kind])
    pairs = presence_pairs(captions, statistics, draw)
    made["number"] = [(q, a) for q, a in made["number"] if a[0] != "1" or draw.random() < ONE_KEPT]
    first = [(kind, *entries[0]) for kind, entries in made.items() if entries]
    second = [(kind, *entries[1]) for kind, entries in made.items() if len(entries) > 1]
    draw.shuffle(first)
    draw.shuffle(second)
    chosen = [*first, *second][: most - 2 if pairs else most]
    # Nearly every photo has something to ask by yes and no: left alone, these would be most.
    if pairs and (len(chosen) != 1 or draw.random() < PAIR_KEPT):
        chosen += [("yes/no", *entry) for entry in pairs[0]]
    draw.shuffle(chosen)
    return [
        {"question": question, "answers": answers, "question_type": kind, "answer_type": kind}
        for kind, question, answers in chosen
    ]


def _told(question: str, answers: list[str]) -> bool:
    """Whether a question tells its answer: "what is the boy on the swing doing?" - "swinging"."""
    words = question.rstrip("?").split()
    heads = [answer.split()[-1][:4] for answer in answers]
    return any(word[:4] == head for word in words for head in heads)


def _objects(captions: Sequence[Caption]) -> list[tuple[str, list[str]]]:
    """What is the man riding? What is the dog running through? What is on the couch?"""
    found: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        for mention in caption.mentions:
            _note_deed(captions, caption, mention, found)
            _note_place(captions, caption, mention, found)
    for question, answers in found.items():
        if question.endswith(" wearing?") and _one_wearer(captions):
            # Whatever else is worn is right, too.
            worn = [m for c in captions for m in c.mentions if m.noun.category == "clothes"]
            worn = [m for m in worn if m.family not in _TACK]
            _add(answers, [answer for m in worn if m.real for answer in _answers(m)])
    return list(found.items())


def _one_wearer(captions: Sequence[Caption]) -> bool:
    """Whether all garments are those of the one person: nobody and no animal is there besides."""
    animals = any(m.noun.category == "animals" for c in captions for m in c.mentions)
    return bool(sole_person(captions)) and not animals


def _note_deed(
    captions: Sequence[Caption], caption: Caption, mention: Mention, found: dict[str, list[str]]
) -> None:
    who = subject(captions, mention)
    act = doing(caption, mention) if who else None
    target = object_of(caption, act[1]) if act else None
    if not target or target[1].family in _NO_PLACE:
        return
    preposition, thing = target
    fits = act[0] in WITH_OBJECT if not preposition else act[0] in ACTIONS
    if preposition and thing.noun.category in {"clothes", "people"}:
        fits = False
    if act[0] == "wearing" and thing.noun.category != "clothes":
        fits = False
    if preposition == "with" and act[0] not in {"playing", "fighting"}:
        fits = False
    if fits:
        verb = "are" if mention.noun.plural else "is"
        question = f"what {verb} the {who} {act[0]} {preposition}".rstrip() + "?"
        _add(found[question], _answers(thing))


def _note_place(
    captions: Sequence[Caption], caption: Caption, mention: Mention, found: dict[str, list[str]]
) -> None:
    """A thing or an animal that sits on, or is in, something."""
    if mention.noun.category in {"people", "scenery", "places", "clothes"} or not mention.real:
        return
    tokens, at = caption.tokens, mention.end
    if at < len(tokens) and tokens[at] in {"is", "are"}:
        at += 1
    if at < len(tokens) and tokens[at] in {"sitting", "lying", "laying", "sleeping", "standing"}:
        at += 1
    if at >= len(tokens) or tokens[at] not in {"on", "in", "under"}:
        return
    target = object_of(caption, at)
    if not target or target[1].noun.category in {"clothes", "people"}:
        return
    place = target[1]
    alike = [m for c in captions for m in c.mentions if m.family == place.family]
    several = any(m.noun.plural for m in alike) and place.family not in PAIRS
    things = [m for m in caption.mentions if m.end <= place.begin]
    if several or len(things) != 1 or place.family in _NO_PLACE or place.number != 1:
        return
    name = place.noun.singular
    _add(found[f"what is {tokens[at]} the {name}?"], _answers(mention))


def _answers(thing: Mention) -> list[str]:
    """The word as said, and the family's name, which is always right, too."""
    word, name = thing.noun.singular, thing.family.replace("_", " ")
    own = [word, name] if thing.noun.category != "scenery" else [word]
    if thing.noun.plural and thing.family not in PAIRS | MASS:
        own = [plural(text) for text in own]
    return own


def _add(answers: list[str], more: Sequence[str]) -> None:
    answers += [answer for answer in dict.fromkeys(more) if answer not in answers]


def _colours(captions: Sequence[Caption]) -> list[tuple[str, list[str]]]:
    """What color is the dog? What color is the man's shirt?"""
    if any(mark in " ".join(c.tokens) for c in captions for mark in _GREYSCALE):
        return []
    uses: dict[tuple[str, str], list[tuple[Caption, Mention]]] = defaultdict(list)
    for caption in captions:
        for mention in caption.mentions:
            category, whose = mention.noun.category, ""
            if category == "clothes":
                whose = _wearer(captions, caption, mention)
            if category in COLOURED:
                uses[mention.family, whose].append((caption, mention))
    marked = any(_MARKED & set(c.tokens) for c in captions)
    found = []
    for (family, whose), mine in uses.items():
        category, mentions = FAMILIES[family][0], [m for _, m in mine]
        # A garment without a wearer may be anybody's.
        loose = [m for _, m in uses.get((family, ""), [])] if whose else []
        if not _one_colour([*mentions, *loose]) or not any(m.colours for m in mentions):
            continue
        if (category == "clothes" and not whose) or (category == "animals" and marked):
            continue
        if len({id(caption) for caption, _ in mine}) < len(mine):
            continue  # twice in one caption: there are two
        if any(word in {"another", "other"} for c, _ in mine for word in c.tokens):
            continue
        colours = next(m.colours for m in mentions if m.colours)
        verb = "are" if mentions[0].noun.plural else "is"
        name = f"{whose}'s {_called(mentions)}" if whose else _called(mentions)
        found.append((f"what color {verb} the {name}?", _colour_answers(colours)))
    return found


def _one_colour(mentions: Sequence[Mention]) -> bool:
    """Whether all that give a colour give the same, and all speak of one thing or of several."""
    said = {frozenset(m.colours) for m in mentions if m.colours}
    clear = all(m.real and m.number != UNCLEAR and "?" not in m.colours for m in mentions)
    return len(said) == 1 and clear and len({m.noun.plural for m in mentions}) == 1


def _wearer(captions: Sequence[Caption], caption: Caption, garment: Mention) -> str:
    """Who wears it: the last one named before, with "in", "with" or "wearing" between."""
    before = [m for m in people_of(caption) if m.end <= garment.begin]
    if not before or before[-1].number != 1 or garment.noun.plural != (garment.family in PAIRS):
        return ""
    between = caption.tokens[before[-1].end : garment.begin]
    worn = between and between[0] in {"in", "with", "wearing", "wears"}
    others = any(m.noun.category in {"animals", "vehicles"} for m in caption.mentions
                 if before[-1].end <= m.begin < garment.begin)  # fmt: skip
    lone = sole_person(captions)
    if others or not (worn or (lone and {"wearing", "wears", "in"} & set(between))):
        return ""
    return subject(captions, before[-1])


def _called(mentions: Sequence[Mention]) -> str:
    """The word that most captions use for it."""
    word = Counter(m.noun.singular for m in mentions).most_common(1)[0][0]
    one = mentions[0].noun
    return plural(word) if one.plural and one.family not in PAIRS else word


def _colour_answers(colours: tuple[str, ...]) -> list[str]:
    grey = [c.replace("grey", "gray") for c in colours]
    if len(grey) == 1:
        return list(dict.fromkeys([grey[0], grey[0].split()[-1]]))
    if len(grey) == 2:
        return [" and ".join(grey), " and ".join(reversed(grey))]
    return [", ".join(grey[:-1]) + " and " + grey[-1]]


def _numbers(captions: Sequence[Caption]) -> list[tuple[str, list[str]]]:
    """How many dogs are there?"""
    found = []
    single = any(_ALONE & set(c.tokens) for c in captions)
    for family in sorted({m.family for c in captions for m in c.mentions}):
        if FAMILIES[family][0] not in COUNTED or family in MASS | PAIRS:
            continue
        number = _agreed([[m for m in c.mentions if m.family == family] for c in captions], single)
        if number > 1 or (number and FAMILIES[family][0] in {"animals", "vehicles"}):
            found.append((_how_many(family), _digits(number)))
    people = [people_of(c) for c in captions]
    grouped = any(m.family in {"group", "crowd"} for c in captions for m in c.mentions)
    number = 0 if grouped else _agreed(people, single)
    if number > 1:
        kinds = {m.family for some in people for m in some}
        found.append((_how_many(kinds.pop() if len(kinds) == 1 else "person"), _digits(number)))
    return found


def _agreed(uses: Sequence[Sequence[Mention]], single: bool) -> int:
    """The number on which all captions agree that name such things; 0 for none.

    One alone is believed where four captions say it, or two where one says "one" or "a single".
    """
    totals = set()
    named = [some for some in uses if some]
    for some in named:
        if not all(m.real and m.number != UNCLEAR for m in some):
            return 0
        if len(some) > 1 and not all(m.introduced for m in some):
            return 0  # "a dog ... the dog" may be one
        unsaid = any(m.number == PLAIN_PLURAL for m in some)
        if unsaid and len(some) > 1:
            return 0
        totals.add(PLAIN_PLURAL if unsaid else sum(m.number for m in some))
    if len(totals - {PLAIN_PLURAL}) != 1 or totals >= {1, PLAIN_PLURAL}:
        return 0
    number = max(totals)
    return number if number > 1 or len(named) > 3 or (single and len(named) > 1) else 0


def _how_many(family: str) -> str:
    return f"how many {plural(family.replace('_', ' '))} are there?"


def _digits(number: int) -> list[str]:
    return [str(number), _WORDS[number]]


def _actions(captions: Sequence[Caption]) -> list[tuple[str, list[str]]]:
    """What is the boy doing?"""
    verbs: dict[tuple[str, bool], Counter] = defaultdict(Counter)
    for caption in captions:
        for mention in caption.mentions:
            who = subject(captions, mention)
            act = doing(caption, mention) if who else None
            if act and act[0] in ACTIONS:
                verbs[who, mention.noun.plural][act[0]] += 1
    return [
        (f"what {'are' if several else 'is'} the {who} doing?",
         _synonyms([verb for verb, _ in said.most_common()]))
        for (who, several), said in verbs.items()
    ]  # fmt: skip


def _synonyms(verbs: list[str]) -> list[str]:
    """The verbs, and those that mean the same."""
    same = {"laying": "lying", "lying": "laying", "leaping": "jumping"}
    return list(dict.fromkeys([*verbs, *(same[verb] for verb in verbs if verb in same)]))
