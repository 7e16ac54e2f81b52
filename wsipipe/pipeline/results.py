"""The files of a segmented slide: mask, probability, GeoJSON, overlay and report, all telling the same.

The probability raster comes first; the masks, the polygons, the overlay and the areas are all derived from it as it
was written, so that they cannot disagree.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe._version import __version__
from wsipipe.annotations.classes import TissueClass
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.regrid import Band, raster_grid, regrid_bands, sample_nearest
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.calibrated_area import Calibrated, interval_told
from wsipipe.pipeline.class_bands import ClassBands
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.overlay import draw_overlay
from wsipipe.pipeline.regions import regions_of
from wsipipe.pipeline.write_behind import WriteBehind
from wsipipe.slides import SlideReader
from wsipipe.store.geojson import write_geojson
from wsipipe.store.images import write_png
from wsipipe.store.raster import as_mask, iter_bands, write_pyramid
from wsipipe.store.staging import staged
from wsipipe.store.tables import read_json, write_json

_OVERLAY = ".overlay.png"
SUFFIXES = (
    ".mask.tif",
    ".mask.ome.tif",
    ".probability.tif",
    ".geojson",
    _OVERLAY,
    ".report.json",
)
_BAND_ROWS = 512
# Rows that are resampled at once, in several arrays of floats: for a whole band they would grow with the slide's width
# to far more than what they become.
_DRAWN_ROWS = 64
_FORMAT = "wsipipe.result"


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a slide, before it becomes files.

    Parameters
    ----------
    grid : CellGrid
        Map that `bands` covers.
    bands : iterator of ((n, cols) float32, (n, cols) bool)
        Probability of being in target (of K classes, (n, cols, K) float32), and validity, of consecutive rows; read
        once.
    tissue : Tissue
        Outside of it nothing is in target.
    threshold : float
        Smallest probability in the mask.
    class_name : str
        Of the target.
    offset : (float, float)
        Subtracted from the coordinates of the GeoJSON (the slide's bounds, unless `--no-crop`).
    classes : tuple of TissueClass
        Where several are told apart: in the order of their probabilities. The most probable one counts, whatever the
        threshold.
    calibrated : Calibrated or None
        What a trained model knows of its probabilities; the report then gives an interval of the area.
    """

    grid: CellGrid
    bands: Iterator[Band]
    tissue: Tissue
    threshold: float = 0.5
    class_name: str = "Tumor"
    offset: tuple[float, float] = (0.0, 0.0)
    classes: tuple[TissueClass, ...] = ()
    calibrated: Calibrated | None = None


@dataclass(frozen=True)
class UnseenSlide:
    """What is known of a slide that is not at hand: enough for everything but its picture.

    Parameters
    ----------
    path : Path
        File that tells it.
    dimensions : (int, int)
        (width, height) in level-0 px.
    mpp : float or None
        um per level-0 px.
    mpp_source : str
        Where `mpp` comes from.
    """

    path: Path
    dimensions: tuple[int, int]
    mpp: float | None
    mpp_source: str


def result_paths(folder: Path, key: str, *, overlay: bool = True) -> tuple[Path, ...]:
    """Files of a slide, in the order of `SUFFIXES`; without a slide at hand there is no overlay."""
    return tuple(folder / f"{key}{suffix}" for suffix in SUFFIXES if overlay or suffix != _OVERLAY)


def settled(folder: Path, key: str, provenance: Mapping[str, object], *, overlay: bool = True) -> SlideOutcome | None:
    """Tell of a slide whose files are up to date; None where there is work to do."""
    if not is_written(folder, key, provenance, overlay=overlay):
        return None
    return SlideOutcome(key, "skipped", "mask is up to date", result_paths(folder, key, overlay=overlay))


def settle(
    folder: Path,
    key: str,
    slide: SlideReader | UnseenSlide,
    segmentation: Segmentation,
    *,
    provenance: Mapping[str, object],
    details: Mapping[str, object] | None = None,
) -> SlideOutcome:
    """Write every file of a slide and tell of it; see `write_results`."""
    told = write_results(folder, key, slide, segmentation, provenance=provenance, details=details)
    paths = result_paths(folder, key, overlay=not isinstance(slide, UnseenSlide))
    return SlideOutcome(key, "done", area_line(told), paths)


