"""Peak memory of a process, for other benchmarks."""

from __future__ import annotations

import resource
from pathlib import Path


def own_peak() -> float:
    """Peak resident MB of this process.

    Linux hands the parent's peak on through fork and exec in `ru_maxrss`; VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = (line.split() for line in status.read_text(encoding="ascii").splitlines())
        return next(int(words[1]) for words in lines if words[0] == "VmHWM:") / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
