"""Where the time of `wsipipe predict` goes: `python benchmarks/prediction.py SLIDE... [--slide-mpp 1.0] [--json]`.

A model (recipe `slide`, random encoder weights) is trained on the demo slide; then every slide is
predicted from nothing in a process of its own. "Network" is the wall time in which the encoder or the segmentation
network runs; reading and writing in other threads beside it cost nothing then. The rest are wall seconds in which
nothing but that part runs: starting Python and the libraries, finding tissue, extraction without the encoder, and the
files of the result (raster, masks, outlines, overlay, report) without the segmentation network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from peak import own_peak

from wsipipe.config import Recipe, load_recipe, updated
from wsipipe.models.resnet import ResNetEncoder
from wsipipe.models.row_stream import RowStream
from wsipipe.pipeline import extract, predict
from wsipipe.slides import SlideEntry

PARTS = ("start", "tissue", "extraction", "results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--slide-mpp", type=float, help="um per level-0 px where the slides do not say")
    parser.add_argument("--mpp", type=float, default=1.0, help="resolution of the features")
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--kind", default="dense", choices=("dense", "patch"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        sys.stdout.write(json.dumps(once(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = trained(recipe(options), Path(folder))
        rows = [measure(slide, model) for slide in options.slides]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def recipe(options: argparse.Namespace) -> Recipe:
    changes = {
        "tile": {"mpp": options.mpp},
        "encoder": {"name": options.encoder, "kind": options.kind, "weights": "none"},
        "training": {"previews": 0},
    }
    return updated(load_recipe("slide"), changes)


def trained(settings: Recipe, folder: Path) -> Path:
    """Run folder of a model that knows the demo slide a little."""
    # Imported here: processes that predict do without.
    from wsipipe.pipeline.demo import write_manifest
    from wsipipe.pipeline.demo_slide import make_demo_slide
    from wsipipe.pipeline.train import train

    files = make_demo_slide(folder)
    train(write_manifest(folder, files), settings, folder / "run", out=folder)
    return folder / "run"


def measure(slide: Path, model: Path) -> dict[str, Any]:
    """Predict in a process of its own; wall seconds by part."""
    own = [word for word in sys.argv[1:] if not Path(word).is_file() and word != "--json"]
    command = [sys.executable, sys.argv[0], *own, "--model", str(model), str(slide)]
    started = time.perf_counter()
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    wall = time.perf_counter() - started
    return {"slide": slide.name, "wall": wall, "start": wall - told.pop("inside"), **told}


class Clock:
    """Wall seconds of calls in the thread that calls them, less those of the calls inside that are timed, too."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("network", "tissue", "extraction", "results"), 0.0)
        self._inner = [0.0]

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Do the same as `call` and add its time to a part."""

        def timed(*arguments: Any, **settings: Any) -> Any:  # noqa: ANN401
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return call(*arguments, **settings)
            finally:
                whole = time.perf_counter() - started
                self.spent[part] += whole - self._inner.pop()
                self._inner[-1] += whole

        return timed


def once(options: argparse.Namespace) -> dict[str, Any]:
    """Predict one slide, with clocks."""
    clock, (slide,) = Clock(), options.slides
    timed = (
        ("network", RowStream, "push"),
        ("network", ResNetEncoder, "encode"),
        ("network", predict, "probability"),
        ("tissue", extract, "tissue_for"),
        ("tissue", predict, "tissue_for"),
        ("extraction", predict, "extract_slide"),
        ("results", predict, "settle"),
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        for part, owner, name in timed:
            patches.enter_context(mock.patch.object(owner, name, clock.around(part, getattr(owner, name))))
        entry = SlideEntry(slide.stem, slide, options.slide_mpp)
        outcome = predict.predict_slide(entry, model=options.model, out=Path(folder))
    inside = time.perf_counter() - started
    return {"inside": inside, **clock.spent, "peak_mb": own_peak(), "outcome": outcome.message}


def table(rows: list[dict[str, Any]]) -> str:
    head = "".join(f"{part:>17}" for part in ("network", *PARTS, "other"))
    lines = [f"{'slide':<28} {'wall s':>8}{head} {'peak MB':>8}"]
    for row in rows:
        parts = [row[part] for part in ("network", *PARTS)]
        shares = "".join(f"{part:9.2f} ({part / row['wall']:5.1%})" for part in (*parts, row["wall"] - sum(parts)))
        lines.append(f"{row['slide'][:28]:<28} {row['wall']:8.1f}{shares} {row['peak_mb']:8.0f}  {row['outcome']}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
