"""What a language model has read of a conversation, so that it need not read it again."""

from __future__ import annotations

from itertools import takewhile
from typing import Any


class Memory:
    """Keys and values of one conversation about one photo, so that a turn reads only what is new.

    What the next prompt has in common with the last, from its beginning on, is kept; the rest is
    forgotten.
    """

    def __init__(self) -> None:
        self._cache: Any = None
        self._held: list[int] = []

    def recall(self, read: list[int], config: Any) -> Any:
        """The cache with what ``read`` has in common with what was read before.

        Parameters
        ----------
        read : list of int
            Tokens of the whole prompt, photo included.
        config : PreTrainedConfig
            Of the language model.
        """
        from transformers import DynamicCache

        pairs = zip(self._held, read, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        common = min(common, len(read) - 1)  # the last token is read in any case: it predicts
        if self._cache is None or not common:
            self._cache = DynamicCache(config=config)
        else:
            surplus = self._cache.get_seq_length() - common
            if surplus:
                self._cache.crop(-surplus)  # counted from the end
        self._held = []  # until the answer has ended; a run that fails leaves nothing behind
        return self._cache

    def keep(self, held: list[int]) -> None:
        """Remember which tokens the cache holds by now; the last ones may not be in it yet."""
        if self._cache is not None:
            self._held = held[: self._cache.get_seq_length()]

    def forget(self) -> None:
        """Let go of everything; the next turn reads all again."""
        self._cache, self._held = None, []
