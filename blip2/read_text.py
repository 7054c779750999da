"""What a tokenizer makes of a text: the words it does not know, and those past its limit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from blip2.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding

NAMED = 5  # unknown words that a note names
LONGEST_NAMED = 30  # characters of each

_WORD = re.compile(r"\S*[^\W_]")  # up to its last letter or digit


class UnreadableTextError(UserError):
    """A text of which the model knows no word."""


@dataclass(frozen=True)
class ReadText:
    """A text, and how much of it the model reads.

    Attributes
    ----------
    text : str
        The whole text.
    words, words_read : int
        Its words, separated by white space, and how many of them fit into the model's input.
    known_words : int
        Words that the vocabulary can spell among those read, as the tokenizer splits them.
    unknown_words : tuple of str
        The others, each once.
    """

    text: str
    words: int
    words_read: int
    known_words: int
    unknown_words: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every word was read and is known."""
        return self.words_read == self.words and not self.unknown_words

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about each way in which the text was not read; none if it was."""
        notes = []
        if 0 < self.words_read < self.words:
            notes.append(f"Only the first {self.words_read} of {self.words} words were read.")
        elif self.words_read < self.words:  # the first is too long
            notes.append(f"Only the beginning of {quoted(self.text)} was read.")
        if self.unknown_words:
            named = [quoted(word) for word in self.unknown_words[:NAMED]]
            if more := len(self.unknown_words) - len(named):
                named.append(f"{more} more")
            *most, last = named
            listed = f"{', '.join(most)} and {last}" if most else last
            notes.append(f"The model does not know {listed}.")
        return tuple(notes)


def read_encoding(
    text: str, encoding: Encoding, unread: Collection[int], scripts: Collection[str]
) -> ReadText:
    """Compare a text with the tokens that were made of it.

    A word is known if it has letters or digits and the vocabulary can spell it. Letters of a script
    in which the vocabulary has no words do not count: an English one has single letters of most
    scripts, which say nothing to a model that was trained on English. Punctuation is no word.

    Parameters
    ----------
    text : str
        The text.
    encoding : Encoding
        Its tokens, possibly truncated.
    unread : collection of int
        Ids that stand for no word, such as that of ``[UNK]``.
    scripts : collection of str
        Scripts in which the vocabulary has words, see :func:`script`.
    """
    known, unknown = 0, []  # of the latter where each begins and ends
    for start, stop, ids in _words(encoding):
        word = text[start:stop]
        if all(unicodedata.category(character)[0] == "P" for character in word):
            continue  # punctuation
        letters = [letter for letter in word if letter.isalpha()]
        foreign = letters and not any(script(letter) in scripts for letter in letters)
        if foreign or not ids.isdisjoint(unread):
            if unknown and unknown[-1][1] == start:  # Chinese is split into characters
                start = unknown.pop()[0]
            unknown.append((start, stop))
        elif any(character.isalnum() for character in word):
            known += 1
    end = len(text)
    if encoding.overflowing:
        end = max((stop for _, stop in encoding.offsets), default=0)
    words = [word.span() for word in _WORD.finditer(text)]
    read = sum(stop <= end for _, stop in words)
    if unknown and unknown[-1][1] == end:  # it may have been cut: name it to its end
        start, _ = unknown.pop()
        unknown.append((start, max([end, *(stop for first, stop in words if first <= start)])))
    named = tuple(dict.fromkeys(text[start:stop] for start, stop in unknown))
    return ReadText(text, len(words), read, known, named)


def script(letter: str) -> str:
    """The script of a letter as its Unicode name begins: "LATIN", "CYRILLIC", "CJK"."""
    return unicodedata.name(letter, "unnamed").split()[0]


def _words(encoding: Encoding) -> Iterator[tuple[int, int, set[int]]]:
    """Words as the tokenizer splits them: where each begins and ends, and the ids of its tokens."""
    tokens = zip(encoding.word_ids, encoding.offsets, encoding.ids, strict=True)
    for number, word in groupby(tokens, key=lambda token: token[0]):
        if number is not None:  # not `[CLS]` and `[SEP]`, which no one wrote
            _, offsets, ids = zip(*word, strict=True)
            yield offsets[0][0], offsets[-1][1], set(ids)


def quoted(word: str) -> str:
    """A word or a text in quotation marks, its end left out where it is long."""
    return f"“{word if len(word) <= LONGEST_NAMED else word[: LONGEST_NAMED - 1] + '…'}”"
