"""Every snippet of docs/python.md runs, one after the other, in one session; slow, because one of them trains."""

from __future__ import annotations

import re
from pathlib import Path

import wsipipe
from deskmaker import lay_desk

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def snippets():
    """(line, code) of each block, so that an error names the line of the guide."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match.group(1)) for match in found]


def test_the_snippets_of_the_guide_run(tmp_path, monkeypatch, capsys):
    lay_desk(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = snippets()
    assert len(shown) >= 8
    session = {"__name__": "guide"}
    for line, code in shown:
        exec(compile("\n" * line + code, str(GUIDE), "exec"), session)
    assert session["trained"].status == "done"
    assert session["outcome"].status == "done"
    assert session["report"]["calibration"]["note"].startswith("not calibrated")
    assert session["counts"].dice > 0.5
    assert "(640, 512)" in capsys.readouterr().out


def test_the_guide_shows_every_public_name():
    text = GUIDE.read_text(encoding="utf-8")
    results = {"CvmResult", "VariationalSegmentation", "__version__"}  # what the functions give
    assert all(f"wsipipe.{name}" in text for name in set(wsipipe.__all__) - results)
