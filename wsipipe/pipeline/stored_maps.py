"""Feature maps that stand for their slides: which they are, and what can be told without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wsipipe.errors import StoreError
from wsipipe.slides import SlideEntry
from wsipipe.slides.map_slide import MapSlide
from wsipipe.store.feature_map import FeatureMap, FeatureMapInfo
from wsipipe.store.tile_file import TileInfo, read_tile_info

SUFFIX = ".h5"


def is_stored_map(path: Path) -> bool:
    """Whether a file that stands where slides do is a feature map, by its name: no slide ends so."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def list_maps(inputs: Sequence[Path]) -> list[SlideEntry]:
    """Feature maps among files and folders; the key of each is the stem of its file.

    Raises
    ------
    StoreError
        No maps at all, or two that would write the same files.
    """
    files = [file for given in inputs for file in (sorted(given.glob(f"*{SUFFIX}")) if given.is_dir() else [given])]
    entries = {file.absolute(): SlideEntry(file.stem, file.absolute()) for file in files}
    if not entries:
        raise StoreError(f"no feature maps in {', '.join(map(str, inputs))}", remedy="run `wsipipe extract` first")
    by_key: dict[str, Path] = {}
    for path, entry in entries.items():
        if by_key.setdefault(entry.key, path) != path:
            told = f"{by_key[entry.key]} and {path} would both write outputs called {entry.key!r}"
            raise StoreError(told, remedy="give them one at a time, with an --output each")
    return list(entries.values())


def describe_stored(path: Path) -> dict[str, object]:
    """Tell what a feature map or tile file of ours is, in JSON types: of which slide, its cells and resolution.

    Raises
    ------
    StoreError
        The file is missing, damaged, or none of ours.
    """
    try:
        info: FeatureMapInfo | TileInfo = FeatureMap.open(path).info
    except StoreError as error:
        try:
            info = read_tile_info(path)
        except StoreError:
            raise error from None
    told = asdict(info)
    kind = "feature map" if isinstance(info, FeatureMapInfo) else "tile file"
    common = ("slide", "slide_identity", "slide_mpp", "mpp")
    own = ("kind", "encoder", "dim", "stride_px") if kind == "feature map" else ("patch_size_px", "overlap_px")
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "holds": f"{kind} of wsipipe",
        **{name: told[name] for name in (*common, *own)},
        "width": info.slide_size[0],
        "height": info.slide_size[1],
        **{name: told["grid"][name] for name in ("rows", "cols", "cell_px")},
    }


def stand_in(features: FeatureMap) -> MapSlide:
    """Show a map as a slide without pixels: its cells grey.

    Raises
    ------
    StoreError
        The map is damaged, or holds no cell with features.
    """
    info, valid = features.info, features.read_valid(slice(None), slice(None))
    if not valid.any():
        raise StoreError("holds no cell with features", path=features.path)
    return MapSlide(features.path, valid, info.grid, dimensions=info.slide_size, mpp=info.slide_mpp)
