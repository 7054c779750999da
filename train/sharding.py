"""A model spread over the processes that train it (FSDP): each holds a share of every tensor.

Weights, gradients and Adam's moments are cut over the processes; a layer of a transformer is put
together when it is computed, everything else for the whole step. What is computed is the same as
with a copy of the model in each process. Torch does it (``fully_shard``); accelerate's own way to
it is closed on a CPU, where the tests run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    """Cut a model over all processes, and have its optimizer hold the shares.

    Parameters
    ----------
    model : nn.Module
        On the device where it is trained; the same in all processes.
    optimizer : torch.optim.Optimizer
        Over parameters of the model, before its first step.

    Returns
    -------
    nn.Module
        The same model.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = [
        [names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups
    ]
    layers: set[str] = set()
    for part in model.modules():  # transformers says which of its classes repeat
        layers |= set(getattr(part, "_no_split_modules", None) or ())
    inside: set[int] = set()  # an attention of a layer is cut with the layer
    for part in list(model.modules()):
        if type(part).__name__ in layers and id(part) not in inside:
            inside |= {id(inner) for inner in part.modules()}
            fully_shard(part)
    # A scalar can't be cut; `average_scalars` does for it what torch does for the others.
    fully_shard(model, ignored_params={value for value in model.parameters() if not value.ndim})
    now = dict(model.named_parameters())
    for group, named in zip(optimizer.param_groups, wanted, strict=True):
        group["params"] = [now[name] for name in named]
    if hasattr(model, "embed_pairs"):  # which ITC of a batch in turns calls beside `forward`
        register_fsdp_forward_method(model, "embed_pairs")
    return model


def average_scalars(model: nn.Module) -> None:
    """Make the gradients of what could not be cut the mean over all processes."""
    for value in model.parameters():
        if not isinstance(value, DTensor) and value.grad is not None:
            dist.all_reduce(value.grad)
            value.grad /= dist.get_world_size()


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its shares; all processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor cut as another is."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Put together what is not a layer of its own, so that any method may be called."""
    if isinstance(model, FSDPModule):
        model.unshard()
    yield
    if isinstance(model, FSDPModule):
        model.reshard()


@torch.no_grad()
def put_together(model: nn.Module, but: type[nn.Module]) -> nn.Module:
    """Give a model its whole tensors back, to be saved; all processes have to ask for it.

    Parameters
    ----------
    model : nn.Module
        Is not trained any further.
    but : type
        Parts of this kind stay cut.
    """
    left = {id(inner) for part in model.modules() if isinstance(part, but)
            for inner in part.modules()}  # fmt: skip
    for part in model.modules():
        if id(part) not in left:
            for name, value in part._parameters.items():
                if isinstance(value, DTensor):
                    part._parameters[name] = nn.Parameter(whole(value), value.requires_grad)
    return model
