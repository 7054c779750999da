"""Where a model runs when nobody says so."""

import pytest
import torch

from blip2.devices import pick_device
from blip2.errors import UserError


def test_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == torch.device("cpu")


@pytest.mark.parametrize(("rank", "own"), [(None, 93), ("", 93), ("1", 94), ("4", 93)])
def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch, rank, own):
    """As torchrun numbers them; with more processes than GPUs they share.

    GPUs that no machine has stand for those that are there: the error names the one chosen.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    chosen = []
    monkeypatch.setattr(torch, "ones", lambda *_, device: chosen.append(device) or torch.zeros(1))
    assert pick_device(None) == chosen[0] == torch.device("cuda", own - 93)
    with pytest.raises(UserError, match="nowhere"):
        pick_device("nowhere")
