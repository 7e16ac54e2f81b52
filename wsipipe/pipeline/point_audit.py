"""The `points audit` command: everything that can be said of clicked points before anything is learned from them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.audit import Finding, audit_points, audit_source, audit_tissue
from wsipipe.annotations.classes import ClassMap
from wsipipe.annotations.points import IN_TARGET, PointSet
from wsipipe.annotations.reading import read_points
from wsipipe.config import Recipe
from wsipipe.errors import AnnotationError, WsipipeError
from wsipipe.numerics.point_agreement import leave_one_out
from wsipipe.pipeline.contact_sheet import Patch, draw_contact_sheet
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import map_grid
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.marked_points import points_file
from wsipipe.pipeline.point_predictions import predict_points
from wsipipe.pipeline.results import bounds_offset
from wsipipe.pipeline.segment import feature_recipe, solve_in
from wsipipe.pipeline.tissue_reuse import tissue_for
from wsipipe.progress import Progress, Report, silent
from wsipipe.slides import MppView, SlideEntry, SlideReader, keys_beside, open_slide
from wsipipe.store.feature_map import FeatureMap
from wsipipe.store.images import write_png
from wsipipe.store.tables import write_json

FILE_TYPE, FILE_VERSION = "wsipipe.points_audit", 1
PATCH_UM = 128.0
_LISTED = 4


@dataclass(frozen=True)
class Auditing:
    """How points are audited.

    Parameters
    ----------
    recipe : Recipe
        Its section `segment` says which features the points are compared on; `tile` how tissue is found.
    classes : ClassMap or None
        Which classes are in target and out of target.
    agreement : bool
        Whether each point is judged by the others (features are extracted where they are missing).
    model : Path or None
        Run folder or checkpoint of a model that judges the points, too.
    weights : str or None
        Encoder weights of the model, where the file has moved.
    crop : bool
        GeoJSON counts from the slide's bounds, as in QuPath.
    patch_um : float
        Side of the patches on the contact sheet.
    reader, device : str
        Slide library; where features and models are computed.
    """

    recipe: Recipe
    classes: ClassMap | None = None
    agreement: bool = True
    model: Path | None = None
    weights: str | None = None
    crop: bool = True
    patch_um: float = PATCH_UM
    reader: str = "auto"
    device: str = "auto"


@dataclass(frozen=True)
class JudgedPoint:
    """One point and what is said of it.

    Parameters
    ----------
    number : int
        Place in the file among the points used, from 1.
    x, y : float
        In level-0 px.
    class_name : str
        As the file has it.
    in_target : bool
        What the class stands for.
    others, model : float or None
        Probability of being in target by the other points, and by the model; None where nobody says.
    doubts : tuple of str
        Kinds of the findings (errors and warnings) that name the point.
    """

    number: int
    x: float
    y: float
    class_name: str
    in_target: bool
    others: float | None = None
    model: float | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlideAudit:
    """What is said of the points of one slide.

    Parameters
    ----------
    key : str
        The slide.
    source : Path or None
        The points file; None where there is none.
    findings : tuple of Finding
        Of all checks.
    points : tuple of JudgedPoint
        In the order of the file.
    sheet : Path or None
        Contact sheet.
    """

    key: str
    source: Path | None = None
    findings: tuple[Finding, ...] = ()
    points: tuple[JudgedPoint, ...] = ()
    sheet: Path | None = None

    @property
    def usable(self) -> bool:
        """Whether the other commands would take the points."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Points by class, most frequent first."""
        return dict(Counter(point.class_name for point in self.points).most_common())


