"""The way from TRIDENT's features to masks that docs/features.md shows runs as it is shown."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from listmaker import write_trident
from wsipipe_cli.main import app

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "features.md"
SIDE = 512  # level-0 px of a patch


def section():
    text = GUIDE.read_text(encoding="utf-8")
    return text[text.index("Then train and predict on the maps") : text.index("## Features for TRIDENT")]


def write_lists(folder, rows=9, cols=12):
    """Two slides whose left half is in target, as TRIDENT lists with points."""
    for seed, name in enumerate("ab"):
        cells = np.argwhere(np.ones((rows, cols), bool))
        inside = cells[:, 1] < cols // 2
        features = np.random.default_rng(seed).normal(0, 0.3, (len(cells), 8))
        features[:, 0] += np.where(inside, 1.0, -1.0)
        path = folder / "trident" / "20x_256px_0px_overlap" / "features_uni_v1" / f"{name}.h5"
        size = cols * SIDE, rows * SIDE
        write_trident(path, features, cells[:, ::-1] * SIDE, size=size, patch=256, level0=SIDE)
        points = [((col + 0.5) * SIDE, (row + 0.5) * SIDE) for row in (1, 4, 7) for col in (2, 9)]
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [x, y]},
                "properties": {"classification": {"name": "Tumor" if x < size[0] / 2 else "Stroma"}},
            }
            for x, y in points
        ]
        (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def expanded(argument):
    """Files of a pattern, as a shell puts them in."""
    return sorted(map(str, Path().glob(argument))) if "*" in argument else [argument]


def test_from_lists_of_trident_to_masks(tmp_path, monkeypatch):
    write_lists(tmp_path)
    monkeypatch.chdir(tmp_path)
    manifest, commands = re.findall(r"```(?:sh)?\n(.*?)```", section(), flags=re.DOTALL)
    (tmp_path / "manifest.csv").write_text(manifest)
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "wsipipe"
        result = CliRunner().invoke(app, [part for argument in arguments for part in expanded(argument)])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    for name in "ab":
        told = json.loads((tmp_path / "wsipipe-out" / "masks" / f"{name}.report.json").read_text())
        assert told["classes"]["Tumor"]["pixels"] > 0
