"""Word pieces of the Q-Former's text branch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from blip2.errors import UserError
from blip2.read_text import ReadText, read_encoding, script

SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
SCRIPT_TOKENS = 1000  # an English vocabulary has at most some hundred of any script but Latin


class TextTokenizer:
    """BERT's word pieces as padded tensors, ``[CLS] ... [SEP]``.

    Parameters
    ----------
    path : Path
        A ``tokenizer.json``, or a folder that holds one.
    max_length : int
        Longer texts are cut to this many pieces, ``[CLS]`` and ``[SEP]`` included.

    Raises
    ------
    UserError
        The file is missing or not a tokenizer.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        from tokenizers import Tokenizer

        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"The tokenizer {path} is missing; restore it beside the checkpoint.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more specific
            raise UserError(f"The tokenizer {path} is damaged ({error}); restore it.") from error
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(pad_id=self.pad_token_id, pad_token="[PAD]")

    def with_length(self, max_length: int) -> TextTokenizer:
        """The same word pieces, with texts cut to another length."""
        from tokenizers import Tokenizer

        other = copy(self)
        other._tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        other._tokenizer.enable_truncation(max_length)
        return other

    @property
    def pad_token_id(self) -> int:
        """The id of ``[PAD]``."""
        return self.piece_id("[PAD]")

    @property
    def sep_token_id(self) -> int:
        """The id of ``[SEP]``, which ends a text."""
        return self.piece_id("[SEP]")

    @property
    def mask_token_id(self) -> int | None:
        """The id of ``[MASK]``, behind which training hides pieces; None where there is none."""
        return self.piece_id("[MASK]")

    def piece_id(self, piece: str) -> int | None:
        """The id of a word piece, None where there is none."""
        return self._tokenizer.token_to_id(piece)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode texts.

        Parameters
        ----------
        texts : sequence of str
            ``B`` texts.

        Returns
        -------
        ids, mask : Tensor
            ``[B, T]`` both, int64; the mask is 1 on pieces and 0 on padding.
        """
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([entry.ids for entry in encoded])
        mask = torch.tensor([entry.attention_mask for entry in encoded])
        return ids, mask

    def read(self, text: str) -> ReadText:
        """How much of a text :meth:`__call__` encodes; costs as much as to encode it."""
        encoding = self._tokenizer.encode(text)
        unread = {self.piece_id(token) for token in SPECIAL}  # whoever types one names no word
        return read_encoding(text, encoding, unread, self._scripts)

    @cached_property
    def _scripts(self) -> set[str]:
        """Scripts in which the vocabulary has words."""
        last = (token[-1] for token in self._tokenizer.get_vocab() if token)
        counts = Counter(script(letter) for letter in last if letter.isalpha())
        return {"LATIN"} | {name for name, count in counts.items() if count >= SCRIPT_TOKENS}

    def decode(self, ids: Tensor) -> list[str]:  # [B, T]
        """Words of pieces, without special ones."""
        return self._tokenizer.decode_batch(ids.tolist(), skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` into a folder."""
        self._tokenizer.save(str(Path(folder) / "tokenizer.json"), pretty=False)
