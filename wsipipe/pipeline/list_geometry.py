"""Where the patches of a foreign list lie on the slide: from the list, the slide and what the user adds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError, ResolutionError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.patch_grid import PatchGrid, find_grid
from wsipipe.store.feature_lists import FeatureList

_NEAR = 0.1  # slides of one nominal resolution differ by some percent, not by more


@dataclass(frozen=True)
class Told:
    """What is known from elsewhere than the list; None where nothing is.

    Parameters
    ----------
    slide_size : (int, int) or None
        (width, height) in level-0 px.
    slide_mpp : float or None
        um per level-0 px.
    mpp : float or None
        um per target px that the patches count as; slides of a cohort may differ from it by a tenth.
    patch_px, overlap_px : int or None
        In target px.
    snap : bool
        Patches that lie on no grid go to the nearest cell.
    """

    slide_size: tuple[int, int] | None = None
    slide_mpp: float | None = None
    mpp: float | None = None
    patch_px: int | None = None
    overlap_px: int | None = None
    snap: bool = False


@dataclass(frozen=True)
class Scale:
    """How large patches are.

    Parameters
    ----------
    patch_px : int
        Side in target px.
    scale : float
        Level-0 px per target px.
    slide_mpp : float
        um per level-0 px.
    mpp : float
        um per target px that the patches count as.
    """

    patch_px: int
    scale: float
    slide_mpp: float
    mpp: float


@dataclass(frozen=True, eq=False)
class Placed:
    """Patches on the cells of a map.

    Parameters
    ----------
    grid : CellGrid
        The map, in level-0 px.
    index : (rows, cols) int64 array
        Which patch of the list lies on a cell; -1 where none does.
    stride_px, overlap_px : int
        In target px.
    left_out : int
        Patches whose cell another one is nearer to.
    """

    grid: CellGrid
    index: NDArray[np.int64]
    stride_px: int
    overlap_px: int
    left_out: int


def find_scale(listed: FeatureList, told: Told) -> Scale:
    """Tell the size of a list's patches on the slide and in target px.

    Raises
    ------
    StoreError, ResolutionError
        Something is missing, and the message says which flag gives it; or two things contradict each other.
    """
    facts, path = listed.facts, listed.path
    patch_px = told.patch_px or facts.patch_px
    if not patch_px:
        raise StoreError(
            "does not say how many px its patches have", path=path, remedy="--patch-size, in px of --mpp um"
        )
    if facts.unit == "um":
        return _scale_in_um(listed, told, patch_px)
    if facts.patch is not None:
        return _scale_in_px(listed, told, patch_px, facts.patch / patch_px)
    if told.mpp is None or told.slide_mpp is None:
        raise ResolutionError(
            "does not say how large its patches are on the slide",
            path=path,
            remedy="--patch-size and --mpp of the patches, and --slide FILE or --slide-mpp",
        )
    return Scale(patch_px, told.mpp / told.slide_mpp, told.slide_mpp, told.mpp)


def _scale_in_um(listed: FeatureList, told: Told, patch_px: int) -> Scale:
    side = listed.facts.patch
    assert side is not None
    if told.slide_mpp is None:
        raise ResolutionError(
            "has places in um and does not say how large the slide's px are",
            path=listed.path,
            remedy="--slide FILE or --slide-mpp",
        )
    mpp = side / patch_px
    return Scale(patch_px, mpp / told.slide_mpp, told.slide_mpp, _counted(listed, told.mpp, mpp))


def _scale_in_px(listed: FeatureList, told: Told, patch_px: int, scale: float) -> Scale:
    slide_mpp = told.slide_mpp or (told.mpp / scale if told.mpp else None)
    if slide_mpp is None:
        nominal = listed.facts.magnification
        hint = f", or --mpp {10 / nominal:g} if {nominal:g}x means that" if nominal else " or --mpp"
        raise ResolutionError(
            "does not say its resolution in um per px", path=listed.path, remedy=f"--slide FILE, --slide-mpp{hint}"
        )
    return Scale(patch_px, scale, slide_mpp, _counted(listed, told.mpp, slide_mpp * scale))


def _counted(listed: FeatureList, told: float | None, own: float) -> float:
    if told is not None and abs(told - own) > _NEAR * own:
        raise ResolutionError(
            f"has patches of {own:.4g} um per px, --mpp says {told:g}", path=listed.path, remedy="leave --mpp out"
        )
    return own if told is None else told


def place_patches(listed: FeatureList, scale: Scale, told: Told) -> Placed:
    """Put the patches of a list on the cells of a map; a cell shares its centre with its patch.

    Raises
    ------
    StoreError
        The patches lie on no grid, twice on one place, or outside of the slide; or the slide's size is unknown.
    """
    size = told.slide_size or listed.facts.slide_size
    if size is None:
        raise StoreError(
            "does not say how large the slide is", path=listed.path, remedy="--slide FILE or --slide-size WIDTHxHEIGHT"
        )
    corners = listed.corners / scale.slide_mpp if listed.facts.unit == "um" else listed.corners
    _check_inside(listed, corners, size)
    overlap = told.overlap_px if told.overlap_px is not None else listed.facts.overlap_px
    found = _found(listed, corners, None if overlap is None else (scale.patch_px - overlap) * scale.scale, told)
    stride = max(1, round(found.step / scale.scale))
    margin = (scale.patch_px * scale.scale - found.step) / 2
    rows, cols = (
        max(1, int(np.ceil((side - first) / found.step - 1e-6)), int(last) + 1)
        for side, first, last in zip(size[::-1], found.phase[::-1], found.cells.max(axis=0), strict=True)
    )
    grid = CellGrid(rows, cols, found.step, (found.phase[0] + margin, found.phase[1] + margin))
    index, left_out = _index(listed, found, grid.shape, snap=told.snap)
    return Placed(grid, index, stride, scale.patch_px - stride, left_out)


def _check_inside(listed: FeatureList, corners: NDArray[np.float64], size: tuple[int, int]) -> None:
    outside = ((corners >= size) | (corners < 0)).any(axis=1)
    if outside.any():
        x, y = corners[outside][0]
        raise StoreError(
            f"has patches outside of the slide of {size[0]} x {size[1]} px, the first at ({x:.0f}, {y:.0f}) px",
            path=listed.path,
            remedy="is it the list of this slide?",
        )


def _found(listed: FeatureList, corners: NDArray[np.float64], step: float | None, told: Told) -> PatchGrid:
    try:
        found = find_grid(corners, told=step)
    except NumericsError as error:
        raise StoreError(error.problem, path=listed.path, remedy="say --overlap and --patch-size") from error
    if not (found.fits or told.snap):
        number = int(np.argmax(found.off))
        x, y = corners[number]
        raise StoreError(
            f"has patches that lie on no grid: steps are {found.step:g} px, patch {number} at ({x:.0f}, {y:.0f}) is "
            f"off by {found.off[number] * found.step:.0f} px",
            path=listed.path,
            remedy="--snap puts each on the nearest cell: CLAM lays a grid of its own over every piece of tissue",
        )
    return found


def _index(
    listed: FeatureList, found: PatchGrid, shape: tuple[int, int], *, snap: bool
) -> tuple[NDArray[np.int64], int]:
    index = np.full(shape, -1, np.int64)
    nearest_last = np.argsort(-found.off, kind="stable")
    index[tuple(found.cells[nearest_last].T)] = nearest_last
    left_out = len(found.cells) - int(np.count_nonzero(index >= 0))
    if left_out and not snap:
        raise StoreError(
            f"lists {left_out} patches at places that it has already", path=listed.path, remedy="make the list again"
        )
    return index, left_out
