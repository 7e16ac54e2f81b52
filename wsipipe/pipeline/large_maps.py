"""The variational model on a contrast map of any size, in the memory that there is.

A map that fits is solved in one piece. A larger one is cut into bands of rows that lie in files beside the results, and
are visited by threads, local processes or the workers of a cluster (`wsipipe.numerics.solvers.blocks`). Both give the
same result bit for bit: memory and the number of workers have no part in it, nor has the machine where CPUs are of one
kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers.problem import Solution
from wsipipe.numerics.solvers.tasks import Solved, SolverSettings, available_threads
from wsipipe.numerics.variational import solve_cvm
from wsipipe.parallel import spread
from wsipipe.progress import Progress, Report, silent
from wsipipe.store.scratch import scratch_folder

LARGE = 4_000_000
"""Cells above which the means are updated every 8 iterations, in bands or not: reading and writing a band costs about
as much as 16 iterations. With 8, most maps need two thirds of the visits that they need with 4, for half as many
iterations again; with 16, as many visits as with 8, for twice the iterations."""

LARGE_SWEEP = 8
CELL_BYTES = 60  # of a map that is solved, or of a band, at most: planes of the iteration and what they are made from
EXTRA_BYTES = 16  # more with an extra force
THICK = 4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Room:
    """Where large maps are solved.

    Parameters
    ----------
    folder : Path
        Takes the files of a solve, up to 60 bytes for each cell; they are gone at its end.
    key : str
        Names the solve, such as the slide: what killed runs of the same key left there is removed.
    memory : int
        Bytes that a solve may take in this process beside the map and its segmentation; each process where there are
        several.
    threads : int, optional
        Threads of this process, for bands or for a map in one piece; by default one per processor. Fewer work on bands
        where they would leave one another too little memory.
    workers : int
        Processes on this machine that visit the bands, instead of threads.
    scheduler : str, optional
        Address of a running dask scheduler: its workers visit the bands. They have to find `folder` under its path.
    report : Report
        Told, of a map in bands, the iterations done and at most to do, and the gap when it has been looked at.
    """

    folder: Path
    key: str
    memory: int = 96 << 20
    threads: int | None = None
    workers: int = 1
    scheduler: str | None = None
    report: Report = silent

    def cut(self, shape: tuple[int, int], *, sweep: int, extra: bool = False) -> tuple[int, int]:
        """Bands into which a map goes, and how many of them at once, to stay in memory; (1, 1): it fits in one piece.

        Bands at work have at least `THICK` times as many rows as a halo, where memory allows.
        """
        rows, cols = shape
        held = self.memory // (cols * (CELL_BYTES + EXTRA_BYTES * extra))
        if rows <= held:
            return 1, 1
        elsewhere = self.scheduler is not None or self.workers > 1
        at_once = 1 if elsewhere else max(1, min(self.threads or available_threads(), held // ((THICK + 2) * sweep)))
        return math.ceil(rows / max(held // at_once - 2 * sweep, sweep)), at_once


def solve_map(
    z: Floats,
    *,
    valid: NDArray[np.bool_],
    room: Room,
    settings: SolverSettings,
    lam: float | None = None,
    means: tuple[float, float] | None = None,
    extra: Floats | None = None,
) -> Solved:
    """Segment one map by eq. 6, in one piece or in bands.

    Parameters
    ----------
    z : (rows, cols) float32 array
        Contrast map.
    valid : (rows, cols) bool array
        Cells that count.
    room : Room
        Memory and workers.
    settings : SolverSettings
        How it is solved; `sweep` and `threads` are chosen here. A map goes to a device other than the CPU, or to
        operator splitting, in one piece.
    lam, means, extra
        See `wsipipe.numerics.variational.CvmCase`.

    Returns
    -------
    Solution, float
        And the lambda that was used.

    Raises
    ------
    NumericsError
        As `solve_cvm`.
    StoreError
        The files of the bands cannot be written or read.
    WorkerLostError
        Workers died again and again.
    """
    settings = replace(settings, threads=room.threads)
    if z.size > LARGE:
        settings = replace(settings, sweep=LARGE_SWEEP)
    bands, threads = room.cut((z.shape[0], z.shape[1]), sweep=settings.sweep, extra=extra is not None)
    known = {"valid": valid, "lam": lam, "means": means, "extra": extra}
    if bands == 1 or settings.uses_torch or settings.scheme == "aos" or settings.backend == "reference":
        return _whole(z, settings, known)
    return _in_bands(z, settings, known, bands, replace(room, threads=threads))


def _whole(z: Floats, settings: SolverSettings, known: dict[str, Any]) -> Solved:
    found = solve_cvm(z[None], **known, **vars(settings))
    solution = Solution(
        u=found.u[0],
        dual=None if found.dual is None else found.dual[0],
        c1=float(found.c1[0]),
        c2=float(found.c2[0]),
        energy=float(found.energy[0]),
        gap=float(found.gap[0]),
        iterations=int(found.iterations[0]),
        status=found.status[0],
    )
    return solution, float(found.lam[0])


def _in_bands(z: Floats, settings: SolverSettings, known: dict[str, Any], bands: int, room: Room) -> Solved:
    from wsipipe.numerics.solvers.blocks import solve_blocks  # numba takes a second to load
    from wsipipe.numerics.solvers.field import LargeMap

    large = LargeMap(z, **known)
    tell = partial(_tell, room, settings.max_iter)
    with (
        scratch_folder(room.folder, key=room.key) as scratch,  # goes after the last visit has ended
        spread(threads=room.threads or 1, workers=room.workers, scheduler=room.scheduler) as run,
    ):
        return solve_blocks(large, scratch, settings, bands=bands, run=run, tell=tell)


def _tell(room: Room, most: int, done: int, gap: float | None) -> None:
    stage = "solve" if gap is None else f"solve, gap {gap:.0e}"
    room.report(Progress(room.key, stage, done, most))
