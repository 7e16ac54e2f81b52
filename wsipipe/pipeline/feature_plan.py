"""Where a slide's feature map lies, and what it must say to count as finished; needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from wsipipe.config import TUNING, USER_CODE, Recipe
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.stain import stain_facts, stain_tag
from wsipipe.pipeline.tile import REVISION as TILE_REVISION
from wsipipe.pipeline.tile import patch_grid
from wsipipe.slides import MppView, SlideEntry, slide_identity
from wsipipe.store.feature_map import FeatureMapInfo

# Raised whenever the same settings begin to give other values.
REVISION = 1


def feature_path(out: str | Path, recipe: Recipe, key: str) -> Path:
    """Feature map of a slide in a project folder: features/<tag>/<key>.h5."""
    return Path(out) / "features" / feature_tag(recipe) / f"{key}.h5"


def feature_tag(recipe: Recipe) -> str:
    """Name of a family of maps: encoder, weights, kind, patch or stride, resolution, stain normalisation.

    It keeps families apart for people; whether a map is the one wanted is told by its attributes, not by its name.
    """
    tile, encoder = recipe.tile, recipe.encoder
    overlap = f"-overlap{tile.overlap_px}" if tile.overlap_px else ""
    cells = f"{tile.patch_size_px}px{overlap}" if encoder.kind == "patch" else f"stride{encoder.stride_px}"
    resolution = "native" if tile.mpp is None else f"{tile.mpp:g}mpp"
    own = encoder.name.startswith(USER_CODE) and encoder.weights == "imagenet"  # it comes with its own
    weights = [] if own or encoder.name == "filterbank" else [_plain(Path(encoder.weights).stem)]
    stain = [] if recipe.stain.method == "none" else [stain_tag(recipe.stain)]
    return "-".join([_plain(encoder.name), *weights, encoder.kind, cells, resolution, *stain])


def map_grid(view: MppView, recipe: Recipe) -> CellGrid:
    """Cells of the map that a recipe makes of a slide."""
    width, height = view.reader.dimensions
    if recipe.encoder.kind == "patch":
        return patch_grid(width, height, view.scale, recipe.tile)
    return CellGrid.covering(width, height, recipe.encoder.stride_px * view.scale)


def plan_map(entry: SlideEntry, view: MppView, recipe: Recipe, *, dim: int, weights_digest: str) -> FeatureMapInfo:
    """Say what the finished map will say.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    view : MppView
        The slide at the recipe's resolution.
    recipe : Recipe
        Its sections `tile`, `encoder` and `stain` count.
    dim : int
        Length of the encoder's vectors.
    weights_digest : str
        Of the encoder.
    """
    settings = relevant_settings(recipe)
    return FeatureMapInfo(
        grid=map_grid(view, recipe),
        dim=dim,
        kind=recipe.encoder.kind,
        encoder=recipe.encoder.name,
        weights_digest=weights_digest,
        mpp=recipe.tile.mpp,
        stride_px=recipe.tile.stride_px if recipe.encoder.kind == "patch" else recipe.encoder.stride_px,
        slide=entry.key,
        slide_identity=slide_identity(entry.path),
        slide_mpp=view.reader.mpp,
        slide_size=view.reader.dimensions,
        settings=settings,
        settings_digest=_digest(settings | {"weights_digest": weights_digest}),
    )


def relevant_settings(recipe: Recipe) -> dict[str, Any]:
    """Pick the settings that change the values of a map; the source of the weights does not (their digest does)."""
    tile, encoder = recipe.tile.model_dump(mode="json"), recipe.encoder.model_dump(mode="json")
    foreign = ["stride_px"] if encoder["kind"] == "patch" else []
    for key in ["weights", *TUNING, *foreign]:
        del encoder[key]
    if encoder["kind"] == "dense":
        tile = {key: tile[key] for key in ("mpp", "tissue")}
    stain = stain_facts(recipe.stain)
    told = {"revision": [REVISION, TILE_REVISION], "tile": tile, "encoder": encoder}
    return told if stain is None else told | {"stain": stain}


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name)
