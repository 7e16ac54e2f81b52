"""CPU seconds until help is printed: `python benchmarks/startup.py [--repeat 10] [--json]`.

Median of processes in turn, beside two that load nothing of wsipipe: an empty one, and one that imports typer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from statistics import median

_RUN = "import sys; sys.argv[0] = 'wsipipe'; from wsipipe_cli.main import run; run()"
WAYS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import typer'": ["-c", "import typer"],
    "wsipipe --help": ["-c", _RUN, "--help"],
    "wsipipe extract --help": ["-c", _RUN, "extract", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.repeat):
        for name, words in WAYS.items():
            seconds[name].append(cpu_seconds(words))
    medians = {name: round(median(values), 3) for name, values in seconds.items()}
    if options.json:
        sys.stdout.write(json.dumps(medians, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{value:6.3f} s  {name}\n" for name, value in medians.items()))


def cpu_seconds(words: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"COLUMNS": "100"}
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
