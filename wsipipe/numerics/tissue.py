"""Tissue on bright-field slides: a mask at about 8 um per px, and its share of the cells of other grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsipipe.config import TissueSettings
from wsipipe.errors import NumericsError, TissueError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.components import Components

Array = TypeVar("Array", NDArray[np.bool_], NDArray[np.uint8])

WINDOW_UM = 40.0
"""Side of the window in which texture is measured: a few cells wide."""
SMOOTH = 0.04
"""Standard deviation of optical density below which a window is smooth. At 8 um per px glass and stain smear stay
below 0.03, out-of-focus dust and scanner seams below 0.04; 99.5% of stained tissue lies above 0.085."""
CLEAR = 0.06
"""Optical density over that of the glass that still counts as clear."""
SMEAR = 0.45
"""Optical density over that of the glass that smear stays below."""
TINT = 1.04
"""Ratio of the channels of glass from which on it is called tinted."""
GLASS_FLOOR = 150
"""Smallest value of the darkest channel that glass can have."""
LINE_UM = 24.0
"""Thinner parts of tissue are fibres and edges of cover slips that touch it."""
THICKNESS_UM = 60.0
"""Pieces nowhere thicker than this are fibres, edges of cover slips or rims of bubbles and pen strokes."""
BAND_PX = 64
"""Rows of the overview that are worked on at once."""
PEN_STEP_UM = 16.0
"""Pen marks are broad: pixels this far apart show them."""
PEN_AREA_UM2 = 40_000.0
"""Solid ink of this area is a pen mark; stained nuclei and pigment make smaller spots."""


@dataclass(frozen=True)
class Tissue:
    """Where a slide has tissue.

    Parameters
    ----------
    mask : (rows, cols) bool array
        True on tissue.
    grid : CellGrid
        Where the pixels of `mask` lie on the slide, in level-0 px.
    """

    mask: NDArray[np.bool_]
    grid: CellGrid

    def __post_init__(self) -> None:
        if self.mask.shape != self.grid.shape:
            raise NumericsError(f"a mask of {self.mask.shape} px does not fit a grid of {self.grid.shape} cells")

    def fraction(self, grid: CellGrid) -> NDArray[np.float32]:
        """Share of each cell of `grid` that is tissue, by area; what lies off the mask is none.

        Parameters
        ----------
        grid : CellGrid
            Cells of any size and origin, in level-0 px.

        Returns
        -------
        (rows, cols) float32 array
            In [0, 1].

        Notes
        -----
        The weight of mask row i in grid row r is the share of r that i covers, so the fractions are
        ``R @ mask @ C.T`` with the two one-dimensional overlaps R and C, evaluated as sums over whole px and parts
        of the px in which the cells' edges lie, which is exact for any ratio and offset.
        """
        rows = _cell_means(self.mask, self._edges(grid, axis=0), axis=0)
        return _cell_means(rows, self._edges(grid, axis=1), axis=1)

    def covered(self, grid: CellGrid) -> NDArray[np.float32]:
        """Share of each cell of `grid` that lies on the mask, whatever is there; as `fraction` were all tissue."""
        rows, cols = (
            _cell_means(np.ones((side, 1), np.bool_), self._edges(grid, axis=axis), axis=0)
            for axis, side in enumerate(self.mask.shape)
        )
        return rows @ cols.T

    def area_px(self, width: int, height: int) -> float:
        """Area of the tissue on a slide of `width` x `height` level-0 px, in px of that level.

        Of px of the mask that reach past the slide's edge, the part on the slide counts.
        """
        x, y = self.grid.origin
        across, down = (
            np.diff(np.clip(start + np.arange(count + 1) * self.grid.cell_px, 0, size))
            for start, count, size in ((x, self.grid.cols, width), (y, self.grid.rows, height))
        )
        return float(np.einsum("i,ij,j", down, self.mask, across))

    def _edges(self, grid: CellGrid, *, axis: int) -> NDArray[np.float64]:
        """Edges of the rows (axis 0) or columns (axis 1) of `grid` in px of the mask."""
        along = 1 - axis
        level0 = grid.origin[along] + np.arange(grid.shape[axis] + 1) * grid.cell_px
        return np.asarray((level0 - self.grid.origin[along]) / self.grid.cell_px)


def _cell_means(values: NDArray[Any], edges: NDArray[np.float64], *, axis: int) -> NDArray[np.float32]:
    """Mean of `values` (n, m) along an axis between neighbouring `edges` (k + 1,), zero off the array."""
    n = values.shape[axis]
    inside = np.clip(edges, 0, n)
    whole = np.minimum(inside.astype(np.int64), n - 1)
    along = (slice(None), np.newaxis)[:: 1 if axis == 0 else -1]
    sums = np.add.reduceat(values, whole, axis=axis, dtype=np.float32).take(range(len(edges) - 1), axis)
    sums *= (np.diff(whole) > 0)[along]  # where both edges lie in one px, `reduceat` gives that px
    parts = (inside - whole)[along] * values.take(whole, axis)
    return np.asarray((sums + np.diff(parts, axis=axis)) / np.diff(edges)[along], dtype=np.float32)


def tissue_mask(rgb: NDArray[np.uint8], *, mpp: float, settings: TissueSettings) -> NDArray[np.bool_]:
    """Tell tissue from glass on a bright-field overview.

    Parameters
    ----------
    rgb : (h, w, 3) uint8 array
        The slide at `mpp`.
    mpp : float
        um per px of `rgb`, about 8; between 2 and 16 the result stays much the same.
    settings : TissueSettings
        Smallest piece and smallest hole.

    Returns
    -------
    (h, w) bool array
        True on tissue.

    Raises
    ------
    TissueError
        A dark background (fluorescence), or no tissue.

    Notes
    -----
    Glass is looked for, and tissue is the rest, so that a picture without glass is tissue from edge to edge and is
    never split in two by a threshold.

    1. Dark pictures without any glass are refused: fluorescence is not told by absorption.
    2. The glass is made colourless: old mounting media are yellow, and smear lies on whole slides. *Optical density
       of the darkest channel* then measures any stain alike (eosin absorbs green, haematoxylin red and green, DAB
       blue), and makes the texture of pale and dark tissue comparable.
    3. *Texture*, its deviation in a window of 40 um: tissue is textured by cells and fibres, while a smear of stain,
       printed dots, dust out of focus and seams between scanned fields are smooth, however strong their colour.
    4. *Glass* is what is smooth, no darker than smear, and hangs together with clear glass: that takes the smear
       beside the tissue with it, and leaves smooth but stained areas inside the tissue alone.
    5. Glass is grown back over the half window by which texture spreads beyond the edge of the tissue.
    6. *Pen marks* are solid areas of colours that no stain has (`_ink_colours`).
    7. Small holes are closed, also where the picture's edge cuts them; then specks, and pieces thin everywhere, are
       dropped.
    """
    # A picture of a small core: what counts as small there is small against the picture.
    quarter = rgb.shape[0] * rgb.shape[1] / 4
    hole = min(settings.min_hole_um2 / mpp**2, quarter)
    mask = _opened(~_sizeable(_background(rgb, mpp), hole), max(1, round(LINE_UM / mpp)))
    core = _window(mask, max(1, round(THICKNESS_UM / mpp)), np.minimum)
    mask = _sizeable(mask, min(settings.min_area_um2 / mpp**2, quarter), core)
    if not mask.any():
        raise TissueError("no tissue found", remedy="is the slide empty, or all of it a pen mark?")
    return mask


def _background(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Glass and pen marks, (h, w)."""
    darkest = _darkest(rgb)
    _refuse_dark(darkest)
    rgb, darkest = _balanced(rgb, darkest)
    reach = max(1, round(WINDOW_UM / mpp / 2))
    glass = _grown(_glass(darkest, _smooth(darkest, 2 * reach + 1)), darkest, reach)
    del darkest  # room for what looks for ink
    return glass | _pen_marks(rgb, mpp)


