"""The `cvm` command's work on one stored feature map: the paper's points to mask, eq. 4 to 7, and nothing else.

One in-target point at a time: contrast map (eq. 5), its segmentation u_p (eq. 6), running mean (eq. 7). Memory holds a
few maps of one value per cell, whatever the number of points and the length of the features.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.classes import ClassMap
from wsipipe.annotations.points import IN_TARGET, PointSet
from wsipipe.annotations.reading import read_points
from wsipipe.config import CvmSettings
from wsipipe.errors import AnnotationError, ConfigError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.solvers.differences import Neighbourhood
from wsipipe.numerics.solvers.problem import Solution
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.numerics.streamed_contrast import read_prototypes, stream_contrast
from wsipipe.numerics.tissue import Tissue
from wsipipe.numerics.variational import selective_force
from wsipipe.pipeline.large_maps import Room, solve_map
from wsipipe.pipeline.marked_points import class_told, points_file, points_told, target_class, usable_points
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.results import Segmentation, UnseenSlide, bounds_offset, in_bands, settle, settled
from wsipipe.progress import Progress, Report, silent
from wsipipe.slides import SlideEntry, SlideReader, find_slide, open_slide, slide_identity
from wsipipe.store.feature_map import FeatureMap, FeatureMapInfo

Distance = Literal["none", "euclidean", "geodesic"]
Scheme = Literal["primal_dual", "aos"]
DISTANCES: tuple[Distance, ...] = ("none", "euclidean", "geodesic")
SCHEMES: tuple[Scheme, ...] = ("primal_dual", "aos")
NEIGHBOURHOODS: tuple[Neighbourhood, ...] = ("crofton", "isotropic")
FAR = 0.01  # a duality gap that is worth a word
WORTH_A_GPU = 16_000_000  # cells to solve, over all points: a CPU takes a few seconds for them, as loading torch does

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class CvmOptions:
    """How points become a mask.

    Parameters
    ----------
    model : CvmSettings
        eta, lambda, beta, tolerance, prototype.
    distance : {"none", "euclidean", "geodesic"}
        Selective term (section 3): distance to the in-target points that keeps u near them.
    theta : float
        Weight of the selective term, 0 or more. With the default lambda, a cell wholly in the target pulls with a
        force of about 1.
    scheme : {"primal_dual", "aos"}
        Solver: ours, with a certified optimum, or the paper's operator splitting.
    neighbourhood : {"crofton", "isotropic"}
        How lengths are measured; operator splitting knows the isotropic one only.

    Raises
    ------
    ConfigError
        Impossible values, or eight neighbours with operator splitting.
    """

    model: CvmSettings
    distance: Distance = "none"
    theta: float = 1.0
    scheme: Scheme = "primal_dual"
    neighbourhood: Neighbourhood = "crofton"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.theta) and self.theta >= 0):
            raise ConfigError(f"theta is 0 or more, got {self.theta}")
        if self.scheme == "aos" and self.neighbourhood != "isotropic":
            raise ConfigError(
                f"scheme aos works on rows and columns, not on the neighbourhood {self.neighbourhood}",
                remedy="--neighbourhood isotropic, or --scheme primal_dual",
            )

    @classmethod
    def of(
        cls,
        model: CvmSettings,
        *,
        distance: str = "none",
        theta: float = 1.0,
        scheme: str = "primal_dual",
        neighbourhood: str | None = None,
    ) -> CvmOptions:
        """Options from words; without a neighbourhood, the one that suits the scheme."""
        chosen = _one_of("scheme", scheme, SCHEMES)
        suits = "isotropic" if chosen == "aos" else "crofton"
        return cls(
            model=model,
            distance=_one_of("distance", distance, DISTANCES),
            theta=theta,
            scheme=chosen,
            neighbourhood=_one_of("neighbourhood", neighbourhood or suits, NEIGHBOURHOODS),
        )

    def told(self) -> dict[str, Any]:
        """JSON-able settings that change the result."""
        return asdict(self) | {"model": self.model.model_dump(mode="json")}

    def digest(self) -> str:
        """Hash of every setting, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.told(), sort_keys=True).encode()).hexdigest()[:16]


def _one_of(name: str, value: str, known: Sequence[Choice]) -> Choice:
    for word in known:
        if word == value:
            return word
    raise ConfigError(f"there is no {name} {value!r}", remedy=f"use {', '.join(known[:-1])} or {known[-1]}")


