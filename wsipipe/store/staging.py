"""Files that belong together appear together, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsipipe.store.atomic import writing


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a hidden folder inside `folder`; what it holds moves up when the block ends well, and is removed when not.

    A block that fails leaves the former files of `folder` as they were.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder))
    try:
        yield stage
        with writing(folder):
            for file in sorted(stage.iterdir()):
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
