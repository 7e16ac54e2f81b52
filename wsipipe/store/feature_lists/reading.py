"""Read lists of patch features of TRIDENT, CLAM and STAMP; what is wrong with a file is told in one line.

Layouts
-------
TRIDENT
    `features` (N, D), attributes name, encoder; `coords` (N, 2) in level-0 px, attributes patch_size (target px),
    patch_size_level0, overlap (target px), target_magnification, level0_width, level0_height, name.
CLAM
    `features` (N, D), `coords` (N, 2) in level-0 px, mostly without attributes; with those of CLAM's patch files
    (patch_size in px of patch_level, downsample) their size is known.
STAMP
    `feats` (N, D), `coords` (N, 2) in um; attributes of the file: extractor, unit, tile_size_um (tile_size before
    2.1), tile_size_px.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import StoreError
from wsipipe.store.feature_info import FILE_TYPE
from wsipipe.store.feature_lists.base import FeatureList, Layout, ListFacts

_ROWS = 4096  # read at once
_KNOWN = "TRIDENT and CLAM have `features` and `coords`, STAMP `feats` and `coords`"
_WHOLE = "copy or make it again: it was cut off, or something else wrote it"


def read_feature_list(path: Path) -> FeatureList:
    """Read a list, whatever project wrote it.

    Parameters
    ----------
    path : Path
        The HDF5 file.

    Returns
    -------
    FeatureList

    Raises
    ------
    StoreError
        The file is missing, cut off, or no such list; shapes do not fit; a vector holds NaN, or more than float16.

    Notes
    -----
    Vectors are kept as float16, as in feature maps: two bytes per value are held.
    """
    with _opened(path) as file:
        layout = _layout_of(path, file)
        features, coords = file["feats" if layout == "stamp" else "features"], file["coords"]
        _check_shapes(path, features, coords)
        facts = _FACTS[layout](path, file)
        corners = np.asarray(coords, dtype=np.float64)
        if not np.isfinite(corners).all():
            raise StoreError("has coordinates that are no numbers", path=path, remedy=_WHOLE)
        return FeatureList(path, facts, corners, _vectors(path, features))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise StoreError("no such file", path=path, remedy="give feature lists of TRIDENT, CLAM or STAMP")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise StoreError(f"is cut off or no HDF5 file: {_one_line(error)}", path=path, remedy=_WHOLE) from error
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"has an attribute that cannot be used: {_one_line(error)}", path=path) from error


def _layout_of(path: Path, file: Any) -> Layout:  # noqa: ANN401 (h5py has no types)
    if file.attrs.get("type") == FILE_TYPE:
        raise StoreError("is a feature map of wsipipe", path=path, remedy="say --to trident, clam or stamp")
    sets = [name for name in ("features", "feats", "coords") if isinstance(file.get(name), h5py.Dataset)]
    if "coords" not in sets or len(sets) != 2:
        raise StoreError(f"is no feature list: it holds {', '.join(file) or 'nothing'}", path=path, remedy=_KNOWN)
    if "feats" in sets:
        return "stamp"
    return "trident" if "patch_size_level0" in file["coords"].attrs else "clam"


def _check_shapes(path: Path, features: Any, coords: Any) -> None:  # noqa: ANN401
    shapes = f"{features.name[1:]} {features.shape}, coords {coords.shape}"
    if features.ndim != 2 or coords.ndim != 2 or coords.shape != (len(features), 2) or not features.shape[1]:
        raise StoreError(f"has {shapes}", path=path, remedy="a list has features (N, D) and coords (N, 2)")
    if not len(features):
        raise StoreError("lists no patches", path=path, remedy="leave the slide out")
    if features.dtype.kind != "f" or coords.dtype.kind not in "fiu":
        raise StoreError(f"has {features.dtype} features and {coords.dtype} coordinates, not numbers", path=path)


def _vectors(path: Path, features: Any) -> NDArray[np.float16]:  # noqa: ANN401
    half = np.empty(features.shape, np.float16)
    for start in range(0, len(features), _ROWS):
        rows = np.asarray(features[start : start + _ROWS])
        with np.errstate(over="ignore"):
            half[start : start + _ROWS] = rows
        bad = np.flatnonzero(~np.isfinite(half[start : start + _ROWS]).all(axis=1))
        if len(bad):
            told = "NaN" if np.isnan(rows[bad[0]]).any() else "a value beyond what float16 holds (65504)"
            raise StoreError(f"has {told} in the features of patch {start + bad[0]}", path=path, remedy=_WHOLE)
    return half


def _trident(path: Path, file: Any) -> ListFacts:  # noqa: ANN401
    attributes = file["coords"].attrs
    folder = path.parent.name
    named = folder.removeprefix("features_") if folder.startswith("features_") else None
    return ListFacts(
        "trident",
        "px",
        patch=_number(attributes, "patch_size_level0"),
        patch_px=_whole(attributes, "patch_size"),
        overlap_px=_whole(attributes, "overlap"),
        slide_size=_size(attributes),
        magnification=_number(attributes, "target_magnification"),
        encoder=_text(file["features"].attrs, "encoder") or named,
        slide=_text(attributes, "name"),
    )


def _clam(_: Path, file: Any) -> ListFacts:  # noqa: ANN401
    attributes = file["coords"].attrs
    if "patch_size" not in attributes:
        return ListFacts("clam", "px")
    downsample = float(np.ravel(attributes.get("downsample", 1.0))[0])
    level = _whole(attributes, "patch_size")
    custom = _number(attributes, "custom_downsample") or 1.0
    return ListFacts(
        "clam",
        "px",
        patch=None if level is None else level * downsample * custom,
        patch_px=level,
        slide=_text(attributes, "name"),
    )


def _stamp(path: Path, file: Any) -> ListFacts:  # noqa: ANN401
    attributes = file.attrs
    unit = _text(attributes, "unit")
    if unit not in (None, "um"):
        raise StoreError(f"has coordinates in {unit!r}, not in um", path=path, remedy="extract with STAMP 2 again")
    side = _number(attributes, "tile_size_um") or (_number(attributes, "tile_size") if unit else None)
    if side is None:
        raise StoreError("does not say how large its tiles are", path=path, remedy="extract with STAMP 2 again")
    return ListFacts(
        "stamp",
        "um",
        patch=side,
        patch_px=_whole(attributes, "tile_size_px"),
        overlap_px=0,
        encoder=_text(attributes, "extractor"),
    )


_FACTS = {"trident": _trident, "clam": _clam, "stamp": _stamp}


def _number(attributes: Mapping[str, Any], key: str) -> float | None:
    if key not in attributes:
        return None
    value = float(attributes[key])
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{key} is {value}")
    return value


def _whole(attributes: Mapping[str, Any], key: str) -> int | None:
    value = _number(attributes, key)
    return None if value is None else round(value)


def _text(attributes: Mapping[str, Any], key: str) -> str | None:
    value = attributes.get(key)
    value = value.decode() if isinstance(value, bytes) else value
    return str(value) if value is not None and str(value) not in ("", "None", "none") else None


def _size(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = (_whole(attributes, key) for key in ("level0_width", "level0_height"))
    return (width, height) if width and height else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