def segment_stored_map(
    entry: SlideEntry,
    *,
    points: Path,
    out: Path,
    options: CvmOptions,
    slide: Path | None = None,
    classes: ClassMap | None = None,
    crop: bool = True,
    reader: str = "auto",
    device: str = "auto",
    scheduler: str | None = None,
    force: bool = False,
    report: Report = silent,
) -> SlideOutcome:
    """Segment one stored feature map from points.

    Parameters
    ----------
    entry : SlideEntry
        The feature map; its key names the outputs.
    points : Path
        Points of the slide; or a folder with a file of the slide's name.
    out : Path
        Project folder; results go to its `masks`.
    options : CvmOptions
        The model and how it is solved.
    slide : Path, optional
        The slide, or a folder that holds it: gives the overlay, and the bounds that `crop` speaks of.
    classes : ClassMap, optional
        Which classes are in target and out of target.
    crop : bool
        GeoJSON, read and written, is relative to the slide's bounds, as in QuPath; without the slide, none are known.
    reader : str
        Slide library; "auto" chooses.
    device : str
        Where the variational model is solved; "auto" looks for a GPU where the map is large.
    scheduler : str, optional
        Address of a dask scheduler whose workers share the solve of a map that does not fit in memory.
    force : bool
        Do again what is finished.
    report : Report
        Told the in-target points done and to do, stage "cvm"; see `Room` for those of a large map.

    Raises
    ------
    StoreError
        The map cannot be read, is of another slide, or the results cannot be written.
    AnnotationError
        The points cannot be read or used.
    """
    folder = out / "masks"
    with FeatureMap.open(entry.path) as features, _subject(entry, features.info, slide, reader) as subject:
        info, valid = features.info, _valid(features)
        offset = bounds_offset(subject) if crop and not isinstance(subject, UnseenSlide) else (0.0, 0.0)
        marked = _points(features, valid, points, classes, offset)
        provenance = {
            "command": "cvm",
            "points": points_told(marked),
            "settings": options.digest(),
            "features": info.settings_digest,
            "slide": info.slide_identity,
            "mpp": info.slide_mpp,
            "offset": list(offset),
            **class_told(marked),
        }
        seen = not isinstance(subject, UnseenSlide)
        if not force and (outcome := settled(folder, entry.key, provenance, overlay=seen)):
            return outcome
        room = Room(folder, entry.key, scheduler=scheduler, report=report)
        u, told = _segment(features, valid, marked, options, device=device, room=room)
        bands, tissue = in_bands(u, valid), Tissue(valid, info.grid)
        segmentation = Segmentation(info.grid, bands, tissue, class_name=target_class(marked), offset=offset)
        details = {"cvm": options.told() | told}
        return settle(folder, entry.key, subject, segmentation, provenance=provenance, details=details)


@contextmanager
def _subject(
    entry: SlideEntry, info: FeatureMapInfo, slide: Path | None, reader: str
) -> Iterator[SlideReader | UnseenSlide]:
    """Open the slide, or tell what the map knows of it."""
    if slide is None:
        yield UnseenSlide(entry.path, info.slide_size, info.slide_mpp, "feature map")
        return
    path = find_slide(slide, info.slide)
    if slide_identity(path) != info.slide_identity:
        raise StoreError(f"is not the slide that {entry.path} was made from", path=path)
    with open_slide(path, mpp=info.slide_mpp, reader=reader) as opened:
        yield opened


def _valid(features: FeatureMap) -> Bools:
    valid = features.read_valid(slice(None), slice(None))
    if not valid.any():
        raise StoreError("holds no cell with features", path=features.path)
    return valid


def _points(
    features: FeatureMap, valid: Bools, points: Path, classes: ClassMap | None, offset: tuple[float, float]
) -> PointSet:
    info = features.info
    read = read_points(points_file(points, info.slide), classes=classes, offset=offset, slide=info.slide)
    others = [file.stem for file in features.path.parent.glob("*.h5")]
    return usable_points(
        read, info.slide, size=info.slide_size, tissue=_whole_tissue(valid, info), grid=info.grid, other_keys=others
    )


def _whole_tissue(valid: Bools, info: FeatureMapInfo) -> Tissue:
    """Take valid cells for tissue of the whole slide; the margin around overlapping patches is as their map's edge."""
    side, corner = info.grid.cell_px, np.array(info.grid.origin[::-1])
    before = np.maximum(np.ceil(corner / side), 0).astype(int)
    after = np.maximum(np.ceil((np.array(info.slide_size[::-1]) - corner) / side).astype(int) - valid.shape, 0)
    mask = np.pad(valid, np.column_stack([before, after]), mode="edge")
    (rows, cols), (top, left) = mask.shape, (corner - before * side).tolist()
    return Tissue(mask, CellGrid(rows, cols, side, (left, top)))


