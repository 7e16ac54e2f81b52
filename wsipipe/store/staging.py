"""Files that belong together appear together, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsipipe.errors import StoreError


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a hidden folder inside `folder`; what it holds moves up when the block ends well, and is removed when not.

    A block that fails leaves the former files of `folder` as they were. The last file in alphabetical order is not
    special: whoever needs a mark of completeness checks that all files tell the same settings.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder))
    except OSError as error:
        raise StoreError(
            f"cannot be written: {error.strerror}", path=folder, remedy="choose another --output"
        ) from error
    try:
        yield stage
        for file in sorted(stage.iterdir()):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
