"""Where a model runs, and in which precision."""

from __future__ import annotations

import os

import torch

from blip2.errors import UserError


def pick_device(device: str | None) -> torch.device:
    """The named device, else the GPU (of several processes' GPUs the process's own), else the CPU.

    Raises
    ------
    UserError
        There is no such device here.
    """
    name = device or "cpu"
    if not device and torch.cuda.is_available():
        rank = int(os.environ.get("LOCAL_RANK") or 0)  # set by torchrun
        name = f"cuda:{rank % torch.cuda.device_count()}"
    try:
        place = torch.device(name)
        torch.ones(1, device=place).item()  # fails on a device without memory, such as "meta"
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(
            f"The device {name!r} can't be used here; choose cpu or leave it out."
        ) from error
    return place


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU and on processors that compute in it, else fp32.

    On a processor without bf16 instructions each product is converted first, which is slower
    than fp32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def qformer_dtype(asked: torch.dtype | None) -> torch.dtype:
    """Precision of the Q-Former: fp32, or bf16 where that was asked for.

    fp16 is for the frozen parts alone: its range is too small for the Q-Former's norms, which
    transformers keeps in fp32, too.
    """
    return torch.bfloat16 if asked == torch.bfloat16 else torch.float32
