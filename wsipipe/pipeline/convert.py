"""The `convert` command's work on one file: feature lists of TRIDENT, CLAM and STAMP to feature maps, and back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import ResolutionError, StoreError
from wsipipe.pipeline.list_geometry import Placed, Scale, Told, find_scale, place_patches
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.progress import Progress, Report, silent
from wsipipe.slides import SlideEntry, list_slides, open_slide, slide_identity
from wsipipe.store.feature_lists import (
    FeatureList,
    Layout,
    ListHeader,
    read_feature_list,
    write_feature_list,
)
from wsipipe.store.feature_map import FeatureMap, FeatureMapInfo, FeatureMapWriter, chunk_side, is_finished

# Raised whenever the same list and flags begin to give other maps.
REVISION = 1
UNKNOWN_WEIGHTS = "unknown"


@dataclass(frozen=True)
class ListOptions:
    """What the user adds to a list.

    Parameters
    ----------
    told : Told
        Sizes and resolutions.
    slide : Path or None
        The slide, or a folder that holds it.
    encoder : str or None
        What computed the features, where the list does not say.
    reader : str
        Slide library.
    """

    told: Told = field(default_factory=Told)
    slide: Path | None = None
    encoder: str | None = None
    reader: str = "auto"


def import_list(
    entry: SlideEntry, *, out: Path, options: ListOptions, force: bool = False, report: Report = silent
) -> SlideOutcome:
    """Make a feature map of a list.

    Parameters
    ----------
    entry : SlideEntry
        The list; its key names slide and map.
    out : Path
        Project folder; the map goes to its `features`.
    options : ListOptions
        What the list does not say.
    force : bool
        Do again what is finished.
    report : Report
        Told the blocks done and to do, stage "convert".

    Returns
    -------
    SlideOutcome
        `outputs[0]` is the path of the map.

    Raises
    ------
    StoreError, ResolutionError
        The list is damaged, lies on no grid, or lacks something that a flag must say.
    SlideError
        The slide cannot be read.

    Notes
    -----
    Memory holds the list's vectors in float16, two bytes per value.
    """
    listed = read_feature_list(entry.path)
    told, identity = _with_slide(entry, options)
    scale = find_scale(listed, told)
    placed = place_patches(listed, scale, told)
    info = _info(entry.key, listed, placed, scale, options, told, identity)
    path = out / "features" / _tag(info, listed.facts.layout, scale) / f"{entry.key}.h5"
    if not force and is_finished(path, info):
        return SlideOutcome(entry.key, "skipped", "feature map is up to date", (path,))
    _write_map(path, info, listed, placed, report)
    count, lost = len(listed.features) - placed.left_out, placed.left_out
    message = f"{count} patches of {listed.facts.layout} on {placed.grid.rows} x {placed.grid.cols} cells"
    message += f", {lost} left out where others are nearer" if lost else ""
    return SlideOutcome(entry.key, "done", message, (path,))


def _with_slide(entry: SlideEntry, options: ListOptions) -> tuple[Told, str]:
    """Add what the slide says, if there is one, and give an identity: the slide's, else the list's."""
    told = options.told
    if options.slide is None:
        return told, f"list-{slide_identity(entry.path)}"
    path = _slide_of(options.slide, entry.key)
    with open_slide(path, mpp=told.slide_mpp, reader=options.reader) as slide:
        return replace(told, slide_size=slide.dimensions, slide_mpp=slide.mpp), slide_identity(path)


def _slide_of(slide: Path, key: str) -> Path:
    if not slide.is_dir():
        return slide
    found = [entry.path for entry in list_slides([slide]) if entry.key == key]
    if not found:
        raise StoreError(f"holds no slide {key!r}", path=slide, remedy="lists are named like their slides")
    return found[0]


def _info(
    key: str,
    listed: FeatureList,
    placed: Placed,
    scale: Scale,
    options: ListOptions,
    told: Told,
    identity: str,
) -> FeatureMapInfo:
    facts = listed.facts
    encoder = options.encoder or facts.encoder
    if encoder is None:
        raise StoreError("does not say which encoder made it", path=listed.path, remedy="--encoder NAME")
    size = told.slide_size or facts.slide_size
    assert size is not None  # place_patches has seen to it
    settings = {
        "revision": REVISION,
        "tile": {"mpp": scale.mpp, "patch_size_px": scale.patch_px, "overlap_px": placed.overlap_px},
        "list": {"layout": facts.layout, "content": slide_identity(listed.path), "told": asdict(options.told)},
    }
    return FeatureMapInfo(
        grid=placed.grid,
        dim=listed.features.shape[1],
        kind="patch",
        encoder=encoder,
        weights_digest=UNKNOWN_WEIGHTS,
        mpp=scale.mpp,
        stride_px=placed.stride_px,
        slide=key,
        slide_identity=identity,
        slide_mpp=scale.slide_mpp,
        slide_size=size,
        settings=settings,
        settings_digest=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
    )


def _tag(info: FeatureMapInfo, layout: Layout, scale: Scale) -> str:
    """Name of a family of maps, for people, as `feature_plan.feature_tag`."""
    overlap = f"-overlap{scale.patch_px - info.stride_px}" if scale.patch_px != info.stride_px else ""
    encoder = re.sub(r"[^A-Za-z0-9_.]+", "_", info.encoder)
    return f"{encoder}-{layout}-patch-{scale.patch_px}px{overlap}-{scale.mpp:.4g}mpp"


def _write_map(path: Path, info: FeatureMapInfo, listed: FeatureList, placed: Placed, report: Report) -> None:
    with FeatureMapWriter.open(path, info, block=chunk_side(info)) as writer:
        total = writer.n_blocks
        for i, j in writer.blocks:
            index = placed.index[writer.block_slices(i, j)]
            valid = index >= 0
            values = np.zeros((*index.shape, info.dim), np.float16) if valid.any() else None
            if values is not None:
                values[valid] = listed.features[index[valid]]
            writer.write_block(i, j, values, valid)
            report(Progress(info.slide, "convert", i * -(-placed.grid.cols // chunk_side(info)) + j + 1, total))
        writer.finish()


def export_map(
    entry: SlideEntry, *, out: Path, layout: Layout, slide_mpp: float | None = None, report: Report = silent
) -> SlideOutcome:
    """Write a feature map as a list of another project.

    Parameters
    ----------
    entry : SlideEntry
        The map.
    out : Path
        Folder that the project's own files and folders go to.
    layout : {"trident", "clam", "stamp"}
        Whose.
    slide_mpp : float, optional
        um per level-0 px, where the map knows none.
    report : Report
        Told the rows of the map done and to do, stage "convert".

    Returns
    -------
    SlideOutcome
        `outputs` are the files.

    Raises
    ------
    StoreError
        The map is damaged or empty, or a file cannot be written.
    ResolutionError
        No resolution is known.
    """
    with FeatureMap.open(entry.path) as features:
        valid = features.read_valid(slice(None), slice(None))
        if not valid.any():
            raise StoreError("holds no cell with features", path=entry.path)
        header = _header(features.info, valid, slide_mpp, entry.path)
        paths = write_feature_list(out, header, lambda: _vectors(features, valid, report), layout)
    return SlideOutcome(entry.key, "done", f"{len(header.corners)} patches for {layout}", paths)


def _header(info: FeatureMapInfo, valid: NDArray[np.bool_], slide_mpp: float | None, path: Path) -> ListHeader:
    mpp = info.slide_mpp or slide_mpp
    if mpp is None:
        raise ResolutionError("does not know the slide's resolution", path=path, remedy="--slide-mpp")
    tile = info.settings.get("tile", {}) if info.kind == "patch" else {}
    patch_px = int(tile.get("patch_size_px", info.stride_px))
    scale = info.grid.cell_px / info.stride_px
    # A cell shares its centre with its patch, which may be larger.
    corners = info.grid.centres(np.argwhere(valid)) - patch_px * scale / 2
    return ListHeader(
        slide=info.slide,
        encoder=info.encoder,
        slide_size=info.slide_size,
        slide_mpp=mpp,
        scale=scale,
        patch_px=patch_px,
        overlap_px=patch_px - info.stride_px,
        dim=info.dim,
        corners=corners,
        digest=info.settings_digest,
    )


def _vectors(features: FeatureMap, valid: NDArray[np.bool_], report: Report) -> Iterator[NDArray[np.float32]]:
    """Vectors of the valid cells row by row, a band of chunks at a time."""
    step, rows = chunk_side(features.info), len(valid)
    for start in range(0, rows, step):
        band = slice(start, min(start + step, rows))
        if valid[band].any():
            yield features.read(band, slice(None))[valid[band]]
        report(Progress(features.info.slide, "convert", band.stop, rows))
