"""What a caption names, and how: noun phrases with their number and colours, by closed word lists.

Nothing here guesses. A phrase whose words are not all known has less to say: no colour, or no
number, and a noun before an unknown word is no thing at all ("dog house", "tennis ball machine").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from train.nouns import LEXICON, Noun, plural
from train.verbs import FORMS, FROM_BASE, FROM_ING, FROM_THIRD, word_set

COLOURS = word_set("""red orange yellow green blue purple pink brown black white gray grey tan
    beige turquoise maroon silver gold""")
SHADES = word_set("light dark bright pale")
# Between a determiner and its noun these leave the colour with the noun.
PLAIN = word_set("""small large big little tiny huge giant tall short long thin fat young old older
    elderly new fluffy furry hairy shaggy wet dry cute happy plain shiny wooden metal plastic
    leather brick soft hooded round lone single empty full open closed stuffed fancy pretty
    beautiful skinny knit winter puffy racing toy woolen fuzzy muddy floppy baggy button-down
    long-sleeved short-sleeved sleeveless dirty clean inflatable rubber square parked modern
    medium medium-sized average matching""")
# A second colour hides behind these.
PATTERNS = word_set("""striped checkered checked plaid spotted patterned polka dotted dot floral
    flowered colored coloured multicolored multi-colored colorful tie-dyed camouflage camo haired
    topped trimmed checked brindle patched mixed two-toned""")
_DIGITS = "one two three four five six seven eight nine ten"
NUMBERS = {word: number for number, word in enumerate(_DIGITS.split(), 1)}
ARTICLES = word_set("a an the his her its their this that my our your")
MANY = word_set("""several many some few various multiple numerous most all both these those each
    every other another any more""")
_MANY_OF = word_set("""group crowd bunch herd flock team lot lots number pack line row pile set
    stack pair-s dozens variety line class band school array assortment rows hundreds gang""")
_IMAGE_OF = word_set("""painting statue drawing poster sculpture cartoon figurine model replica
    image-s mural print figure graffiti shadow reflection silhouette""")
_UNREAL = word_set("""toy stuffed inflatable fake no without not imaginary invisible cartoon painted
    chocolate ceramic origami balloon concrete bronze stone missing like""")
_DRESSED = word_set("dressed disguised costumed posing shaped looks looking")
_GAMES = word_set("ball football basketball baseball volleyball softball rugby frisbee")
_BOUNDS = word_set("""of in on at by with from to for over under through into onto across along
    around near behind beside between against above below up down off out inside outside past
    toward towards next while whilst as during after before and or but that which who whose is are
    was were has have his her its their the a an another beneath underneath atop alongside among
    amongst within upon about outdoors indoors together alone where when being it he she they him
    them there back away each other both all also very so because if ahead amid amidst together
    without not be like than then too just still nearby themselves himself herself overhead
    upside airborne left right front barefoot full ready does do can will one two three four five
    s . , ; : ! ? ( )""")
_VERB_LIKE = re.compile(r"(?:[a-z]{2,}ing|[a-z]{2,}ed|[a-z]{2,}ly)\Z")
_TOKEN = re.compile(r"\d+|[a-z]+(?:['-][a-z]+)*|[.,;:!?()]")
PLAIN_PLURAL, UNCLEAR = 0, -1


@dataclass(frozen=True)
class Mention:
    """One noun phrase.

    Attributes
    ----------
    noun : Noun
        What it names.
    begin, head, end : int
        Tokens: of its first word, its noun's first word, and behind it.
    number : int
        How many there are: 1 for a singular; ``PLAIN_PLURAL`` for "dogs"; ``UNCLEAR`` for
        "several dogs", "the other dog", "two of the three dogs".
    colours : tuple of str
        As said, such as ("black", "white") or ("light blue",); "?" where one can't be told.
    introduced : bool
        "a dog", "another dog", "two dogs": not one that was named before.
    real : bool
        Not "no dog", "a toy dog", "like a dog", "dressed as a dog", "a painting of a dog".
    """

    noun: Noun
    begin: int
    head: int
    end: int
    number: int
    colours: tuple[str, ...]
    introduced: bool
    real: bool

    @property
    def family(self) -> str:
        """Name of the noun's family."""
        return self.noun.family


@dataclass
class Caption:
    """A caption taken apart: its tokens, and what it names."""

    tokens: list[str]
    mentions: list[Mention] = field(default_factory=list)


