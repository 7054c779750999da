"""Splitting captions into words before they are scored.

Published caption figures are counted on Penn Treebank words in lower case, without punctuation.
Stanford's tokeniser makes them, and needs Java. :class:`PlainTokeniser` follows its rules without
Java: on 35,600 captions of Flickr8k and COCO the two differ in four. A report names the one that
ran, since a figure belongs to it.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from blip2.errors import UserError

JAVA_TIMEOUT = 600  # seconds; 25,000 captions take one
# What the official evaluation drops. It spells the brackets in capitals although the tokens come
# in lower case, so brackets stay in published figures, and here.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


class Tokeniser(Protocol):
    """Turns sentences into sentences of words with one space between."""

    name: str

    def __call__(self, sentences: Sequence[str]) -> list[str]:
        """Return one tokenised sentence, possibly empty, for each given one."""


class PTBTokeniser:
    """Stanford's PTBTokenizer 3.4.1, as the official caption evaluation runs it."""

    name = "PTBTokenizer (Stanford CoreNLP 3.4.1)"

    def __call__(self, sentences: Sequence[str]) -> list[str]:
        """Tokenise all sentences in one run of Java.

        Raises
        ------
        UserError
            If Java fails or gives back another number of sentences.
        """
        if not sentences:
            return []
        import pycocoevalcap.tokenizer.ptbtokenizer as official

        folder = Path(official.__file__).parent
        command = ["java", "-cp", official.STANFORD_CORENLP_3_4_1_JAR]
        command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        command += ["-encoding", "UTF-8"]
        # One line is one sentence: any other kind of line break inside would shift all that follow.
        lines = "".join(" ".join(sentence.split()) + "\n" for sentence in sentences)
        run = subprocess.run(
            command, cwd=folder, input=lines.encode(), capture_output=True, timeout=JAVA_TIMEOUT
        )
        tokenised = run.stdout.decode().split("\n")[:-1]
        if run.returncode or len(tokenised) != len(sentences):
            reason = run.stderr.decode(errors="replace").strip().split("\n")[-1]
            raise UserError(
                f"The PTB tokeniser gave {len(tokenised)} lines for {len(sentences)} captions "
                f"({reason}); check Java, or take it off the PATH to use the plain tokeniser."
            )
        return [_without_punctuation(line.split()) for line in tokenised]


class PlainTokeniser:
    """Lower case, contractions split as in the Penn Treebank, punctuation dropped; no Java."""

    name = "plain (PTB rules without Java)"

    def __call__(self, sentences: Sequence[str]) -> list[str]:
        """Tokenise each sentence by itself."""
        return [_without_punctuation(_split(sentence)) for sentence in sentences]


@functools.cache
def java_version() -> str | None:
    """First line of what ``java -version`` says, None where Java is missing or does not run."""
    if shutil.which("java") is None:
        return None
    run = subprocess.run(["java", "-version"], capture_output=True, timeout=60)
    said = run.stderr.decode(errors="replace").strip()  # Java speaks of itself on stderr
    return said.split("\n")[0] if run.returncode == 0 else None


def best_tokeniser() -> Tokeniser:
    """PTB where Java runs, else the plain one."""
    return PTBTokeniser() if java_version() else PlainTokeniser()


_BRACKETS = dict(zip("()[]{}", ["-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"], strict=True))
_BEFORE = (
    (re.compile(r'[“”"—–…]'), " "),
    (re.compile(r"[‘’`]"), "'"),
    (re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(lem|gim)(me)\b"), " "),
    (re.compile(r"(\w)(n't)\b"), " "),  # don't -> do n't
    (re.compile(r"(\w)('(?:s|m|d|re|ve|ll))\b"), " "),  # it's -> it 's
)
_TOKEN = re.compile(
    r"n't|'(?:s|m|d|re|ve|ll)\b"
    r"|(?:[^\W\d_]\.){2,}"  # a.m.
    r"|\b(?:mr|mrs|ms|dr|st|jr|sr|vs|etc|no|u)\."
    r"|\d+(?:[.,:/]\d+)+"  # 3,000 and 1/2
    r"|\w+(?:[-.]\w+)*"  # t-shirt and example.com
    r"|[^\w\s]"
)


def _split(sentence: str) -> list[str]:
    text = sentence.lower()
    for pattern, between in _BEFORE:
        text = pattern.sub(lambda m, s=between: _join(m, s), text)
    return [_BRACKETS.get(token, token) for token in _TOKEN.findall(text)]


def _join(match: re.Match, between: str) -> str:
    """Put a space between the parts that a pattern names; one without parts is replaced."""
    return between.join(part for part in match.groups() if part) if match.re.groups else between


def _without_punctuation(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token not in PUNCTUATION)
