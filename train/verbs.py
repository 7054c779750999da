"""What captions say is being done: verbs in the form "running", found from "run", "runs" too."""

from __future__ import annotations

# Each names an action by itself: an answer to "what is the boy doing?"
_ACTIONS = """
    run jump walk sit stand swim ride play climb surf ski snowboard skateboard skate sleep eat drink
    smile laugh cry dance sing read swing slide crawl kneel crouch lie lay rest fly fall leap dive
    paddle kayak row sail fish hike jog bike cycle race graze cook paint talk wave splash wade
    wrestle fight bark yawn dig roll sled smoke bounce shop relax hug kiss juggle sprint gallop
    sunbathe rollerblade wakeboard pose shout scream yell bowl golf box perch drive write type
    shovel sweep trot sniff squat limp float stretch wait study
"""
# These want an object: asked as "what is the dog chasing?"
_WITH_OBJECT = """
    chase hold carry throw catch kick pull push wear ride eat drink play read fly climb hit hug kiss
    drive paddle lick chew bite pet cut cook clean wash paint push toss swing feed sniff retrieve
    fetch smell herd
"""
# Both leave what is done unsaid: never an answer.
_EMPTY = """
    look take make do go get have give put use come try perform attempt prepare show be watch
    stare enjoy hang lean travel move turn begin start stop follow appear seem reach face land head
    practice compete approach work
"""


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_TWICE = word_set("""run swim sled sit skip hop jog hit cut hug dig get put pet shop chat spin step
    clap grab trot squat set stop begin""")
_ING = {"lie": "lying", "tie": "tying", "die": "dying", "ski": "skiing", "be": "being"}


def ing(base: str) -> str:
    """The present participle of a verb."""
    if base in _ING:
        return _ING[base]
    if base in _TWICE:
        return base + base[-1] + "ing"
    return (base[:-1] if base.endswith("e") and not base.endswith("ee") else base) + "ing"


def _third(base: str) -> str:
    if base.endswith(("s", "x", "ch", "sh", "o")):
        return base + "es"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + "s"


_BASES = {*_ACTIONS.split(), *_WITH_OBJECT.split(), *_EMPTY.split()}
ACTIONS = frozenset(map(ing, _ACTIONS.split()))
WITH_OBJECT = frozenset(map(ing, _WITH_OBJECT.split()))
FROM_ING = {ing(base): ing(base) for base in _BASES}
FROM_THIRD = {_third(base): ing(base) for base in _BASES}  # runs -> running
FROM_BASE = {base: ing(base) for base in _BASES}
FORMS = frozenset({*FROM_ING, *FROM_THIRD, *FROM_BASE})
