"""From a feature map and a few points to a segmentation, without training.

The points and the map itself shape the features (`wsipipe.numerics.shaping`); correlation maps of the shaped features
(eq. 4) are contrasted with weights that a ridge finds, in place of one eta for all (eq. 5); the two-phase variational
model (eq. 6) makes the segmentation. Maps are read in windows, twice: once for a sample, once for the contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.config import SegmentSettings
from wsipipe.errors import AnnotationError, NumericsError
from wsipipe.numerics.correlation import check_points
from wsipipe.numerics.grading import graded
from wsipipe.numerics.shaping import Shaping, fit_axes, fit_diffusion, ridge_weights, unit
from wsipipe.numerics.solvers.problem import Status
from wsipipe.numerics.variational import solve_cvm

WINDOW = 256  # cells squared that are read at once
MAX_CELLS = 64_000_000  # about 20 bytes each
NOTHING = 1e-5  # cosines of float32 are exact to a few 1e-7: a mean contrast below this is rounding

Read = Callable[[slice, slice], NDArray[np.float32]]
Solve = Callable[[NDArray[np.float32], NDArray[np.bool_], SegmentSettings], tuple[NDArray[np.float32], Status]]


@dataclass(frozen=True)
class PointSegmentation:
    """What a few points say of a map.

    Parameters
    ----------
    u : (rows, cols) float32 array
        Minimiser of eq. 6, in [0, 1]; the mask is u > 0.5. 0 on cells that are not valid.
    z : (rows, cols) float32 array
        Contrast map that u segments, in [0, 1]: 0.5 where the points speak for neither side. 0 on cells that are not
        valid.
    probability : (rows, cols) float32 array
        Half the mask plus half of z: at least 0.5 exactly on the mask, and graded by the contrast on both sides.
    status : str
        As `wsipipe.numerics.variational.CvmResult` has it.
    notes : tuple of str
        What the user should know, such as points that could not be used.
    """

    u: NDArray[np.float32]
    z: NDArray[np.float32]
    probability: NDArray[np.float32]
    status: str
    notes: tuple[str, ...] = ()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(rows, cols): in the target."""
        return self.u > np.float32(0.5)


def solve_whole(
    z: NDArray[np.float32], valid: NDArray[np.bool_], settings: SegmentSettings
) -> tuple[NDArray[np.float32], Status]:
    """Segment a contrast map by eq. 6 in one piece, at about 60 bytes for each cell: u, and how the solve ended."""
    found = solve_cvm(
        z[None],
        valid=valid,
        lam_rel=settings.lam_rel,
        beta=settings.beta,
        means=settings.means,
        tol=settings.tol,
    )
    return found.u[0], found.status[0]


def segment_map(
    read: Read,
    shape: tuple[int, int],
    points_cells: ArrayLike,
    label: ArrayLike,
    *,
    settings: SegmentSettings,
    valid: NDArray[np.bool_] | None = None,
    solve: Solve = solve_whole,
) -> PointSegmentation:
    """Segment a feature map from a few points.

    Parameters
    ----------
    read : callable
        read(rows, cols) -> (r, c, dim) float array: a window of the map. Asked for windows of up to 256 x 256 cells.
    shape : (int, int)
        (rows, cols) of the map.
    points_cells : (n, 2) int array-like
        Cells (row, col) of the points.
    label : (n,) int array-like
        1 in-target, 0 out-of-target.
    settings : SegmentSettings
    valid : (rows, cols) bool array, optional
        Cells that count, such as tissue. Points on others are left out, with a note.
    solve : callable
        solve(z, valid, settings) -> (u, status): eq. 6 on the contrast map. By default in one piece;
        `wsipipe.pipeline.large_maps` has one that keeps to a memory budget.

    Returns
    -------
    PointSegmentation

    Raises
    ------
    AnnotationError
        One of the two classes has no point on a valid cell.
    NumericsError
        Wrong shapes or types, points outside the map, features that are not finite, or more than 64 million cells.
    """
    world = WindowedMap(read, shape, checked_valid(valid, shape))
    cells, labels, notes = usable_points(points_cells, label, world.valid)
    shaping = fit_shaping(world, cells, settings)
    direction = weighted_direction(point_prototypes(world, shaping, cells, settings), labels, settings)
    z = levelled(contrast_maps(world, shaping, direction[None])[0], world.valid, settings.gain)
    u, status = solve(z, world.valid, settings)
    return _result(u, z, status, notes)