def take_apart(text: str) -> Caption:
    """Find the noun phrases of a caption.

    Parameters
    ----------
    text : str
        One sentence or a few.
    """
    text = text.lower().replace("’", "'").replace(" 's", "'s").replace(" - ", "-")
    caption = Caption(_TOKEN.findall(text))
    tokens, at = caption.tokens, 0
    while at < len(tokens):
        left = len(tokens) - at
        length = next(
            (n for n in (3, 2, 1) if n <= left and tuple(tokens[at : at + n]) in LEXICON), 0
        )
        if not length or not _is_head(tokens, at, at + length):
            at += max(length, 1)
            continue
        noun = LEXICON[tuple(tokens[at : at + length])]
        caption.mentions.append(_phrase(tokens, noun, at, at + length))
        at += length
    return caption


def _is_head(tokens: list[str], head: int, end: int) -> bool:
    """Whether the noun is the last of its phrase, and a noun at all here."""
    word, before = tokens[head], tokens[head - 1] if head else ""
    following = tokens[end] if end < len(tokens) else "."
    if word == "orange" and before not in {*ARTICLES, "ripe", "peeled", "sliced", "fresh", "half"}:
        return False  # "in orange" is the colour
    if word == "orange" and following in {"and", ","}:
        return False  # "an orange and white cat"
    if before in {"playing", "plays", "play"} and word in _GAMES:
        return False
    if before in {"to", "can", "will"} and word in FORMS:
        return False
    if following in {"and", ","} and end + 1 < len(tokens) and word in COLOURS:
        return False
    is_verb = following in FORMS and tuple(tokens[end : end + 1]) not in LEXICON
    return following in _BOUNDS or is_verb or bool(_VERB_LIKE.match(following))


def _phrase(tokens: list[str], noun: Noun, head: int, end: int) -> Mention:
    """Read a phrase from its noun back to its determiner."""
    colours: list[str] = []
    clear, at = True, head - 1
    unreal = False
    while at >= 0 and head - at <= 8:
        word = tokens[at]
        joins = word in {"and", ",", "or"} and bool(colours) and _ends_in_colour(tokens, at)
        if word in ARTICLES or word in MANY or word in NUMBERS or word.isdigit() or word == "no":
            break
        if word in _UNREAL:
            unreal = True
        if word in COLOURS:
            shade = tokens[at - 1] if at and tokens[at - 1] in SHADES else ""
            colours.insert(0, f"{shade} {word}".strip() if clear else "?")
            at -= 1 if shade else 0
        elif word in PATTERNS or word.endswith(("-haired", "haired", "-covered", "-striped")):
            clear = False
        elif joins or word in PLAIN or word == ",":
            if word == "," and not joins:
                break
        elif word in _BOUNDS or (word in FORMS and word not in PLAIN):
            break
        else:  # an unknown word, or a noun before this one
            if _VERB_LIKE.match(word):  # "a blue swimming cap", or "wearing caps"
                colours = ["?"] if at and tokens[at - 1] in COLOURS else colours
                break
            clear = False
        at -= 1
    determiner = tokens[at] if at >= 0 else ""
    if determiner in {"a", "an", "one", "another"} and plural(noun.singular) == noun.singular:
        noun = replace(noun, plural=False)  # "a sheep"
    has_determiner = determiner in ARTICLES | MANY or determiner in NUMBERS or determiner.isdigit()
    begin = at if has_determiner or determiner == "no" else at + 1
    if not clear and not colours and any(t in COLOURS for t in tokens[begin:head]):
        colours = ["?"]
    if any(t in PATTERNS for t in tokens[begin:head]):
        colours = ["?"]
    if noun.plural and len(colours) > 1:
        colours = ["?"]  # "black and white dogs" may be one of each
    number = _number(tokens, noun, determiner, begin)
    if begin > 1 and tokens[begin - 1] == "and" and tokens[begin - 2] in COLOURS:
        number, colours = UNCLEAR, ["?"]  # "a red and a blue car" are two
    real = not unreal and determiner != "no" and _is_real(tokens, begin)
    new = determiner in {"a", "an", "another"} or determiner in NUMBERS
    return Mention(noun, begin, head, end, number, tuple(colours), new, real)


