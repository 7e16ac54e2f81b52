"""Run a module once more as it ran before: the same random numbers, the same buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Replay:
    """Torch's random numbers and a module's buffers as they are now, to go back to for a while.

    Parameters
    ----------
    module : Module
        Its buffers are kept: running statistics of batch norms, say.
    device : torch.device
        Its random numbers are kept, and the CPU's; of other kinds than CUDA, the CPU's alone.

    Notes
    -----
    What runs under `again` in the order in which it ran first draws the same and leaves no trace: random numbers and
    buffers are then put back to what they were. So running statistics are updated once, by the first run.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device
        self._random = _random_states(device)
        self._buffers = _copies(module)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Everything as it was when this object was made."""
        random, buffers = _random_states(self._device), _copies(self._module)
        _restore(self._module, self._buffers)
        _set_random_states(self._device, self._random)
        try:
            yield
        finally:
            _restore(self._module, buffers)
            _set_random_states(self._device, random)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def _restore(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Write only what differs: a graph that holds an untouched buffer stays valid."""
    for name, buffer in module.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            buffer.copy_(buffers[name])