def in_bands(values: NDArray[np.float32], valid: NDArray[np.bool_], *, rows: int = 256) -> Iterator[Band]:
    """Cut a map in memory, (rows, cols), and its valid cells into bands for `Segmentation`."""
    return ((values[start : start + rows], valid[start : start + rows]) for start in range(0, len(values), rows))


def is_written(folder: Path, key: str, provenance: Mapping[str, object], *, overlay: bool = True) -> bool:
    """Whether all files of a slide are there, whole, and come from the same settings and content."""
    paths = result_paths(folder, key, overlay=overlay)
    if not all(path.is_file() for path in paths):
        return False
    try:
        report = read_json(paths[-1])
    except StoreError:  # damaged: it is made again
        return False
    return report.get("type") == _FORMAT and report.get("provenance") == dict(provenance)


def bounds_offset(reader: SlideReader) -> tuple[float, float]:
    """Corner of the scanned area in level-0 px: the origin of QuPath's coordinates."""
    return float(reader.bounds.x), float(reader.bounds.y)


def area_line(report: Mapping[str, Any]) -> str:
    """Tell in one line what a report says of the target, or of each class."""
    return "; ".join(_area_of(name, told, report["tissue_mm2"]) for name, told in report["classes"].items())


def _area_of(name: str, told: Mapping[str, Any], tissue_mm2: float | None) -> str:
    regions = f"{told['regions']} regions of {name}"
    if told["area_mm2"] is None:
        return f"{regions}, {told['pixels']} px"
    share = f", {told['area_mm2'] / tissue_mm2:.0%} of the tissue" if tissue_mm2 else ""
    interval = f" (95%: {told['area_low_mm2']:.3f} to {told['area_high_mm2']:.3f})" if "area_low_mm2" in told else ""
    return f"{regions}, {told['area_mm2']:.3f} mm2{interval}{share}"