def _segment(
    features: FeatureMap,
    valid: Bools,
    marked: PointSet,
    options: CvmOptions,
    *,
    device: str,
    room: Room,
) -> tuple[Floats, dict[str, Any]]:
    """Segmentation u (eq. 7), and for the report what became of each in-target point."""
    item, report = room.key, room.report
    marked, vectors = _with_features(features, marked, options.model.prototype, item)
    inside = marked.label == IN_TARGET
    cells = features.grid.nearest_cells(marked.in_target)
    maps = stream_contrast(features.read, valid, vectors[inside], vectors[~inside], eta=options.model.eta)
    mean, found, total = np.zeros(valid.shape, np.float32), [], len(cells)
    how = _settings(options, _torch_device(device, valid.size * total, options.scheme))
    force = _force_of(cells, valid, options)
    report(Progress(item, "cvm", 0, total))
    for number, (z, xy) in enumerate(zip(maps, marked.in_target.tolist(), strict=True), start=1):
        extra = force(z)
        solution, lam = solve_map(z, valid=valid, room=room, settings=how, lam=options.model.lam, extra=extra)
        mean += solution.u / np.float32(total)
        found.append({"xy": xy} | _told(solution, lam))
        report(Progress(item, "cvm", number, total))
    _tell_unsettled(item, found)
    low, high = float(mean.min(where=valid, initial=np.inf)), float(mean.max(where=valid, initial=-np.inf))
    if high > low:  # N of eq. 7; a constant mean stays as it is
        np.subtract(mean, np.float32(low), out=mean, where=valid)
        mean /= np.float32(high - low)
    return mean, {"in_target": found, "mean_range": [low, high]}


def _torch_device(device: str, cells: int, scheme: Scheme) -> str | None:
    """Device to solve on; None: this CPU, without torch. "auto" looks for a GPU where the work pays for loading torch.

    Raises
    ------
    ConfigError
        There is no such device, or this machine has none.
    """
    if scheme == "aos" and device not in ("auto", "cpu"):
        raise ConfigError(f"scheme aos runs on the CPU, got device {device}", remedy="--device cpu")
    if device == "cpu" or scheme == "aos" or (device == "auto" and cells < WORTH_A_GPU):
        return None
    from wsipipe.models.devices import pick_device

    found = pick_device(device)
    return None if found.type == "cpu" or (device == "auto" and found.type != "cuda") else str(found)


def _with_features(features: FeatureMap, marked: PointSet, side: int, item: str) -> tuple[PointSet, Floats]:
    """Points that lie on features, and their prototypes; the others are left out, with a warning."""
    cells = features.grid.nearest_cells(marked.xy)
    vectors = read_prototypes(features.read, features.grid.shape, cells, side=side)
    on = np.asarray(vectors.any(axis=1))
    kept = marked.subset(on)
    for name, some in (("in-target", kept.in_target), ("out-of-target", kept.out_of_target)):
        if not len(some):
            raise AnnotationError(
                f"no {name} point lies on a cell with features",
                path=marked.source,
                remedy=f"click {name} points on the tissue",
            )
    off = np.count_nonzero(~on)
    notes = [f"{off} of {len(on)} points lie on cells without features and were left out"] if off else []
    for note in (*marked.notes, *notes):
        warnings.warn(f"{item}: {note}", UserWarning, stacklevel=2)
    return kept, vectors[on]


def _force_of(cells: NDArray[np.int64], valid: Bools, options: CvmOptions) -> Callable[[Floats], Floats | None]:
    """Give the selective force on each contrast map; straight distances are the same for all."""
    force = partial(selective_force, in_target=cells, distance=options.distance, theta=options.theta, valid=valid)
    if options.distance != "geodesic":
        one = force(np.broadcast_to(np.float32(0), (1, *valid.shape)))
        return lambda z: one

    def along(z: Floats) -> Floats | None:
        each = force(z[None])
        return None if each is None else each[0]

    return along


def _told(solution: Solution, lam: float) -> dict[str, Any]:
    """JSON-able, without u; lambda is None where a constant map has none."""
    values = {name: getattr(solution, name) for name in ("c1", "c2", "gap", "iterations", "status")} | {"lambda": lam}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}


def _tell_unsettled(item: str, found: Sequence[dict[str, Any]]) -> None:
    meaning = {
        "empty": "nothing is segmented",
        "full": "everything is segmented",
        "constant": "the contrast map is constant: nothing is segmented",
        "capped": "the solver was stopped before it had converged",
        "converged": "far from the optimum, look at the gap in the report",
    }
    for status, told in meaning.items():
        some = [each for each in found if each["status"] == status and (status != "converged" or each["gap"] > FAR)]
        if some:
            places = ", ".join("({:g}, {:g})".format(*each["xy"]) for each in some)
            text = f"{item}: in-target point{'s' * (len(some) > 1)} at {places}: {told}"
            warnings.warn(text, UserWarning, stacklevel=2)


def _settings(options: CvmOptions, device: str | None) -> SolverSettings:
    model = options.model
    return SolverSettings(
        lam_rel=model.lam_rel,
        beta=model.beta,
        tol=model.tol,
        neighbourhood=options.neighbourhood,
        scheme=options.scheme,
        device=device,
    )
