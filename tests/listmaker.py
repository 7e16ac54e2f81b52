"""Feature lists as TRIDENT, CLAM and STAMP write them: their names, types, attributes and one-row chunks."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def _rows(file: h5py.File, name: str, values: Array) -> h5py.Dataset:
    return file.create_dataset(name, data=values, maxshape=(None, values.shape[1]), chunks=(1, values.shape[1]))


def write_trident(
    path: Path,
    features: Array,
    coords: Array,
    *,
    size: tuple[int, int],
    patch: int = 64,
    overlap: int = 0,
    level0: int = 128,
    encoder: str | None = "uni_v1",
) -> Path:
    """A TRIDENT list of patches of `patch` px at 10x on a slide of 20x; `level0` px of the finest level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = _rows(file, "features", features.astype(np.float32))
        data.attrs.update({"name": path.stem, "savetodir": str(path.parent)})
        if encoder:
            data.attrs["encoder"] = encoder
        attributes = {
            "patch_size": patch,
            "patch_size_level0": level0,
            "level0_magnification": 20,
            "target_magnification": 10,
            "overlap": overlap,
            "name": path.stem,
            "savetodir": str(path.parent),
            "level0_width": size[0],
            "level0_height": size[1],
        }
        _rows(file, "coords", coords.astype(np.int64)).attrs.update(attributes)
    return path


def write_clam(path: Path, features: Array, coords: Array) -> Path:
    """A CLAM list: it says nothing of itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        _rows(file, "features", features.astype(np.float32))
        _rows(file, "coords", coords.astype(np.int32))
    return path


def write_stamp(path: Path, features: Array, coords_um: Array, *, tile_um: float = 64.0, tile_px: int = 64) -> Path:
    """A STAMP list; places in um."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = coords_um.astype(np.float32)
        file["feats"] = features.astype(np.float16)
        told = {"stamp_version": "2.4.0", "extractor": "ctranspath", "unit": "um", "tile_size_um": tile_um}
        file.attrs.update(told | {"tile_size_px": tile_px, "code_hash": "0123abcd", "feat_type": "tile"})
    return path


def patches(rows: int, cols: int, *, step: float, dim: int = 6, keep: float = 0.8, seed: int = 0) -> tuple[Array, ...]:
    """Some patches of a grid in random order: cells (n, 2), corners (x, y) and vectors whose first two are the cell."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(np.argwhere(rng.random((rows, cols)) < keep))
    features = np.concatenate([cells, rng.normal(size=(len(cells), dim - 2))], axis=1)
    return cells, cells[:, ::-1] * step, features.astype(np.float32)
