"""Stain normalisation of a slide: fitted once on a sample of its tissue, put between its pixels and the encoder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.config import Recipe, StainSettings
from wsipipe.errors import ConfigError, StainError
from wsipipe.geometry import Region
from wsipipe.numerics.stain.recolouring import FIT, PUBLISHED, Numbers, Recolouring
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.tissue import everything
from wsipipe.slides import MppView, SlideReader, open_slide
from wsipipe.slides.pixels import put
from wsipipe.store.feature_info import FeatureMapInfo

# The sample: many small places rather than few large ones, for neighbouring pixels say the same.
_PLACES = 256
_PLACE_PX = 32
_SEED = 0
_REMEDY = "leave it out, or go without: --stain none"


class RecolouredView(MppView):
    """A slide at a target resolution whose pixels come in the colours of a reference.

    Parameters
    ----------
    reader, mpp
        As for `MppView`.
    recolouring : Recolouring
        Of this slide.
    """

    def __init__(self, reader: SlideReader, mpp: float | None, recolouring: Recolouring) -> None:
        super().__init__(reader, mpp)
        self.recolouring = recolouring

    def read(self, region: Region, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """See `MppView.read`."""
        return put(self.recolouring(super().read(region)), out)


def view_of(reader: SlideReader, mpp: float | None, recolouring: Recolouring | None) -> MppView:
    """Look at a slide at a target resolution, in its own colours where `recolouring` is None."""
    return MppView(reader, mpp) if recolouring is None else RecolouredView(reader, mpp, recolouring)


def fit_slide(view: MppView, tissue: Tissue | None, settings: StainSettings) -> Recolouring | None:
    """Fit the change of a slide's colours on a random sample of its tissue; the same slide gives the same.

    Parameters
    ----------
    view : MppView
        The slide at the resolution that is recoloured.
    tissue : Tissue or None
        Where to look; None: everywhere.
    settings : StainSettings
        Method and reference.

    Returns
    -------
    Recolouring or None
        None where the settings ask for none.

    Raises
    ------
    StainError
        There is too little tissue, or its colours show no stain; or so it is with the reference.
    """
    if settings.method == "none":
        return None
    return Recolouring(settings.method, _fit(view, tissue, settings), target_of(settings))


def normalised(
    view: MppView, info: FeatureMapInfo, tissue: Tissue, settings: StainSettings
) -> tuple[MppView, FeatureMapInfo]:
    """View whose pixels a map is to be made of, and the map's info with what was fitted; errors as `fit_slide`."""
    fitted = fit_slide(view, tissue, settings)
    if fitted is None:
        return view, info
    return RecolouredView(view.reader, info.mpp, fitted), replace(info, stain_fit=fitted.own)


def recolouring_of(info: FeatureMapInfo) -> Recolouring | None:
    """Change of colours that a map was made with."""
    if (told := info.settings.get("stain")) is None:
        return None
    return Recolouring(told["method"], info.stain_fit, tuple(told["target"]))


def stain_of(info: FeatureMapInfo) -> StainSettings:
    """Tell the settings that a map was made with."""
    told = info.settings.get("stain")
    return StainSettings() if told is None else StainSettings(reference="given", **told)


def stain_facts(settings: StainSettings) -> dict[str, Any] | None:
    """Pick what changes values: method and the reference's numbers, not where these are from; None for none."""
    if settings.method == "none":
        return None
    return {"method": settings.method, "target": list(target_of(settings))}


def stain_tag(settings: StainSettings) -> str:
    """Name for people: "macenko", with a digest where the reference is none of the published ones."""
    target = target_of(settings)
    if settings.method == "none" or target == PUBLISHED[settings.method]:
        return settings.method
    return f"{settings.method}_{hashlib.sha256(json.dumps(target).encode()).hexdigest()[:8]}"


def with_target(recipe: Recipe) -> Recipe:
    """Recipe that needs its reference picture no more: its numbers stand in the recipe.

    Raises
    ------
    StainError
        The reference shows no stain.
    WsipipeError
        It cannot be read.
    """
    stain = recipe.stain
    if stain.method == "none" or stain.reference in ("published", "given"):
        return recipe
    fixed = StainSettings(method=stain.method, reference="given", target=target_of(stain))
    return recipe.model_copy(update={"stain": fixed})


def target_of(settings: StainSettings) -> Numbers:
    """Numbers of the reference; () where there is no method. Errors as `with_target`."""
    if settings.method == "none":
        return ()
    if settings.target is not None:
        return settings.target
    if settings.reference == "published":
        return PUBLISHED[settings.method]
    path = Path(settings.reference)
    if not path.is_file():
        raise ConfigError("no such stain reference", path=path, remedy="give published, or a picture of stained tissue")
    with open_slide(path) as slide:
        return _fit(MppView(slide, None), None, settings)


def _fit(view: MppView, tissue: Tissue | None, settings: StainSettings) -> Numbers:
    assert settings.method != "none"
    try:
        return FIT[settings.method](_sample(view, tissue or everything(*view.reader.dimensions)))
    except StainError as error:
        raise StainError(f"{settings.method}: {error.problem}", path=view.reader.path, remedy=_REMEDY) from error


def _sample(view: MppView, tissue: Tissue) -> NDArray[np.uint8]:
    """Pixels (n, 3) uint8 of random places of the tissue, at the view's resolution."""
    rng, grid = np.random.default_rng(_SEED), tissue.grid
    drawn = rng.choice(np.flatnonzero(tissue.mask), size=_PLACES)
    rows, cols = np.unravel_index(drawn, grid.shape) + rng.random((2, _PLACES))
    centres = (np.stack([cols, rows], axis=1) * grid.cell_px + grid.origin) / view.scale
    corners = np.round(centres - _PLACE_PX / 2).astype(int).tolist()
    return np.concatenate([view.read(Region(x, y, _PLACE_PX, _PLACE_PX)).reshape(-1, 3) for x, y in corners])
