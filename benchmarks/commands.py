"""Wall time, CPU time and peak memory of whole commands, slide by slide.

    python benchmarks/commands.py "tile {slide} -o {out}" "extract {slide} -o {out} --encoder filterbank" -- A.svs B.svs

Every command runs in a process of its own, with {slide} and {out} filled in; {out} is kept from command to command of
one slide, so that later ones find what earlier ones made.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path


def measure(command: str, slide: Path, out: Path) -> dict[str, object]:
    """Run one command and ask the system what it cost."""
    words = [word.format(slide=slide, out=out) for word in shlex.split(command)]
    started = time.perf_counter()
    child = os.posix_spawnp("wsipipe", ["wsipipe", *words], os.environ)
    _, status, usage = os.wait4(child, 0)
    return {
        "command": command,
        "slide": slide.name,
        "exit": os.waitstatus_to_exitcode(status),
        "wall_s": round(time.perf_counter() - started, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", help="wsipipe commands, then -- and the slides")
    parser.add_argument("--json", action="store_true")
    before, after = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    wanted = parser.parse_args(before)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    rows = []
    for slide in map(Path, after):
        with tempfile.TemporaryDirectory() as out:
            rows += [measure(command, slide, Path(out)) for command in wanted.commands]
    if wanted.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{'slide':<24} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}  command")
        for row in rows:
            failed = f"  EXIT {row['exit']}" if row["exit"] else ""
            cost = f"{row['wall_s']:>8} {row['cpu_s']:>8} {row['peak_mb']:>8}"
            print(f"{row['slide']:<24} {cost}  {row['command']}{failed}")
    return int(any(row["exit"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
