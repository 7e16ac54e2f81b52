"""What a feature map says of itself, and how that lies in HDF5 attributes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from wsipipe.geometry import CellGrid

FILE_TYPE, FILE_VERSION = "wsipipe.feature_map", 1


@dataclass(frozen=True)
class FeatureMapInfo:
    """Geometry and provenance of a feature map; equal for equal work on equal content.

    Parameters
    ----------
    grid : CellGrid
        Cells over the slide, in level-0 px.
    dim : int
        Length of a feature vector.
    kind : str
        "patch" (one vector per patch) or "dense" (a convolutional map).
    encoder, weights_digest : str
        What computed the features.
    mpp : float or None
        um per target px; None where the image's own pixels were used.
    stride_px : int
        Step between cells in target px.
    slide, slide_identity : str
        Key and content digest of the slide.
    slide_mpp : float or None
        um per level-0 px.
    slide_size : (int, int)
        (width, height) in level-0 px.
    settings : dict
        JSON-able settings of the extraction.
    settings_digest : str
        Hash of the settings.
    stain_fit : tuple of float
        What the stain normalisation found on this slide, in numbers of its method; empty where there is none. It
        follows from slide and settings, and so does not make other work.
    """

    grid: CellGrid
    dim: int
    kind: Literal["patch", "dense"]
    encoder: str
    weights_digest: str
    mpp: float | None
    stride_px: int
    slide: str
    slide_identity: str
    slide_mpp: float | None
    slide_size: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict)
    settings_digest: str = ""
    stain_fit: tuple[float, ...] = ()

    @property
    def stain(self) -> str | None:
        """Name of the stain normalisation, method and digest of the reference; None where there is none."""
        told = self.settings.get("stain")
        if told is None:
            return None
        return f"{told['method']} ({hashlib.sha256(json.dumps(told['target']).encode()).hexdigest()[:8]})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, cols, dim)."""
        return self.grid.rows, self.grid.cols, self.dim

    def same_work(self, other: FeatureMapInfo) -> bool:
        """Whether the other map comes from the same slide content and settings."""
        return to_json(self) == to_json(other)


def to_json(info: FeatureMapInfo) -> str:
    """One line that tells what was asked for; equal for equal maps."""
    told = asdict(info)
    del told["stain_fit"]
    return json.dumps(told, sort_keys=True)


def to_attributes(info: FeatureMapInfo) -> dict[str, Any]:
    """Attributes for the file: plain numbers and strings, settings as JSON; what is None or empty is left out."""
    plain = asdict(info)
    grid = plain.pop("grid")
    values = {"rows": grid["rows"], "cols": grid["cols"], "cell_px": grid["cell_px"], "origin_px": grid["origin"]}
    values |= plain | {"settings": json.dumps(info.settings, sort_keys=True)}
    values |= {"type": FILE_TYPE, "version": FILE_VERSION}
    return {key: value for key, value in values.items() if value is not None and value != ()}


def from_attributes(values: Mapping[str, Any]) -> FeatureMapInfo:
    """Inverse of `to_attributes`.

    Raises
    ------
    KeyError, ValueError, TypeError, GeometryError
        An attribute is missing or makes no sense.
    """
    x, y = (float(value) for value in values["origin_px"])
    width, height = (int(value) for value in values["slide_size"])
    if values["kind"] not in ("patch", "dense"):
        raise ValueError(f"kind {values['kind']!r} is neither patch nor dense")
    return FeatureMapInfo(
        grid=CellGrid(int(values["rows"]), int(values["cols"]), float(values["cell_px"]), (x, y)),
        dim=int(values["dim"]),
        kind=values["kind"],
        encoder=str(values["encoder"]),
        weights_digest=str(values["weights_digest"]),
        mpp=_optional(values, "mpp"),
        stride_px=int(values["stride_px"]),
        slide=str(values["slide"]),
        slide_identity=str(values["slide_identity"]),
        slide_mpp=_optional(values, "slide_mpp"),
        slide_size=(width, height),
        settings=dict(json.loads(values["settings"])),
        settings_digest=str(values["settings_digest"]),
        stain_fit=tuple(float(value) for value in values.get("stain_fit", ())),
    )


def _optional(values: Mapping[str, Any], key: str) -> float | None:
    return float(values[key]) if key in values else None
