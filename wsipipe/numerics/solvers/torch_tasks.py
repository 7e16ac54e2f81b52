"""Maps of any sizes on a device of torch: those of one kind go there together, and come back as solutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.errors import NumericsError
from wsipipe.numerics.solvers.tasks import Solved, SolverSettings, Task
from wsipipe.numerics.solvers.torch_batch import solve_maps


def solve_on_device(tasks: Sequence[Task], settings: SolverSettings) -> list[Solved]:
    """Solve tasks; see `wsipipe.numerics.solvers.tasks.solve_tasks`.

    Raises
    ------
    NumericsError
        There is no such device.
    """
    device = _device(settings.device or "cpu")
    together: dict[object, list[int]] = {}
    for index, task in enumerate(tasks):
        # On a CPU, whose caches hold no more, maps are solved one by one.
        together.setdefault(index if device.type == "cpu" else _kind(task), []).append(index)
    found: dict[int, Solved] = {}
    for members in together.values():
        found |= zip(members, _solve_batch([tasks[index] for index in members], settings, device), strict=True)
    return [found[index] for index in range(len(tasks))]


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there, or not built in
        raise NumericsError(f"torch has no device {name!r}: {str(error).splitlines()[0]}", remedy="cpu") from error


def _kind(task: Task) -> tuple[object, ...]:
    """Tell what maps that are solved together have in common: their size, and what is given."""
    dual = None if task.init is None else task.init[1]
    return task.z.shape, *(part is None for part in (task.valid, task.extra, task.lam, task.means, task.init, dual))


def _solve_batch(tasks: Sequence[Task], settings: SolverSettings, device: torch.device) -> list[Solved]:
    """Solve maps of one kind."""

    def maps(planes: Sequence[NDArray[np.generic] | None]) -> Tensor | None:
        given = [plane for plane in planes if plane is not None]
        return torch.from_numpy(np.stack(given)).to(device, non_blocking=True) if given else None

    def numbers(values: Sequence[float | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        kind = torch.float32 if device.type == "mps" else torch.float64
        return torch.tensor(given, dtype=kind, device=device) if given else None

    z, u = maps([task.z for task in tasks]), maps([None if task.init is None else task.init[0] for task in tasks])
    means = [numbers([None if task.means is None else task.means[k] for task in tasks]) for k in (0, 1)]
    if z is None:
        raise TypeError("there is at least one map")
    solved = solve_maps(
        z,
        settings.limits(fixed_means=means[0] is not None),
        lam=numbers([task.lam for task in tasks]),
        lam_rel=settings.lam_rel,
        beta=settings.beta,
        means=None if means[0] is None or means[1] is None else (means[0], means[1]),
        valid=maps([task.valid for task in tasks]),
        extra=maps([task.extra for task in tasks]),
        init=None if u is None else (u, maps([None if task.init is None else task.init[1] for task in tasks])),
        neighbourhood=settings.neighbourhood,
    )
    return list(zip(solved.solutions(), solved.lam.tolist(), strict=True))