def audit_many(
    entries: Sequence[SlideEntry], points: Path, out: Path, how: Auditing, *, report: Report = silent
) -> list[SlideAudit]:
    """Audit the points of every slide, and write `audit/audit.json` of the project folder; see `audit_slide`.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    audits = [audit_slide(entry, points, out, how, report=report) for entry in entries]
    told = {"type": FILE_TYPE, "version": FILE_VERSION, "slides": [_told(audit) for audit in audits]}
    write_json(out / "audit" / "audit.json", told)
    return audits


def audit_slide(entry: SlideEntry, points: Path, out: Path, how: Auditing, *, report: Report = silent) -> SlideAudit:
    """Check the points of one slide and draw their contact sheet.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    points : Path
        Its points; or a folder with a file of the slide's name.
    out : Path
        Project folder: features go to `features`, the contact sheet to `audit/<slide>.png`.
    how : Auditing
        What is checked, and how.

    Returns
    -------
    SlideAudit
        Whatever is wrong with the slide or its points is a finding, too; points that the other commands would refuse
        are not judged by the others or a model.
    """
    file: Path | None = None
    try:
        file = points_file(points, entry.key)
        return _audit(entry, file, out, how, report)
    except AnnotationError as error:
        finding = Finding("unreadable", "error", error.problem, remedy=error.remedy or "")
        return SlideAudit(entry.key, file or error.path, (finding,))
    except WsipipeError as error:
        return SlideAudit(entry.key, file, (Finding("slide", "error", str(error)),))


def _audit(entry: SlideEntry, file: Path, out: Path, how: Auditing, report: Report) -> SlideAudit:
    recipe = feature_recipe(how.recipe)
    with open_slide(entry.path, mpp=entry.mpp, reader=how.reader) as slide:
        offset = bounds_offset(slide) if how.crop else (0.0, 0.0)
        read = read_points(file, classes=how.classes, offset=offset, slide=entry.key)
        findings = [*_notes(read), *_findings(entry, slide, read, out, recipe)]
        usable = not any(finding.severity == "error" for finding in findings)
        others = model = np.full(len(read), np.nan)
        if usable and how.agreement:
            try:
                others = _others(entry, read, out, recipe, how, report)
            except AnnotationError as error:  # a class has no point on tissue
                findings.append(Finding("off tissue", "error", error.problem, remedy=error.remedy or ""))
            findings += _disagreement("contradicted", "the other points", read, others)
        if usable and how.model is not None:
            model = predict_points(
                entry, read.xy, model=how.model, out=out, weights=how.weights, reader=how.reader, device=how.device,
                report=report,
            )  # fmt: skip
            findings += _disagreement("model disagrees", "the model", read, model)
        judged = _judged(read, findings, others, model)
        sheet = out / "audit" / f"{entry.key}.png"
        _write_sheet(sheet, slide, judged, entry.key, how.patch_um)
    return SlideAudit(entry.key, file, tuple(findings), judged, sheet)


def _notes(points: PointSet) -> list[Finding]:
    return [Finding("left out", "note", note) for note in points.notes]


def _findings(entry: SlideEntry, slide: SlideReader, points: PointSet, out: Path, recipe: Recipe) -> list[Finding]:
    """Run the checks that need no features."""
    width, height = slide.dimensions
    view = MppView(slide, recipe.tile.mpp)
    tissue = tissue_for(entry, view, out, recipe.tile)
    return [
        *audit_source(points.source or "", entry.key, slides=points.slides, other_keys=keys_beside(entry.path)),
        *audit_points(points, width=width, height=height, grid=map_grid(view, recipe)),
        *audit_tissue(points, tissue.mask, tissue.grid),
    ]


def _others(
    entry: SlideEntry, points: PointSet, out: Path, recipe: Recipe, how: Auditing, report: Report
) -> NDArray[np.float64]:
    """Probability at each point as the other points have it."""
    extracted = extract_slide(entry, out, recipe, reader=how.reader, device=how.device, report=report)
    with FeatureMap.open(extracted.outputs[0]) as features:
        found = leave_one_out(
            features.read,
            features.grid.shape,
            features.grid.cells_of(points.xy),
            points.label,
            settings=recipe.segment,
            valid=features.read_valid(slice(None), slice(None)),
            solve=functools.partial(solve_in, Room(out / "audit", entry.key, report=silent)),
            report=lambda done, total: report(Progress(entry.key, "judge points", done, total)),
        )
    return found.probability


def _disagreement(kind: str, who: str, points: PointSet, probability: NDArray[np.float64]) -> list[Finding]:
    wrong = np.flatnonzero(np.isfinite(probability) & ((probability >= 0.5) != (points.label == IN_TARGET)))
    if not len(wrong):
        return []
    listed = ", ".join(
        f"#{i + 1} {points.class_names[i]!r} at ({points.xy[i, 0]:.0f}, {points.xy[i, 1]:.0f}) p {probability[i]:.2f}"
        for i in wrong[:_LISTED]
    )
    more = ", ..." if len(wrong) > _LISTED else ""
    text = f"{len(wrong)} of {len(points)} points lie where {who} would have the other side: {listed}{more}"
    remedy = "look at them on the contact sheet: a wrong click, or a kind of tissue that needs more points"
    return [Finding(kind, "warning", text, tuple(int(i) for i in wrong), remedy)]


def _judged(
    points: PointSet, findings: Sequence[Finding], others: NDArray[np.float64], model: NDArray[np.float64]
) -> tuple[JudgedPoint, ...]:
    doubts: dict[int, list[str]] = {}
    for finding in findings:
        if finding.severity != "note" or finding.kind == "duplicate":
            for i in finding.indices:
                doubts.setdefault(i, []).append(finding.kind)
    return tuple(
        JudgedPoint(
            number=i + 1,
            x=float(points.xy[i, 0]),
            y=float(points.xy[i, 1]),
            class_name=points.class_names[i],
            in_target=bool(points.label[i] == IN_TARGET),
            others=_finite(others[i]),
            model=_finite(model[i]),
            doubts=tuple(doubts.get(i, ())),
        )
        for i in range(len(points))
    )


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _write_sheet(path: Path, slide: SlideReader, points: Sequence[JudgedPoint], key: str, patch_um: float) -> None:
    side = patch_um / slide.mpp if slide.mpp else patch_um
    unit = "um" if slide.mpp else "px"
    title = f"{key}: {len(points)} points, {patch_um:g} {unit} around each"
    write_png(path, draw_contact_sheet(slide, [_patch(point) for point in points], patch_px=side, title=title))


def _patch(point: JudgedPoint) -> Patch:
    says = [f"{name} {value:.2f}" for name, value in (("p", point.others), ("model", point.model)) if value is not None]
    caption = "  ".join([f"#{point.number}", f"({point.x:.0f}, {point.y:.0f})", *says])
    side = "in target" if point.in_target else "out of target"
    return Patch(point.x, point.y, point.class_name, side, caption, point.doubts)


def _told(audit: SlideAudit) -> Mapping[str, object]:
    return {
        "slide": audit.key,
        "points_file": audit.source,
        "usable": audit.usable,
        "in_target": sum(point.in_target for point in audit.points),
        "out_of_target": sum(not point.in_target for point in audit.points),
        "classes": audit.counts,
        "findings": [
            {
                "kind": finding.kind,
                "severity": finding.severity,
                "message": finding.message,
                "points": [i + 1 for i in finding.indices],
                "remedy": finding.remedy,
            }
            for finding in audit.findings
        ],
        "points": [vars(point) | {"doubts": list(point.doubts)} for point in audit.points],
        "contact_sheet": audit.sheet,
    }
