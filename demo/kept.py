"""Captions that were written before, so that a sample need not be captioned for each visitor."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from blip2.errors import UserError
from demo.uploads import received_digest

ROOM = 512  # texts


class KeptTexts:
    """The latest captions, by the content of the photo and all that was asked.

    Parameters
    ----------
    room : int
        Texts that are kept; the one unused for longest goes first.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._texts: OrderedDict[tuple, str] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, photo: Path, prompt: str, decoding: dict[str, Any]) -> tuple | None:
        """Return what a caption is found by.

        Parameters
        ----------
        photo : Path
            The file; its content counts, not its name.
        prompt : str
            The instruction.
        decoding : dict
            Keywords of `blip2.Blip2.stream`.

        Returns
        -------
        tuple or None
            None where the text depends on chance, or there is no such file.
        """
        if decoding.get("do_sample"):
            return None
        try:
            digest = received_digest(photo)
        except UserError:  # who opens it as a photo says what is wrong
            return None
        return digest, prompt, tuple(sorted(decoding.items()))

    def get(self, key: tuple | None) -> str | None:
        """Return a caption, if it is kept."""
        with self._lock:
            if key not in self._texts:
                return None
            self._texts.move_to_end(key)
            return self._texts[key]

    def keep(self, key: tuple | None, text: str) -> None:
        """Keep a caption; one that depends on chance is not kept."""
        if key is None:
            return
        with self._lock:
            self._texts[key] = text
            self._texts.move_to_end(key)
            while len(self._texts) > self._room:
                self._texts.popitem(last=False)
