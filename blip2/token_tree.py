"""Several texts that begin alike, read in one pass: each token once, in a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TokenTree:
    """Tokens of texts that share a root; beginnings that texts have in common are there once.

    A token sees what stands between it and the root, and no other branch, so that what a model
    computes for it is what it computes for the text alone.

    Attributes
    ----------
    tokens : list of int
        ``N`` of them; each stands behind the one before it in its text, its parent.
    parents : list of int
        Position of each token's parent, -1 for those that follow the root.
    steps : list of list of (int, int)
        For each text, the tokens to be predicted: the position that predicts (-1 is the root) and
        the token.
    """

    tokens: list[int]
    parents: list[int]
    steps: list[list[tuple[int, int]]]

    @classmethod
    def grow(cls, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> TokenTree:
        """Join texts.

        Parameters
        ----------
        texts : sequence of (sequence of int, sequence of int)
            Tokens that are read, and those that follow them and are predicted.
        """
        tree = cls([], [], [])
        found: dict[tuple[int, int], int] = {}
        for read, predicted in texts:
            at, steps = -1, []
            for number, token in enumerate([*read, *predicted]):
                if number >= len(read):
                    steps.append((at, token))
                if (at, token) not in found:
                    found[at, token] = len(tree.tokens)
                    tree.tokens.append(token)
                    tree.parents.append(at)
                at = found[at, token]
            tree.steps.append(steps)
        return tree

    def depths(self) -> list[int]:
        """How many tokens stand before each in its text."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return depths

    def seen(self) -> Tensor:
        """Which tokens each token sees, itself included: ``[N, N]``, true where it does."""
        seen = torch.zeros(len(self.tokens), len(self.tokens), dtype=torch.bool)
        for position, parent in enumerate(self.parents):
            if parent >= 0:
                seen[position] = seen[parent]
            seen[position, position] = True
        return seen


def tree_inputs(trees: Sequence[TokenTree], root: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mask and positions of a batch of trees, each behind a root of ``root`` tokens.

    Parameters
    ----------
    trees : sequence of TokenTree
        ``B``
    root : int
        Tokens that all texts of a tree follow, ``R``.
    dtype : torch.dtype
        Of the mask.

    Returns
    -------
    mask : Tensor
        ``[B, 1, L, L]``, 0 where a row sees a column and the lowest number elsewhere, ``L = R +
        max(N)``.
    positions : Tensor
        ``[B, L]``
    """
    length = root + max(len(tree.tokens) for tree in trees)
    seen = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)  # padding sees itself
    seen[:, :root, :root] = torch.ones(root, root, dtype=torch.bool).tril()
    positions = torch.zeros(len(trees), length, dtype=torch.long)
    positions[:, :root] = torch.arange(root)
    for number, tree in enumerate(trees):
        stop = root + len(tree.tokens)
        seen[number, root:stop, :root] = True
        seen[number, root:stop, root:stop] = tree.seen()
        positions[number, root:stop] = root + torch.tensor(tree.depths())
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[:, None], positions
