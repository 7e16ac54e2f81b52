"""The `export` command: a finished mask in the formats of other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.classes import TissueClass
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import ConfigError, ResolutionError, StoreError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.class_bands import BAND_ROWS, class_regions
from wsipipe.pipeline.evaluation_pairs import file_key
from wsipipe.pipeline.mask_extent import mask_extent, report_beside
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.regions import regions_of
from wsipipe.pipeline.results import bounds_offset
from wsipipe.slides import find_slide, is_dicom, open_slide, series_files
from wsipipe.store.asap import write_asap
from wsipipe.store.dicom_seg import write_dicom_seg
from wsipipe.store.geojson import write_geojson
from wsipipe.store.geopackage import write_geopackage
from wsipipe.store.geoparquet import write_geoparquet
from wsipipe.store.label_raster import LabelRaster
from wsipipe.store.raster import iter_bands, own_raster_info, raster_info

FORMATS: Mapping[str, str] = {
    "geojson": ".geojson",
    "geojson.gz": ".geojson.gz",
    "asap": ".xml",
    "gpkg": ".gpkg",
    "parquet": ".parquet",
    "dicom-seg": ".seg.dcm",
}
"""Endings of the files, by the names that `--to` takes."""

DEFAULT_CLASS = "Tumor"
_MASK = ".mask.tif"


@dataclass(frozen=True)
class Exporting:
    """How masks are exported.

    Parameters
    ----------
    formats : tuple of str
        Of `FORMATS`.
    class_name : str or None
        Class of the regions; None: what the mask or the report beside it says, else "Tumor".
    simplify_um : float
        Corners that stand out by less go, see `simplify_outlines`; 0 keeps the pixels' edges.
    slide : Path or None
        The slide, or a folder that holds it: for masks of other programs it says where their pixels lie, for DICOM
        what to refer to. None: as the report says, if there is one.
    slide_mpp : float or None
        um per level-0 px, for masks whose file does not say.
    crop : bool
        GeoJSON relative to the slide's bounds, as QuPath shows it.
    reader : str
        Slide library.

    Raises
    ------
    ConfigError
        A format is unknown, none is given, or the simplification is negative.
    """

    formats: tuple[str, ...]
    class_name: str | None = None
    simplify_um: float = 0.0
    slide: Path | None = None
    slide_mpp: float | None = None
    crop: bool = True
    reader: str = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            told = f"unknown format {unknown[0]!r}" if unknown else "no format to export to"
            raise ConfigError(told, remedy=f"give one or more of {', '.join(FORMATS)}")
        if self.simplify_um < 0:
            raise ConfigError(f"--simplify {self.simplify_um:g} must not be negative")


def list_masks(inputs: Sequence[Path]) -> list[Path]:
    """Masks among files and folders; of a folder, the plain masks that `predict` and `segment` write.

    Raises
    ------
    ConfigError
        A folder holds none, or two masks are of one slide.
    """
    found: list[Path] = []
    for place in inputs:
        masks = sorted(place.glob(f"*{_MASK}")) if place.is_dir() else [place]
        if not masks:
            raise ConfigError(f"holds no *{_MASK}", path=place, remedy="give masks, or masks/ of a project folder")
        found += masks
    keys = [file_key(path) for path in found]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"two masks are of slide {twice!r}", remedy="export them to different folders")
    return found


def export_many(masks: Sequence[Path], folder: Path, how: Exporting) -> list[SlideOutcome]:
    """Export every mask; one that cannot be read does not stop the others.

    Raises
    ------
    ConfigError
        One slide is given for several masks.
    """
    if len(masks) > 1 and how.slide is not None and how.slide.is_file():
        problem = f"is one slide for {len(masks)} masks"
        raise ConfigError(problem, path=how.slide, remedy="give a folder of slides, named like the masks")
    return [_guarded(path, folder, how) for path in masks]


def _guarded(path: Path, folder: Path, how: Exporting) -> SlideOutcome:
    try:
        return export_mask(path, folder, how)
    except WsipipeError as error:
        return SlideOutcome(file_key(path), "failed", str(error))


def export_mask(path: Path, folder: Path, how: Exporting) -> SlideOutcome:
    """Write one mask in every format asked for.

    Parameters
    ----------
    path : Path
        A mask that `predict`, `segment` or `cvm` wrote, which knows its place and resolution; or any picture of labels
        (not zero is inside) that covers the slide.
    folder : Path
        Gets `<slide>` with the endings of `FORMATS`.
    how : Exporting
        Formats and options.

    Raises
    ------
    WsipipeError
        The mask or the slide cannot be read, a resolution is missing, or a file cannot be written.
    """
    mask = FinishedMask(path, how)
    regions = [] if set(how.formats) == {"dicom-seg"} else mask.regions(how)
    outputs = []
    for name in how.formats:
        output = folder / f"{mask.key}{FORMATS[name]}"
        _write(name, output, mask, regions)
        outputs.append(output)
    names = ", ".join(of.name for of in mask.classes) or mask.class_name
    told = f"{len(regions)} regions of {names}" if regions else names
    return SlideOutcome(mask.key, "done", told, tuple(outputs))


class FinishedMask:
    """A mask on disk, its pixels over the slide, and what is known of the slide.

    Parameters
    ----------
    path : Path
        See `export_mask`.
    how : Exporting
        What the user says of it.

    Raises
    ------
    WsipipeError
        As `export_mask`.
    """

    def __init__(self, path: Path, how: Exporting) -> None:
        self.path, self.key = path, file_key(path)
        self._how = how
        self._report = report_beside(path, self.key)
        told = next(iter(self._report.get("classes", ())), DEFAULT_CLASS)
        self.class_name = how.class_name or told
        raster = LabelRaster(path)  # refuses what is no mask
        self.classes: tuple[TissueClass, ...] = ()
        info = own_raster_info(path)
        self._ours = info is not None
        if info is None:
            self.grid, self.mpp, self.offset = self._of_slide(raster, how)
        else:
            self.grid, self.classes = info.grid, info.classes
            self.mpp = how.slide_mpp or (None if info.mpp is None else info.mpp / info.grid.cell_px)
            x, y = self._report.get("geojson_frame", {}).get("origin", (0.0, 0.0))
            self.offset = (float(x), float(y))
        if not how.crop:
            self.offset = (0.0, 0.0)
        if self.classes and how.class_name is not None:
            names = ", ".join(of.name for of in self.classes)
            raise ConfigError(f"holds the classes {names}, not one to be named", path=path, remedy="leave out --class")

    def _of_slide(self, raster: LabelRaster, how: Exporting) -> tuple[CellGrid, float | None, tuple[float, float]]:
        """Place of a mask that does not know it: all of the slide; without a slide, its own pixels."""
        if how.slide is None:
            return CellGrid(raster.rows, raster.cols, 1.0), how.slide_mpp, (0.0, 0.0)
        with open_slide(find_slide(how.slide, self.key), mpp=how.slide_mpp, reader=how.reader) as slide:
            dimensions, mpp, offset = slide.dimensions, slide.mpp, bounds_offset(slide)
        extent = mask_extent(self.path, (raster.rows, raster.cols), dimensions)
        return CellGrid(raster.rows, raster.cols, extent.step[0]), mpp, offset

    @cached_property
    def slide(self) -> Path | None:
        """The slide, where anybody says which it is."""
        if self._how.slide is not None:
            return find_slide(self._how.slide, self.key)
        told = self._report.get("path")
        return Path(told) if told else None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Rows of the mask in bands; as often as somebody needs them."""
        return iter_bands(self.path, BAND_ROWS) if self._ours else LabelRaster(self.path).bands()

    def _probability(self) -> Path | None:
        path = self.path.with_name(f"{self.key}.probability.tif")
        if not self._ours or not path.is_file():
            return None
        info = raster_info(path)
        if info.grid != self.grid or info.classes != self.classes:
            raise StoreError("lies on other pixels than the mask", path=path, remedy="predict again")
        return path

    def regions(self, how: Exporting) -> list[OutlinedRegion]:
        """Regions of the mask, see `regions_of`.

        Raises
        ------
        ResolutionError
            They are to be simplified by um, and nobody says how large a pixel is.
        """
        if how.simplify_um and self.mpp is None:
            raise ResolutionError("has no resolution to simplify by", path=self.path, remedy="give --slide-mpp")
        simplify_px, probability = how.simplify_um / (self.mpp or 1.0), self._probability()
        if self.classes:
            return class_regions(
                self, self.grid, self.classes, mpp=self.mpp, probability=probability, simplify_px=simplify_px
            )
        return regions_of(
            self,
            self.grid,
            class_name=self.class_name,
            mpp=self.mpp,
            probability=None if probability is None else iter_bands(probability, BAND_ROWS),
            simplify_px=simplify_px,
        )


