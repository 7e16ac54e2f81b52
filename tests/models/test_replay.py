from __future__ import annotations

import pytest
import torch
from torch import nn

from wsipipe.models.replay import Replay


def test_what_ran_before_runs_again_and_leaves_no_trace():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3)
    start = Replay(norm, torch.device("cpu"))
    drawn = [norm(torch.rand(4, 3)) for _ in range(2)]
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    following = torch.rand(5, generator=torch.Generator().set_state(torch.get_rng_state()))
    with start.again():
        assert int(norm.num_batches_tracked) == 0
        assert all(torch.equal(norm(torch.rand(4, 3)), before) for before in drawn)
        assert torch.equal(norm.running_mean, state["running_mean"])
        norm(torch.rand(4, 3))
    assert all(torch.equal(value, state[name]) for name, value in norm.state_dict().items())
    assert torch.equal(torch.rand(5), following)


def test_an_error_leaves_no_trace_either():
    norm = nn.BatchNorm1d(3)
    unfit = nn.Sequential(norm, nn.Linear(2, 1))
    start = Replay(norm, torch.device("cpu"))
    norm(torch.rand(4, 3))
    mean, random = norm.running_mean.clone(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="cannot be multiplied"), start.again():
        unfit(torch.rand(4, 3))
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(torch.get_rng_state(), random)


def test_untouched_buffers_keep_a_graph_valid():
    """Batch norm in evaluation holds its statistics for the backward pass; a copy over them would break it."""
    norm = nn.BatchNorm1d(3).eval()
    loss = norm(torch.rand(4, 3)).sum()
    with Replay(norm, torch.device("cpu")).again():
        norm(torch.rand(4, 3))
    loss.backward()
    assert norm.bias.grad is not None
