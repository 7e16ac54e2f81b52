"""Write lists of patch features in the layouts of TRIDENT, CLAM and STAMP: names, types, attributes and folders.

Chunks hold many rows, not one as theirs do: readers do not notice, and files are smaller and faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from wsipipe.store.atomic import atomic_path
from wsipipe.store.feature_lists.base import Layout, ListHeader, Vectors
from wsipipe.store.hdf5 import new_hdf5

STAMP_VERSION = "2.1.0"  # the first with tile_size_um
_CHUNK_BYTES = 2**20


def list_paths(folder: Path, header: ListHeader, layout: Layout) -> tuple[Path, ...]:
    """Files of a list below a folder, the one with the features first, where the project looks for them."""
    if layout == "trident":
        magnification = f"{_whole(10 / (header.slide_mpp * header.scale)):g}x"
        home = folder / f"{magnification}_{header.patch_px}px_{header.overlap_px}px_overlap"
        features = home / f"features_{plain(header.encoder)}" / f"{header.slide}.h5"
        return features, home / "patches" / f"{header.slide}_patches.h5"
    if layout == "clam":
        return folder / "h5_files" / f"{header.slide}.h5", folder / "patches" / f"{header.slide}.h5"
    return (folder / plain(header.encoder) / f"{header.slide}.h5",)


def write_feature_list(folder: Path, header: ListHeader, vectors: Vectors, layout: Layout) -> tuple[Path, ...]:
    """Write a list, each file whole or not at all.

    Parameters
    ----------
    folder : Path
        TRIDENT: the job's folder; CLAM: that of features and of patches; STAMP: that of features.
    header : ListHeader
        What is written beside the vectors.
    vectors : callable
        Gives the vectors block by block.
    layout : {"trident", "clam", "stamp"}
        Whose.

    Returns
    -------
    tuple of Path
        The files, see `list_paths`.

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    paths = list_paths(folder, header, layout)
    if layout == "stamp":
        _write_stamp(paths[0], header, vectors)
        return paths
    trident = layout == "trident"
    corners = np.rint(header.corners).astype(np.int64)
    told = _trident_attributes(header, paths[1].parent) if trident else _clam_attributes(header, paths[1].parent)
    with atomic_path(paths[1]) as temporary, new_hdf5(temporary) as file:
        _dataset(file, "coords", corners, told)
    features = {"name": header.slide, "savetodir": str(paths[0].parent), "encoder": header.encoder}
    with atomic_path(paths[0]) as temporary, new_hdf5(temporary) as file:
        _stream(file, "features", header, vectors, np.float32, features if trident else {})
        _dataset(file, "coords", corners if trident else corners.astype(np.int32), told if trident else {})
    return paths


def plain(name: str) -> str:
    """Name of an encoder as a part of file names."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def _write_stamp(path: Path, header: ListHeader, vectors: Vectors) -> None:
    told = {
        "stamp_version": STAMP_VERSION,
        "extractor": header.encoder,
        "unit": "um",
        "tile_size_um": header.patch_px * header.scale * header.slide_mpp,
        "tile_size_px": header.patch_px,
        "code_hash": header.digest[:8],
        "feat_type": "tile",
    }
    with atomic_path(path) as temporary, new_hdf5(temporary) as file:
        file.attrs.update(told)
        _dataset(file, "coords", (header.corners * header.slide_mpp).astype(np.float32), {})
        _stream(file, "feats", header, vectors, np.float16, {})


def _trident_attributes(header: ListHeader, folder: Path) -> dict[str, Any]:
    width, height = header.slide_size
    return {
        "patch_size": header.patch_px,
        "patch_size_level0": round(header.patch_px * header.scale),
        "level0_magnification": _whole(10 / header.slide_mpp),
        "target_magnification": _whole(10 / (header.slide_mpp * header.scale)),
        "overlap": header.overlap_px,
        "name": header.slide,
        "savetodir": str(folder),
        "level0_width": width,
        "level0_height": height,
    }


def _clam_attributes(header: ListHeader, folder: Path) -> dict[str, Any]:
    """CLAM reads `patch_size` px at `patch_level`: level 0 is always there."""
    return {
        "patch_size": round(header.patch_px * header.scale),
        "patch_level": 0,
        "downsample": (1.0, 1.0),
        "downsampled_level_dim": header.slide_size,
        "level_dim": header.slide_size,
        "name": header.slide,
        "save_path": str(folder),
    }


def _dataset(file: Any, name: str, values: np.ndarray[Any, Any], attributes: Mapping[str, Any]) -> None:  # noqa: ANN401
    data = file.create_dataset(name, data=values, maxshape=(None, 2), chunks=_chunks(len(values), 2, values.itemsize))
    data.attrs.update(attributes)


def _stream(
    file: Any,  # noqa: ANN401
    name: str,
    header: ListHeader,
    vectors: Vectors,
    dtype: DTypeLike,
    attributes: Mapping[str, Any],
) -> None:
    count, size = len(header.corners), np.dtype(dtype).itemsize
    chunks = _chunks(count, header.dim, size)
    data = file.create_dataset(name, (count, header.dim), dtype, maxshape=(None, header.dim), chunks=chunks)
    start = 0
    for block in vectors():
        data[start : start + len(block)] = block
        start += len(block)
    data.attrs.update(attributes)


def _chunks(count: int, width: int, size: int) -> tuple[int, int]:
    return max(1, min(count, _CHUNK_BYTES // (width * size))), width


def _whole(value: float) -> float | int:
    """Make a whole number of what is one: TRIDENT writes integers."""
    return round(value) if abs(value - round(value)) < 1e-9 else value