def _darkest(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]))


def _balanced(rgb: NDArray[np.uint8], darkest: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make the glass colourless, in a picture and its darkest channel: the same where it is so already."""
    step = max(1, min(rgb.shape[:2]) // 256)
    sample, dark = rgb[::step, ::step].reshape(-1, 3), darkest[::step, ::step].ravel()
    bright = dark[(dark >= GLASS_FLOOR) & (dark < 255)]
    if len(bright) == 0:
        return rgb, darkest
    level = np.percentile(bright, 75)
    glass = np.median(sample[(dark >= level) & (dark < 255)], axis=0)
    if glass.max() < TINT * glass.min():
        return rgb, darkest
    tables = np.minimum(np.rint(np.arange(256)[:, None] * (glass.max() / glass)), 255).astype(np.uint8)
    balanced = np.stack([tables[:, channel][rgb[..., channel]] for channel in range(3)], axis=-1)
    return balanced, _darkest(balanced)


def _refuse_dark(darkest: NDArray[np.uint8]) -> None:
    dark = float((darkest < 32).mean())
    if dark > 0.5 and (darkest >= GLASS_FLOOR).mean() < 0.02:
        raise TissueError(
            f"the background is dark ({dark:.0%} of the slide): fluorescence, not bright field",
            remedy="tissue is detected on bright-field slides only",
        )


def _densities() -> NDArray[np.float32]:
    """Optical density of uint8 intensities against 255, (256,); below 8, where noise rules, it stays put."""
    return -np.log(np.maximum(np.arange(256), 8) / 255).astype(np.float32)


def _lightest(density: float) -> int:
    """Least intensity, of uint8, whose optical density lies below a value."""
    return int(np.count_nonzero(_densities() >= density))


def _smooth(intensity: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Where the standard deviation of optical density in a square window of odd `size` px is small.

    In bands of rows, which stay in the processor's cache.
    """
    reach, densities = size // 2, _densities()
    smooth = np.empty(intensity.shape, np.bool_)
    for band, rows in _bands(len(intensity), reach, reach):
        values = densities[np.pad(intensity[rows], ((0, 0), (reach, reach)), mode="edge")]
        smooth[band] = _deviation(values, size) < SMOOTH
    return smooth


def _deviation(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Take the standard deviation in each square window of `size` px that fits, (h - size + 1, w - size + 1)."""
    mean, square = _window_sums(values, size) / size**2, _window_sums(values * values, size) / size**2
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)))


def _bands(height: int, before: int = 0, after: int = 0) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Rows of each band, and these with some before and after them, where the first and the last row go on and on."""
    for top in range(0, height, BAND_PX):
        band = slice(top, min(top + BAND_PX, height))
        yield band, np.arange(band.start - before, band.stop + after).clip(0, height - 1)


def _window_sums(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Sum over each square window of `size` px that fits, (h - size + 1, w - size + 1)."""
    return _run_sums(_run_sums(values, size).swapaxes(0, 1), size).swapaxes(0, 1)


def _run_sums(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Sum over each run of `size` rows, put together from runs whose lengths are powers of two."""
    count = len(values) - size + 1
    total = np.zeros((count, *values.shape[1:]), np.float32)
    start, width, run = 0, 1, values
    while width <= size:
        if size & width:
            total += run[start : start + count]
            start += width
        run = run[:-width] + run[width:]
        width *= 2
    return total


def _glass_density(darkest: NDArray[np.uint8], smooth: NDArray[np.bool_]) -> float:
    """Optical density of clear glass; that of white paper where no glass is in sight."""
    counts = np.zeros(256, np.int64)
    for band, _ in _bands(len(darkest)):  # `bincount` widens what it counts to eight bytes
        counts += np.bincount(darkest[band][smooth[band]], minlength=256)
    counts[:GLASS_FLOOR] = 0
    # Pure white is where the scanner did not look: it says nothing about the glass, if there is any glass.
    if counts[:255].sum() > 0.01 * darkest.size:
        counts[255] = 0
    level = int(np.searchsorted(np.cumsum(counts), 0.75 * counts.sum())) if counts.any() else 245
    return float(-np.log(level / 255))


def _glass(darkest: NDArray[np.uint8], smooth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Smooth areas no darker than smear, of which a tenth or more is clear glass."""
    clear = _glass_density(darkest, smooth)
    ground = smooth & (darkest >= _lightest(clear + SMEAR))
    areas = Components(ground)
    clean = areas.counts(ground & (darkest >= _lightest(clear + CLEAR)))
    return areas.painted(clean >= 0.1 * areas.sizes())


def _grown(glass: NDArray[np.bool_], darkest: NDArray[np.uint8], reach: int) -> NDArray[np.bool_]:
    """Glass and the pixels within `reach` px of it that are about as light as the glass they touch."""
    lightest = [_lightest(density + CLEAR) for density in _densities()[:0:-1]]
    below = np.array([255, *(max(intensity - 1, 0) for intensity in lightest)], np.uint8)
    grown = np.empty_like(glass)
    for band, rows in _bands(len(glass), reach, reach):
        # The darkest glass in reach, as 256 less its intensity; 0 where there is none. Bytes pass faster than floats.
        depths = np.where(glass[rows], -np.maximum(darkest[rows], 1), np.uint8(0))
        beside = _band_window(depths, 2 * reach + 1, np.maximum, reach, reach)
        grown[band] = glass[band] | (darkest[band] > below[beside])
    return grown


def _pen_marks(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Solid areas of ink, with the rim in which ink and ground mix.

    An area counts when it looks like ink throughout (colours that stain may have at the margin, too) and a quarter
    of it cannot be anything else.
    """
    step = max(1, round(PEN_STEP_UM / mpp))
    sure, possible = _ink(rgb[::step, ::step])
    areas = Components(_opened(possible, 2))
    sizes = areas.sizes()
    ink = areas.counts(areas.mask & sure) >= 0.25 * sizes
    ink &= sizes >= PEN_AREA_UM2 / (step * mpp) ** 2
    if not ink.any():
        return np.zeros(rgb.shape[:2], np.bool_)
    rim = _window(areas.painted(ink), 2 * round(WINDOW_UM / (step * mpp)) + 1, np.maximum)
    return np.asarray(rim.repeat(step, axis=0).repeat(step, axis=1)[: rgb.shape[0], : rgb.shape[1]])


def _ink(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where a picture (h, w, 3) surely and possibly has the colour of ink, (h, w) each; in bands of rows."""
    tables = [table.ravel() for table in _ink_colours()]
    sure, possible = (np.empty(rgb.shape[:2], np.bool_) for _ in tables)
    for band, _ in _bands(len(rgb)):
        red, green, blue = (rgb[band, :, channel].astype(np.int16) >> 3 for channel in range(3))
        colour = (red << 10) | (green << 5) | blue
        for where, table in zip((sure, possible), tables, strict=True):
            where[band] = table[colour]
    return sure, possible


def _ink_colours() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which colours are surely and which possibly ink, five bits a channel: (32, 32, 32) over red, green, blue.

    Haematoxylin absorbs green about as much as red, eosin and DAB far more; blue and green ink absorb red more than
    green. Red ink absorbs green and blue alike and hardly any red; eosin lets half the blue pass and DAB absorbs red
    too. Black and dark blue ink lets through less than tissue does on average over 8 um. The bounds lie beyond the
    99.9th percentile of the tissue of H&E and IHC slides.
    """
    level = np.arange(32) * 8 + 4
    red, green, blue = np.meshgrid(*[-np.log(np.minimum(level, 245) / 245)] * 3, indexing="ij")
    sure = (red > 0.35) & (red > 1.4 * green)
    sure |= (green > 0.9) & (blue > 0.8 * green) & (red < 0.3 * green)
    sure |= (green > 0.45) & (blue > 0.85 * green) & (red < 0.15 * green)
    sure |= (red > 1.7) & (green > 1.7)
    possible = (red > 0.3) & (red > 1.25 * green)
    possible |= (green > 0.5) & (blue > 0.7 * green) & (red < 0.3 * green)
    possible |= (red > 1.2) & (green > 1.2)
    return np.asarray(sure), np.asarray(sure | possible)


def _sizeable(mask: NDArray[np.bool_], area: float, core: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Keep components (4-connected) of at least `area` px that reach into `core`, a part of the mask, if given."""
    components = Components(mask)
    keep = components.sizes() >= area
    if core is not None:
        keep &= components.counts(core) > 0
    return components.painted(keep)


def _opened(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Keep what squares of `size` px inside `mask` cover; the mask goes on beyond the picture's edge."""
    core = _window(mask, size, np.minimum)
    return _window(core, size, np.maximum, late=True)


def _window(values: Array, size: int, pick: np.ufunc, *, late: bool = False) -> Array:
    """Minimum or maximum in a square window of `size` px, by doubling: log2(size) passes along each axis.

    A window of even size reaches one px further forward, or backward where `late`, so that a minimum followed by a
    late maximum is an opening.
    """
    before, after = (size - 1) // 2, size // 2
    if late:
        before, after = after, before
    found = np.empty_like(values)
    for band, rows in _bands(len(values), before, after):
        found[band] = _band_window(values[rows], size, pick, before, after)
    return found


def _band_window(band: Array, size: int, pick: np.ufunc, before: int, after: int) -> Array:
    """Minimum or maximum in the windows of a band, (h - size + 1, w), that comes with the rows around it."""
    across = np.pad(_runs_of(band, size, pick), ((0, 0), (before, after)), mode="edge")
    return _runs_of(across.swapaxes(0, 1), size, pick).swapaxes(0, 1)


def _runs_of(values: Array, size: int, pick: np.ufunc) -> Array:
    """Minimum or maximum of each run of `size` rows, (n - size + 1, m)."""
    run: Any = values
    done = 1
    while done < size:
        step = min(done, size - done)
        run = pick(run[:-step], run[step:])
        done += step
    return run  # type: ignore[no-any-return]
