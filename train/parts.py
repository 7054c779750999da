"""A batch computed in parts: on several processes at once, one part after the other, or both.

Every part gets the gradient of the whole batch's loss with respect to what it computed, and the
sum over all parts is the gradient of the batch in one piece. ITC needs the embeddings of the other
parts for that (:class:`blip2.objectives.JointBatch`); ITM draws its hard negatives within a part;
ITG and stage 2 average over the words of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One part of a batch.

    Attributes
    ----------
    number, count : int
        Which of how many; parts are equal in size and follow each other in the batch.
    ranks : int
        How many are computed at once, each by a process of its own.
    """

    number: int = 0
    count: int = 1
    ranks: int = 1

    @property
    def turn(self) -> int:
        """Which of the parts that one process computes one after the other."""
        return self.number // self.ranks

    @property
    def turns(self) -> int:
        """How many parts one process computes."""
        return self.count // self.ranks

    def of_turn(self, turn: int) -> Part:
        """This process's part of another turn."""
        return Part(turn * self.ranks + self.number % self.ranks, self.count, self.ranks)

    def rows(self, batch_size: int) -> slice:
        """Where its pairs stand in the batch."""
        size = batch_size // self.count
        return slice(self.number * size, (self.number + 1) * size)


def gather(own: Tensor) -> Tensor:
    """Tensors of all processes, without gradient.

    Parameters
    ----------
    own : Tensor
        ``[...]``, of the same shape everywhere.

    Returns
    -------
    Tensor
        ``[R, ...]``, in the order of the ranks.
    """
    import torch.distributed as dist

    own = own.detach().contiguous()
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own[None]
    all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, own)
    return torch.stack(all_of_them)


def total(own: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    return float(gather(torch.tensor([float(own)], dtype=torch.float64, device=device)).sum())


def join_turns(own: list[Tensor]) -> Tensor:
    """The whole batch from each process's parts, in the order of :attr:`Part.number`.

    Parameters
    ----------
    own : list of Tensor
        ``[B, ...]`` for each turn.

    Returns
    -------
    Tensor
        ``[turns * R * B, ...]``
    """
    of_all = gather(torch.stack(own))  # [R, turns, B, ...]
    return of_all.transpose(0, 1).flatten(0, 2)
