"""The promise of the README: the demo runs from nothing, finds the epithelium, and can be run again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data

from wsipipe.pipeline.demo_slide import gland_mask


def wsipipe(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("wsipipe")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demo_finds_the_epithelium(tmp_path):
    done = wsipipe("demo", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    untrained, trained = map(float, re.findall(r"Dice (\d\.\d+)$", done.stdout, re.MULTILINE))
    # Calling everything tissue epithelium would give 0.74.
    assert untrained > 0.85
    assert trained > 0.8
    assert (tmp_path / "masks" / "demo.overlay.png").is_file()
    again = wsipipe("demo", "-o", tmp_path)
    assert again.stdout.count("up to date") >= 3, again.stdout
    assert re.findall(r"Dice (\d\.\d+)$", again.stdout, re.MULTILINE) == [f"{untrained:.3f}", f"{trained:.3f}"]


def test_the_outlines_hold_the_brown_epithelium():
    """The reference is drawn by hand; the stain, which it does not come from, must agree with it."""
    brown = skimage.data.immunohistochemistry()[..., 2] < 130
    inside = gland_mask()
    assert brown[inside].mean() > 0.55
    assert brown[~inside].mean() < 0.1
    assert 0.5 < np.mean(inside) < 0.65