def write_results(
    folder: Path,
    key: str,
    reader: SlideReader | UnseenSlide,
    segmentation: Segmentation,
    *,
    provenance: Mapping[str, object],
    details: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Write every file of a slide, all or none.

    Parameters
    ----------
    folder : Path
        Where the files go.
    key : str
        Slide key that names them.
    reader : SlideReader or UnseenSlide
        The slide. Without its pixels no overlay is written, and one of a former run is removed.
    segmentation : Segmentation
        What the model says.
    provenance : mapping
        JSON-able settings and digests by which `is_written` recognises the work.
    details : mapping, optional
        JSON-able: what the model has to say of itself, added to the report.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    StoreError
        Something cannot be written; files of a former run stay as they were, unless the last step, putting the new
        ones in their place, is cut short: then the report, by which finished work is known, is missing.
    """
    width, height = reader.dimensions
    raster = raster_grid(width, height, segmentation.grid.cell_px)
    mpp, classes = None if reader.mpp is None else reader.mpp * raster.cell_px, segmentation.classes
    with staged(folder, key=key, mark=SUFFIXES[-1]) as stage:
        mask, mask_ome, probability, geojson, overlay, report = result_paths(stage, key)
        calibrated = segmentation.calibrated
        about = "" if calibrated is None else calibrated.about
        drawn = _probability_bands(segmentation, raster)
        write = functools.partial(write_pyramid, grid=raster, mpp=mpp, classes=classes)
        write(probability, drawn, flavour="plain", reduce="mean", about=about)
        masks = ClassBands(probability, classes) if classes else _MaskBands(probability, segmentation)
        with WriteBehind() as beside:
            beside.put(lambda: write(mask, iter(masks), flavour="plain", reduce="nearest"))
            beside.put(lambda: write(mask_ome, iter(masks), flavour="ome", reduce="nearest"))
            regions = masks.regions(raster, reader.mpp)
            write_geojson(geojson, regions, offset=segmentation.offset, slide=key)
            if not isinstance(reader, UnseenSlide):
                write_png(overlay, draw_overlay(reader, regions))
        told = _report(key, reader, segmentation, raster, masks.figures(regions))
        if calibrated is not None:
            _add_interval(told, calibrated, segmentation, raster, mpp, probability)
        told |= {**(details or {}), "provenance": dict(provenance)}
        write_json(report, told)
        if isinstance(reader, UnseenSlide):
            (folder / overlay.name).unlink(missing_ok=True)
    return told


class _MaskBands:
    """The mask, read from the probability raster as often as somebody needs it."""

    def __init__(self, probability: Path, segmentation: Segmentation) -> None:
        self._path, self._class_name = probability, segmentation.class_name
        # The raster holds round(255 p): the mask is what a reader of that file gets with the same threshold.
        self._least = segmentation.threshold * 255

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (as_mask(band >= self._least) for band in iter_bands(self._path, _BAND_ROWS))

    def regions(self, grid: CellGrid, mpp: float | None) -> list[OutlinedRegion]:
        """Regions in target, see `regions_of`."""
        probability = iter_bands(self._path, _BAND_ROWS)
        return regions_of(self, grid, class_name=self._class_name, mpp=mpp, probability=probability)

    def figures(self, regions: Sequence[OutlinedRegion]) -> dict[str, dict[str, Any]]:
        """Tell a report of the target: regions and pixels."""
        pixels = sum(int(np.count_nonzero(band)) for band in self)
        return {self._class_name: {"regions": len(regions), "pixels": pixels}}


def _probability_bands(segmentation: Segmentation, raster: CellGrid) -> Iterator[NDArray[np.uint8]]:
    start = 0
    for band in regrid_bands(segmentation.bands, segmentation.grid, raster, band_rows=_DRAWN_ROWS):
        rows = slice(start, start + len(band))
        tissue = sample_nearest(segmentation.tissue.mask, segmentation.tissue.grid, raster, rows)
        tissue = tissue.reshape(*tissue.shape, *(1 for _ in band.shape[2:]))
        yield np.rint(np.where(tissue, band, 0) * 255).astype(np.uint8)
        start = rows.stop


def _add_interval(
    report: dict[str, Any],
    calibrated: Calibrated,
    segmentation: Segmentation,
    raster: CellGrid,
    mpp: float | None,
    probability: Path,
) -> None:
    """Add the interval of the area, and what is known of the calibration, to a report."""
    bands = iter_bands(probability, _BAND_ROWS)
    if calibrated.refined:
        bands = _probability_bands(replace(segmentation, bands=iter(calibrated.before)), raster)
    area, report["calibration"] = interval_told(calibrated, raster, mpp, bands)
    report["classes"][segmentation.class_name] |= area


def _report(
    key: str,
    reader: SlideReader | UnseenSlide,
    segmentation: Segmentation,
    raster: CellGrid,
    classes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    pixel_mm2 = None if reader.mpp is None else (raster.cell_px * reader.mpp / 1000) ** 2
    tissue_px = segmentation.tissue.area_px(*reader.dimensions)
    tissue_mm2 = None if reader.mpp is None else tissue_px * (reader.mpp / 1000) ** 2
    return {
        "type": _FORMAT,
        "version": 1,
        "slide": key,
        "path": str(reader.path),
        "size_px": list(reader.dimensions),
        "mpp": reader.mpp,
        "mpp_source": reader.mpp_source,
        "raster": {"rows": raster.rows, "cols": raster.cols, "downsample": raster.cell_px},
        "cell_px": segmentation.grid.cell_px,
        "threshold": None if segmentation.classes else segmentation.threshold,
        "classes": {
            name: {**told, "area_mm2": None if pixel_mm2 is None else told["pixels"] * pixel_mm2}
            for name, told in classes.items()
        },
        "tissue_mm2": tissue_mm2,
        "geojson_frame": {"unit": "level-0 px", "origin": list(segmentation.offset)},
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wsipipe": __version__,
    }
