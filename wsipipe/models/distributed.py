"""What code has to know of an encoder that several processes train together (DistributedDataParallel)."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(module: nn.Module) -> nn.Module:
    """Give the module inside a `DistributedDataParallel`, or the module itself."""
    if isinstance(module, DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    return module


def share_buffers(module: nn.Module) -> None:
    """Give every process the buffers of the first, where the wrapper would do so before its next forward pass."""
    if not isinstance(module, DistributedDataParallel):
        return
    if module.broadcast_buffers and module.require_forward_param_sync:
        for buffer in module.module.buffers():
            dist.broadcast(buffer, group=module.process_group, group_src=0)
