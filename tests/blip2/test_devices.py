"""Where a model runs when nobody says so."""

import pytest
import torch

from blip2.devices import pick_device
from blip2.errors import UserError


def test_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == torch.device("cpu")


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    """As a launcher numbers them; the hundredth is nowhere, and is what the error names."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(UserError, match="cuda:99"):
        pick_device(None)