@dataclass(frozen=True)
class WindowedMap:
    """A map that is read in windows."""

    read: Read
    shape: tuple[int, int]
    valid: NDArray[np.bool_]

    def windows(self) -> Iterator[tuple[slice, slice]]:
        """Windows that hold valid cells."""
        rows, cols = self.shape
        for top in range(0, rows, WINDOW):
            for left in range(0, cols, WINDOW):
                window = slice(top, min(top + WINDOW, rows)), slice(left, min(left + WINDOW, cols))
                if self.valid[window].any():
                    yield window

    def features(self, window: tuple[slice, slice], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(n, dim) features of the chosen cells of a window, in row-major order."""
        values = np.asarray(self.read(*window))
        if values.ndim != 3 or values.shape[:2] != chosen.shape:
            raise NumericsError(f"a window of {chosen.shape} cells came back with the shape {values.shape}")
        picked = values[chosen].astype(np.float32, copy=False)
        if not np.isfinite(picked).all():
            raise NumericsError("the features hold values that are not finite (NaN or infinite)")
        return picked

    def gather(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(n, dim) features of chosen cells of the map, window by window."""
        parts = [self.features(w, chosen[w]) for w in self.windows() if chosen[w].any()]
        return np.concatenate(parts)


def checked_valid(valid: NDArray[np.bool_] | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells that count, (rows, cols); all of them where nobody says. Maps that are too large are refused."""
    if shape[0] * shape[1] > MAX_CELLS:
        raise NumericsError(
            f"a map of {shape[0]} x {shape[1]} cells is too large to segment",
            remedy="use a coarser --stride or --mpp",
        )
    if valid is None:
        return np.ones(shape, np.bool_)
    if valid.shape != shape or valid.dtype != np.bool_:
        raise NumericsError(f"valid is a bool array of shape {shape}, got {valid.dtype} {valid.shape}")
    return valid


def usable_points(
    points_cells: ArrayLike, label: ArrayLike, valid: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Points on valid cells; refuse what leaves a class empty."""
    cells, labels = check_points(points_cells, valid.shape), np.asarray(label, np.int64)
    if labels.shape != (len(cells),) or not np.isin(labels, (0, 1)).all():
        raise NumericsError(f"{len(cells)} points need as many labels 0 or 1, got {labels.tolist()}")
    on = valid[cells[:, 0], cells[:, 1]]
    for value, name in ((1, "in-target"), (0, "out-of-target")):
        if not (labels[on] == value).any():
            raise AnnotationError(
                f"none of {np.count_nonzero(labels == value)} {name} points lies on tissue",
                remedy=f"click {name} points on the tissue",
            )
    off = np.count_nonzero(~on)
    notes = (f"{off} of {len(on)} points lie off the tissue and were left out",) if off else ()
    return cells[on], labels[on], notes


def fit_shaping(world: WindowedMap, cells: NDArray[np.int64], settings: SegmentSettings) -> Shaping:
    """Shape features on random cells and those of the points."""
    ids = np.flatnonzero(world.valid)
    rng = np.random.default_rng(settings.seed)
    count = min(settings.landmarks * settings.draws, len(ids))
    drawn = np.zeros(world.shape, np.bool_)
    drawn.flat[rng.choice(ids, count, replace=False)] = True
    sample = rng.permutation(world.gather(drawn))
    axes = fit_axes(sample, components=settings.components)
    points = np.zeros(world.shape, np.bool_)
    points[cells[:, 0], cells[:, 1]] = True
    own, others = axes.apply(world.gather(points)), axes.apply(sample)
    diffusions = [
        fit_diffusion(
            np.concatenate([own, part]), neighbours=settings.neighbours, rank=settings.rank, reach=settings.reach
        )
        for part in np.array_split(others, max(1, -(-count // settings.landmarks)))
    ]
    return Shaping(axes, diffusions)


def point_prototypes(
    world: WindowedMap, shaping: Shaping, cells: NDArray[np.int64], settings: SegmentSettings
) -> NDArray[np.float32]:
    """(n, k) mean directions of the shaped features round each point's cell."""
    return np.stack([_prototype(world, shaping, cell, settings.prototype // 2) for cell in cells])


def weighted_direction(
    prototypes: NDArray[np.float32], labels: NDArray[np.int64], settings: SegmentSettings
) -> NDArray[np.float32]:
    """(k,) vector whose product with a shaped cell is sum_i w_i S_i(cell), with ridge weights w."""
    return np.asarray(ridge_weights(prototypes, labels, noise=settings.noise) @ prototypes)


def _prototype(world: WindowedMap, shaping: Shaping, cell: NDArray[np.int64], reach: int) -> NDArray[np.float32]:
    """Mean direction of the valid cells round a point."""
    rows, cols = (slice(max(0, int(centre) - reach), int(centre) + reach + 1) for centre in cell)
    window = slice(rows.start, min(rows.stop, world.shape[0])), slice(cols.start, min(cols.stop, world.shape[1]))
    return unit(shaping.apply(world.features(window, world.valid[window])).mean(axis=0))


def contrast_maps(world: WindowedMap, shaping: Shaping, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, rows, cols) weighted sums of the correlation maps for (n, k) vectors, in one pass; 0 where not valid."""
    out = np.zeros((len(vectors), *world.shape), np.float32)
    for window in world.windows():
        chosen = world.valid[window]
        shaped = shaping.apply(world.features(window, chosen))
        for contrast, vector in zip(out, vectors, strict=True):
            contrast[window][chosen] = shaped @ vector
    return out


def levelled(contrast: NDArray[np.float32], valid: NDArray[np.bool_], gain: float) -> NDArray[np.float32]:
    """Logistic of the contrast in units of its mean size, in place; 0 stays 0 where not valid.

    Min-max normalisation would let the neighbourhood of one point set the scale.
    """
    size = float(sum(np.abs(band).sum(dtype=np.float64) for band in contrast)) / np.count_nonzero(valid)
    for row, keep in zip(contrast, valid, strict=True):
        row[keep] = 1 / (1 + np.exp(-gain / size * row[keep])) if size > NOTHING else 0.5
    return contrast


def _result(u: NDArray[np.float32], z: NDArray[np.float32], status: str, notes: tuple[str, ...]) -> PointSegmentation:
    if status == "constant":
        notes = (*notes, "in-target and out-of-target points lie on cells that do not differ: nothing is segmented")
    return PointSegmentation(u, z, graded(u, z), status, notes)
