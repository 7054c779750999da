"""Questions by yes and no: what a photo shows, and what it surely does not.

Objects that are not there are drawn as POPE draws them: half by how often the data name them, half
by how often the data name them beside what this photo shows. What a caption leaves unsaid may be
there all the same, so whatever its words make likely is not denied.

Li et al.: Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from train.nouns import ASKED_FOR, FAMILIES, LEXICON, MASS, NOT_ASKED, PAIRS, plural
from train.phrases import Caption
from train.subjects import people_of, sole_person
from train.verbs import word_set

_LATE = 0.7
_PERSON_DENIED = 0.3  # of photos where nobody is named, so that there is a "no" for "person", too
# In a street or a room these go unsaid: only several captions together can deny them.
_UNSAID = word_set("table chair car clock bird mountain forest desk sink television bench statue")
_HINTS = word_set("""hand hands person's man's woman's owner leash riding crowd group team audience
    street room her his someone their rider players""")
_PRESENCE = ("in the photo", "in the picture", "in the image", "in this photo")
# A word of a kind forbids "no" of all its members.
GENERAL = {
    "animal": "animals", "pet": "animals", "wildlife": "animals", "herd": "animals",
    "vehicle": "vehicles", "traffic": "vehicles", "parking": "vehicles", "street": "vehicles",
    "road": "vehicles", "city": "vehicles", "ride": "vehicles", "cart": "vehicles",
    "race": "vehicles", "highway": "vehicles", "driving": "vehicles", "racing": "vehicles",
    "intersection": "vehicles", "food": "food", "fruit": "food", "vegetable": "food",
    "meal": "food", "lunch": "food", "dinner": "food", "eat": "food", "eating": "food",
    "dish": "food", "plate": "food", "market": "food", "restaurant": "food", "cafe": "food",
    "drink": "food", "kitchen": "furniture", "room": "furniture", "bathroom": "furniture",
    "bedroom": "furniture", "office": "furniture", "furniture": "furniture", "house": "furniture",
    "restroom": "furniture", "equipment": "sports", "toy": "sports", "game": "sports",
    "sport": "sports", "music": "sports", "band": "sports", "instrument": "sports",
    "instruments": "sports", "concert": "sports", "stage": "sports",
}  # fmt: skip
# One family whose mention makes another likely, though unsaid: neither may be denied by the other.
_COMPANY = """
    toilet sink bathtub refrigerator stove microwave table chair
    bed couch television computer chair table desk clock vase umbrella
    pizza salad sandwich hot_dog hamburger fries wine beer cake bread table chair bench
    banana apple orange strawberry carrot broccoli salad
    car truck bus van jeep bike motorcycle scooter traffic_light stop_sign fire_hydrant
        parking_meter bench bridge clock umbrella statue
    ball tennis_racket baseball_bat
    snow skis snowboard sled mountain forest
    beach ocean surfboard boat lake river pool fountain waterfall paddle umbrella bridge
    cow sheep goat horse
    horse wagon carriage
    guitar drum violin piano
    boat river lake ocean
    desert beach mountain
    mountain forest lake river waterfall
