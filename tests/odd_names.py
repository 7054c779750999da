"""Names of photos and folders as people's disks have them."""

import os
from pathlib import Path

from tests.index.fake_retriever import paint

LATIN = os.fsdecode(b"caf\xe9")  # written by a computer that did not use UTF-8
COMPOSED, DECOMPOSED = "M\u00fcnchen", "Mu\u0308nchen"  # NFC as typed, NFD as macOS stores it
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one emoji of five characters
ODD = (
    LATIN,
    os.fsdecode(b"caf\xe8"),
    "caf\u00e9",
    DECOMPOSED,
    FAMILY,
    "\U0001f389" * 62,  # 248 bytes, 252 with .png
    "y" * 251,  # 255 bytes with .png
    "two\nlines",
    "red\x1b[31m",
    "\u202eexe",  # what comes after it runs from right to left
    "100%",
    "%41",
    'it\'s "quoted"',
    "#1",
    "what?",
    "[1]",
    "-x",
    "--help",
    "<b>bold<",
    "a&amp;b",
    "back\\slash",
    " space ",
    "$(true); `true`",
)


def paint_odd(folder: Path, suffix: str = ".png") -> dict[str, Path]:
    """Write a photo of each name, no two of the same content; by its name without suffix."""
    return {
        name: paint(folder / f"{name}{suffix}", "red", size=16 + 2 * number)
        for number, name in enumerate(ODD)
    }