def _ends_in_colour(tokens: list[str], at: int) -> bool:
    """Whether a colour stands before this joining word, perhaps behind a comma."""
    before = at - 1
    while before >= 0 and tokens[before] in {",", "and"}:
        before -= 1
    return before >= 0 and tokens[before] in COLOURS


def _number(tokens: list[str], noun: Noun, determiner: str, begin: int) -> int:
    start = begin - 1 if begin and tokens[begin - 1] in ARTICLES else begin  # "of the three dogs"
    before = tokens[start - 1] if start else ""
    of = tokens[start - 2] if before == "of" and start > 1 else ""
    said = NUMBERS.get(determiner, int(determiner) if determiner.isdigit() else 0)
    if determiner == "another" and not noun.plural:
        return 1
    if determiner in MANY or of in _MANY_OF or of in NUMBERS or of in MANY or of == "none":
        return UNCLEAR
    if before in NUMBERS or before in {"number", "#"} or (said > 1 and not noun.plural):
        return UNCLEAR  # "two year old boy"
    if any(t in {"other", "others", "second", "third"} for t in tokens[begin : begin + 4]):
        return UNCLEAR
    if said:
        return said if 1 < said <= 10 or not noun.plural else UNCLEAR
    return PLAIN_PLURAL if noun.plural else 1


def _is_real(tokens: list[str], begin: int) -> bool:
    before = tokens[begin - 1] if begin else ""
    two = tokens[begin - 2] if begin > 1 else ""
    if before in {"without", "no", "not", "like", "resembling", "imitating"}:
        return False
    if before == "as" and two in _DRESSED:
        return False
    if before == "of" and two in _IMAGE_OF:
        return False
    return not (before == "by" and two == "shaped")


def doing(caption: Caption, mention: Mention) -> tuple[str, int] | None:
    """What a mentioned one does: the verb in "-ing", and the token behind it.

    Parameters
    ----------
    caption : Caption
        The mention's.
    mention : Mention
        Who does it.
    """
    tokens = [*caption.tokens, ".", ".", "."]
    at = _past_adverbs(tokens, mention.end)
    if tokens[at] in {"that", "who", "which"} and tokens[at + 1] in {"is", "are"}:
        at += 1
    aux = {"are"} if mention.noun.plural else {"is"}
    if tokens[at] in {"in", "with", "wearing", "on", "at"}:  # "a man in a red shirt is jumping"
        at = _past_attachment(caption, mention, at)
        if at is None:
            return None
    if tokens[at] in aux:
        at = _past_adverbs(tokens, at + 1)
        found = FROM_ING.get(tokens[at])
    else:
        finite = FROM_BASE if mention.noun.plural else FROM_THIRD
        found = FROM_ING.get(tokens[at]) or finite.get(tokens[at])
    return (found, at + 1) if found else None


def _past_adverbs(tokens: list[str], at: int) -> int:
    while tokens[at] in {"together", "both", "just", "also", "all", "now"} or (
        tokens[at].endswith("ly") and tokens[at] not in FORMS
    ):
        at += 1
    return at


def _past_attachment(caption: Caption, mention: Mention, at: int) -> int | None:
    """The verb behind "a man in a red shirt": "is", or "runs" next to what is worn."""
    finite, aux = (FROM_BASE, "are") if mention.noun.plural else (FROM_THIRD, "is")
    if mention is not caption.mentions[0]:
        return None
    for here in range(at, min(at + 10, len(caption.tokens))):
        word = caption.tokens[here]
        between = [m for m in caption.mentions if at <= m.head < here]
        if any(m.noun.category in {"people", "animals", "vehicles"} for m in between):
            return None
        if word in {"that", "who", "which", "while", "as", "and", "."}:
            return None
        worn = bool(between) and between[-1].noun.category == "clothes" and between[-1].end == here
        if word == aux or (worn and word in finite):
            return here
    return None


def object_of(caption: Caption, at: int) -> tuple[str, Mention] | None:
    """The phrase behind a verb: its preposition, or "", and what is named.

    Parameters
    ----------
    caption : Caption
        Whole.
    at : int
        Token behind the verb.
    """
    tokens = caption.tokens
    preposition = ""
    if at < len(tokens) and tokens[at] in {
        "in",
        "on",
        "over",
        "through",
        "under",
        "across",
        "with",
    }:
        preposition = tokens[at]
        at += 1
    for mention in caption.mentions:
        if mention.begin == at and mention.real:
            return preposition, mention
    return None