def _write(name: str, path: Path, mask: FinishedMask, regions: Sequence[OutlinedRegion]) -> None:
    match name:
        case "geojson" | "geojson.gz":
            write_geojson(path, regions, offset=mask.offset, slide=mask.key)
        case "asap":
            write_asap(path, regions)
        case "gpkg":
            write_geopackage(path, regions, slide=mask.key)
        case "parquet":
            write_geoparquet(path, regions, slide=mask.key)
        case _:
            _write_dicom(path, mask)


def _write_dicom(path: Path, mask: FinishedMask) -> None:
    if mask.classes:
        told = f"a DICOM segmentation is written of one class, the mask has {len(mask.classes)}"
        raise StoreError(told, path=path, remedy="export to another format")
    slide = mask.slide
    if slide is None or not slide.exists():
        told = "no slide is given" if slide is None else f"{slide} is not there"
        raise StoreError(f"a DICOM segmentation refers to its slide: {told}", path=path, remedy="give --slide")
    files = series_files(slide)
    if not is_dicom(files[0]):
        remedy = "export to another format"
        raise StoreError(
            f"a DICOM segmentation refers to a DICOM slide; {slide.name} is none", path=path, remedy=remedy
        )
    pixels = np.concatenate([band != 0 for band in mask])
    write_dicom_seg(path, pixels, mask.grid, slide_files=files, class_name=mask.class_name)
