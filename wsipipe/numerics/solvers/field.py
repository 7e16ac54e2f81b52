"""A map in bands of rows that a scratch store keeps: read once, checked, with its edge detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from wsipipe.errors import NumericsError
from wsipipe.numerics.solvers import compiled, kernels
from wsipipe.numerics.solvers.band import Cut, Extent, Sums, added, cut_rows, fixed_scale
from wsipipe.numerics.solvers.problem import Split
from wsipipe.numerics.solvers.scratch import Plane, Scratch
from wsipipe.numerics.solvers.tasks import prepared

Visit: TypeAlias = Callable[[int], Any]
Run = Callable[[Visit, Sequence[int]], Iterable[Any]]  # calls a visit for every band; results in their order


class Rows(Protocol):
    """A map that gives slices of rows: an array, a memory map, an HDF5 data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols)."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:  # noqa: ANN401 - libraries differ in what they promise
        """Rows as an array."""
        ...


@dataclass(frozen=True, eq=False)
class LargeMap:
    """A map to segment that need not fit in memory.

    Parameters
    ----------
    z : (rows, cols) floats by rows
        Contrast map.
    valid : (rows, cols) bools by rows, optional
        Cells that count.
    extra : (rows, cols) floats by rows, optional
        Extra force.
    lam : float, optional
        Weight lambda of the fitting term; by default scale-free.
    means : (c1, c2), optional
        Fixed means.
    """

    z: Rows
    valid: Rows | None = None
    extra: Rows | None = None
    lam: float | None = None
    means: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.z.shape) != 2 or 0 in self.z.shape:
            raise NumericsError(f"a map is (rows, cols), got {self.z.shape}")
        for name, other in (("valid", self.valid), ("extra", self.extra)):
            if other is not None and other.shape != self.z.shape:
                raise NumericsError(f"{name} has the shape of z, {self.z.shape}, got {other.shape}")
        if self.lam is not None and not (np.isfinite(self.lam) and self.lam > 0):
            raise NumericsError(f"lam is positive, got {self.lam}")
        if self.means is not None and not (np.isfinite(self.means).all() and self.means[0] != self.means[1]):
            raise NumericsError(f"the means c1 and c2 are finite and differ, got {self.means}")


@dataclass(frozen=True)
class Field:
    """The bands of a map in a scratch store.

    Parameters
    ----------
    scratch : Scratch
        Holds, for every band: z and the edge detector (`kernels.OUTSIDE` on cells that do not count), and the extra
        force where there is one, under "map-BAND"; z of the cells that count, in one row, under "values-BAND"; during a
        solve, u and the scaled dual planes under "state-GENERATION-BAND", with the columns of their border.
    cuts : tuple of Cut
        Rows of each band.
    counts : tuple of int
        Cells that count in each band.
    cols : int
    extra : bool
        Whether there is an extra force.
    extent : Extent
        Of the whole map.
    """

    scratch: Scratch
    cuts: tuple[Cut, ...]
    counts: tuple[int, ...]
    cols: int
    extra: bool
    extent: Extent

    @property
    def bands(self) -> range:
        """Numbers of the bands."""
        return range(len(self.cuts))

    def held(self, band: int, halo: int) -> slice:
        """Rows of a band and of its halo."""
        core = self.cuts[band].core
        return slice(max(0, core.start - halo), min(self.cuts[-1].core.stop, core.stop + halo))

    def read(self, kind: str, planes: Sequence[Plane], rows: slice) -> None:
        """Fill planes with rows of the map, whichever bands hold them."""
        for band, cut in enumerate(self.cuts):
            first, last = max(rows.start, cut.core.start), min(rows.stop, cut.core.stop)
            if first < last:
                parts = [plane[first - rows.start : last - rows.start] for plane in planes]
                local = slice(first - cut.core.start, last - cut.core.start)
                self.scratch.fill(f"{kind}-{band}", parts, local)

    def map_rows(self, rows: slice) -> tuple[Plane, Plane, Plane | None]:
        """Rows of z, edge detector and extra force."""
        planes = [np.empty((rows.stop - rows.start, self.cols), np.float32) for _ in range(2 + self.extra)]
        self.read("map", planes, rows)
        return planes[0], planes[1], planes[2] if self.extra else None


def store_map(large: LargeMap, scratch: Scratch, *, beta: float, bands: int, least: int) -> Field:
    """Read a map band by band, and keep z, edge detector and extra force in the scratch store.

    Parameters
    ----------
    large : LargeMap
    scratch : Scratch
    beta : float
        Of the edge detector.
    bands, least : int
        Number of bands wanted, and of rows that each has at least.

    Raises
    ------
    NumericsError
        Values that are not finite, or too large, on valid cells; no valid cell.
    """
    cuts = tuple(cut_rows(large.z.shape[0], bands=bands, halo=least))
    counts, low, high, extra = [], np.inf, -np.inf, 0.0
    for band, cut in enumerate(cuts):
        planes = _planes(large, cut.core, beta)
        scratch.put(f"map-{band}", planes)
        values = planes[0][planes[1] > 0]
        counts.append(values.size)
        if values.size:
            scratch.put(f"values-{band}", [values[None]])
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        extra = max(extra, *(float(np.abs(plane).max()) for plane in planes[2:]), 0.0)
    if low > high:
        raise NumericsError("no cell is valid")
    return Field(scratch, cuts, tuple(counts), large.z.shape[1], large.extra is not None, Extent(low, high, extra))


def _planes(large: LargeMap, rows: slice, beta: float) -> list[Plane]:
    """Rows of z, the edge detector, negative on cells that do not count, and the extra force where there is one."""
    wide = slice(max(0, rows.start - 1), min(large.z.shape[0], rows.stop + 1))  # slopes need the next rows
    own = slice(rows.start - wide.start, rows.stop - wide.start)
    valid = None if large.valid is None else np.asarray(large.valid[wide], np.bool_)
    z = prepared("z", large.z[wide], valid)
    g = compiled.edge_weights(z, beta=beta, valid=valid)[own]
    if valid is None:
        extra = [] if large.extra is None else [prepared("extra", large.extra[rows], None)]
        return [z[own], g, *extra]
    extra = [] if large.extra is None else [prepared("extra", large.extra[rows], valid[own])]
    return [z[own], np.where(valid[own], g, kernels.OUTSIDE), *extra]


def split(field: Field, run: Run, threshold: float) -> Split:
    """Count and sum z as `compiled.split` does, band by band."""
    scale = fixed_scale(max(field.extent.high, -field.extent.low))
    above, sum_above, count, total = added(list(run(partial(_split_band, field, threshold, scale), field.bands)))
    return Split(above, sum_above / scale, count, total / scale)


def _split_band(field: Field, threshold: float, scale: float, band: int) -> Sums:
    cells = np.empty((1, field.counts[band]), np.float32)
    if cells.size:
        field.scratch.fill(f"values-{band}", [cells], slice(0, 1))
    above, sum_above, total = kernels.split_sums(cells, np.float32(threshold), np.float32(scale))
    return int(above), int(sum_above), cells.size, int(total)