"""
# Words of activities and places, and what they make likely.
_IMPLIED = {
    "surf": "surfboard ocean beach", "ski": "skis snow mountain sled",
    "snow": "snow skis snowboard sled mountain", "winter": "snow", "ice": "snow", "icy": "snow",
    "slope": "snow skis mountain", "hill": "mountain", "cliff": "mountain", "peak": "mountain",
    "climb": "mountain", "hik": "mountain forest tent", "rock": "mountain",
    "skat": "skateboard", "board": "skateboard snowboard surfboard", "halfpipe": "skateboard",
    "swim": "pool ocean lake river", "water": "pool ocean lake river beach fountain boat waterfall",
    "wave": "ocean beach surfboard", "shore": "ocean beach lake river", "coast": "ocean beach",
    "sand": "beach ocean desert", "splash": "pool ocean lake river", "wet": "pool lake river ocean",
    "div": "pool ocean", "wad": "pool ocean lake river", "fish": "fish boat lake river ocean",
    "dock": "boat lake ocean", "pier": "boat lake ocean", "harbor": "boat ocean", "sail": "boat",
    "paddl": "boat paddle river", "row": "boat", "raft": "boat river", "rapid": "boat river",
    "kayak": "boat river", "island": "ocean", "tree": "forest", "wood": "forest",
    "leaves": "forest", "jungle": "forest", "trail": "forest mountain", "dune": "desert beach",
    "tennis": "ball tennis_racket", "soccer": "ball", "rugby": "ball", "football": "ball",
    "basketball": "ball", "volleyball": "ball", "baseball": "ball baseball_bat",
    "softball": "ball baseball_bat", "cricket": "ball", "golf": "ball golf_cart",
    "hockey": "stick ball", "play": "ball frisbee", "catch": "ball frisbee", "fetch": "ball stick",
    "throw": "ball frisbee", "player": "ball", "pitcher": "ball", "bat": "ball baseball_bat",
    "bik": "bike motorcycle", "bicycl": "bike", "cycl": "bike motorcycle",
    "motocross": "motorcycle", "motor": "motorcycle car boat", "bmx": "bike",
    "rid": "bike motorcycle horse scooter", "jockey": "horse", "rodeo": "horse cow",
    "cowboy": "horse cow", "saddle": "horse", "polo": "horse", "farm": "cow horse sheep goat",
    "barn": "cow horse", "zoo": "elephant giraffe zebra bear monkey", "leash": "dog",
    "collar": "dog cat", "paw": "dog cat", "muzzle": "dog horse", "bark": "dog",
    "airport": "airplane", "runway": "airplane", "fly": "kite airplane bird", "wing": "bird",
    "station": "train bus", "subway": "train", "track": "train", "rail": "train",
    "camp": "tent", "party": "balloon cake", "birthday": "balloon cake", "parade": "balloon drum",
    "celebrat": "balloon cake", "carriage": "stroller horse", "sit": "bench chair couch",
    "seat": "bench chair couch", "lounge": "chair couch", "lying": "bed couch", "lay": "bed couch",
    "sleep": "bed couch", "screen": "television computer", "keyboard": "computer piano",
    "desk": "computer", "monitor": "computer television", "rain": "umbrella", "bus": "car truck",
    "tower": "clock", "hydrant": "car", "monument": "statue", "park": "bench fountain",
    "bear": "teddy_bear", "stuffed": "teddy_bear", "jump": "trampoline", "hoop": "hula_hoop",
    "swing": "swing", "tire": "swing car", "picnic": "table", "cook": "stove pizza",
    "bak": "cake stove", "dessert": "cake ice_cream", "sweet": "cake", "glass": "wine beer",
    "bottle": "wine beer", "stick": "hurdle", "obstacle": "hurdle", "agility": "hurdle tunnel",
    "luggage": "suitcase", "fireplace": "couch", "bar": "beer wine", "air": "airplane balloon",
    "frie": "fries", "burger": "fries hamburger", "sing": "guitar piano", "perform": "guitar drum",
    "seaweed": "ocean", "sea": "ocean", "deck": "bus", "wheel": "wheelchair unicycle bike car",
    "wagon": "wagon stroller", "sleigh": "sled", "flower": "vase", "bun": "hot_dog hamburger",
}  # fmt: skip


COMPANY: dict[str, set[str]] = {name: set() for name in FAMILIES}
for _line in _COMPANY.replace("\n        ", " ").splitlines():
    for _word in _line.split():
        COMPANY[_word] |= set(_line.split())


@dataclass
class Statistics:
    """How many photos show each family, how many of them as a plural, and which together."""

    named: Counter = field(default_factory=Counter)
    plurals: Counter = field(default_factory=Counter)
    together: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, captions: Sequence[Caption]) -> None:
        """Count one photo."""
        families = shown(captions)
        self.named.update(families)
        self.plurals.update(f for f in families if _mostly_plural(captions, f))
        for family in families:
            self.together[family].update(families - {family})


def shown(captions: Sequence[Caption]) -> set[str]:
    """Families that a photo shows: named by two captions, or by its only one or two."""
    counts = Counter(
        family for caption in captions for family in {m.family for m in caption.mentions if m.real}
    )
    return {family for family, count in counts.items() if count > 1 or len(captions) < 3}


def presence_pairs(
    captions: Sequence[Caption], statistics: Statistics, draw: random.Random
) -> list[tuple[tuple[str, list[str]], tuple[str, list[str]]]]:
    """Pairs of questions on what is there and on what is not."""
    there = sorted(
        family
        for family in shown(captions)
        if FAMILIES[family][0] in ASKED_FOR
        and family not in NOT_ASKED
        and not (len(captions) < 3 and family in _UNSAID)
    )
    gone = absent(captions, statistics)
    # People are in most photos and can seldom be denied: asked last, else "yes" is safe for them.
    late = {family: draw.random() + _LATE * (FAMILIES[family][0] == "people") for family in there}
    there.sort(key=late.get)
    pairs = []
    for number, family in enumerate(there):
        weights = gone
        if (number + draw.randrange(2)) % 2:  # by company, where any of them keeps it
            company = Counter()
            for own in shown(captions):
                company.update({f: statistics.together[own][f] for f in gone})
            weights = {f: company[f] for f in gone if company[f]} or gone
        if "person" in gone and draw.random() < _PERSON_DENIED and number == 0:
            weights = {"person": 1}
        if not weights:
            break
        names = sorted(weights)
        other = draw.choices(names, [weights[name] for name in names])[0]
        gone = {name: weight for name, weight in gone.items() if name != other}
        where = draw.choice(_PRESENCE)
        several = _mostly_plural(captions, family)
        yes = (_is_there(family, several, where), ["yes"])
        several = draw.random() < statistics.plurals[other] / statistics.named[other]
        pairs.append((yes, (_is_there(other, several, where), ["no"])))
    return pairs


def absent(captions: Sequence[Caption], statistics: Statistics) -> dict[str, int]:
    """Families that are not in a photo, so far as captions can tell, with how often data name them.

    Of people only sorts are denied that no caption leaves open: a lone man is no woman and no
    child, and where nobody is named and nothing hints at people, there is no man.
    """
    families = deniable([word for caption in captions for word in caption.tokens])
    if len(captions) < 3:
        families -= _UNSAID
    people = {m.family for c in captions for m in people_of(c)}
    if people in ({"man"}, {"woman"}) and sole_person(captions) in people:
        families |= {"woman", "girl", "baby"} if people == {"man"} else {"man", "boy", "baby"}
    elif _nobody(captions):
        families |= {"man", "woman", "boy", "girl", "child", "baby", "person"}
    return {name: statistics.named[name] for name in families if statistics.named[name]}


def _nobody(captions: Sequence[Caption]) -> bool:
    """Whether no caption names a person, or hints at one."""
    hinted = any(_HINTS & set(caption.tokens) for caption in captions)
    return not hinted and not any(people_of(caption) for caption in captions)


def _mostly_plural(captions: Sequence[Caption], family: str) -> bool:
    forms = [m.noun.plural for c in captions for m in c.mentions if m.family == family]
    return sum(forms) * 2 > len(forms)


def _is_there(family: str, several: bool, where: str) -> str:
    name = family.replace("_", " ")
    if family in MASS:
        return f"is there {name} {where}?"
    if family in PAIRS or several:
        return f"are there {name if family in PAIRS else plural(name)} {where}?"
    article = "an" if name[0] in "aeio" or name == "umbrella" else "a"
    return f"is there {article} {name} {where}?"


def deniable(words: list[str]) -> set[str]:
    """Families of things that captions with these words leave no room for: "no" is safe.

    Parameters
    ----------
    words : list of str
        All words of all captions of a photo. Every word counts, also inside a compound and after
        "no": what is named at all is never denied.
    """
    denied = {
        name
        for name, (category, _) in FAMILIES.items()
        if category in ASKED_FOR - {"people"} and name not in NOT_ASKED
    }
    said = {part for word in words for part in (word, word.removesuffix("'s"), *word.split("-"))}
    named = {noun.family for key, noun in LEXICON.items() if key[-1] in said}
    for name in named & COMPANY.keys():
        denied -= {name} | COMPANY[name]
    for word in said:
        singular = word.removesuffix("s")
        for general in (word, singular):
            if general in GENERAL:
                kind = GENERAL[general]
                denied -= {name for name in denied if FAMILIES[name][0] == kind}
        for start, likely in _IMPLIED.items():
            if word.startswith(start):
                denied -= set(likely.split())
        # "skateboarders" and "snowboarding" hold a thing's name.
        denied -= {name for name in denied if name.replace("_", "") in word}
    return denied
