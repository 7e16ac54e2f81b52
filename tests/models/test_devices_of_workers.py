"""Workers on a machine with several GPUs take one each."""

from __future__ import annotations

import pytest
import torch

from wsipipe.models.devices import pick_device


@pytest.mark.parametrize(("index", "device"), [(None, "cuda:0"), ("0", "cuda:0"), ("1", "cuda:1"), ("5", "cuda:1")])
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_worker_takes_its_own_gpu(monkeypatch, name, index, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if index is None:
        monkeypatch.delenv("WSIPIPE_WORKER_INDEX", raising=False)
    else:
        monkeypatch.setenv("WSIPIPE_WORKER_INDEX", index)
    assert pick_device(name) == torch.device(device)


def test_a_named_gpu_is_left_as_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WSIPIPE_WORKER_INDEX", "1")
    assert pick_device("cuda:0") == torch.device("cuda:0")
