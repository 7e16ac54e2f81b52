"""Which device computes."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray

from wsipipe.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """Device by name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Several local workers (`wsipipe.parallel`) that say "auto" or "cuda" take one GPU each, in turn.

    Raises
    ------
    ConfigError
        There is no such device, or this machine has none.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("WSIPIPE_WORKER_INDEX", "0")) % torch.cuda.device_count())
    if name == "auto":
        return torch.device("mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}", remedy="use auto, cpu, cuda, cuda:0 or mps") from error
    if not _is_present(device):
        raise ConfigError(f"this machine has no device {name!r}", remedy="use --device auto or cpu")
    return device


def pinned(pixels: NDArray[np.uint8] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Tensor of an array; for CUDA in pinned memory, whose copy to the device does not keep the CPU waiting.

    A tensor comes back as it is: its pixels are where they are wanted.
    """
    if isinstance(pixels, torch.Tensor):
        return pixels
    tensor = torch.from_numpy(pixels)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _is_present(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and _has_mps())


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
