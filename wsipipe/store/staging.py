"""Files that belong together appear together, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsipipe.errors import StoreError
from wsipipe.store.atomic import sync_folder, writing

_PREFIX = ".staged-"
_TOKEN = ".begun"


@contextmanager
def staged(folder: Path, *, key: str | None = None, mark: str | None = None) -> Iterator[Path]:
    """Give a hidden folder inside `folder`; what it holds moves up when the block ends well, and is removed when not.

    A block that fails leaves the former files of `folder` as they were.

    Parameters
    ----------
    folder : Path
        Where the files go; made where it is missing.
    key : str, optional
        What the files are about. Hidden folders that killed runs left for the same key are removed at the start.
    mark : str, optional
        Name, or end of the name, of the file that says that all are there. Its former copy goes before any file
        moves and the new one comes last, so that a move cut short is never taken for a finished one.

    Raises
    ------
    StoreError
        The folder cannot be written, another run of the same key began meanwhile, or the block wrote no `mark`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, key)
        stage = Path(tempfile.mkdtemp(prefix=_PREFIX if key is None else f"{_PREFIX}{key}-", dir=folder))
        (stage / _TOKEN).touch()
    try:
        yield stage
        with writing(folder):
            _move_up(stage, folder, mark)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sweep(folder: Path, key: str | None) -> None:
    """Remove the stages of `key`; the random end of a name has no hyphen, so that what precedes the last is the key."""
    for stage in folder.glob(f"{_PREFIX}*"):
        if key is not None and stage.name.removeprefix(_PREFIX).rpartition("-")[:2] == (key, "-"):
            shutil.rmtree(stage, ignore_errors=True)


def _move_up(stage: Path, folder: Path, mark: str | None) -> None:
    # A writer makes missing folders anew: a stage that a later run swept away would come back with half of its files.
    if not (stage / _TOKEN).exists():
        raise StoreError("another run writes the same files", path=folder, remedy="run one at a time")
    (stage / _TOKEN).unlink()
    files = sorted(stage.iterdir())
    marks = [] if mark is None else [file for file in files if file.name.endswith(mark)]
    if mark is not None and not marks:
        raise StoreError(f"nothing named {mark!r} was written, which would say that all is there", path=folder)
    for file in marks:
        (folder / file.name).unlink(missing_ok=True)
    for group in ([file for file in files if file not in marks], marks):
        sync_folder(folder)
        for file in group:
            file.replace(folder / file.name)
