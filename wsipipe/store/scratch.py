"""Planes of maps that are larger than memory, in files that any worker on the same file system can read."""

from __future__ import annotations

import errno
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wsipipe.errors import StoreError
from wsipipe.store.atomic import writing

_PREFIX = ".scratch-"

Plane = NDArray[np.float32]


@contextmanager
def scratch_folder(folder: Path, *, key: str) -> Iterator[FileScratch]:
    """Give an empty scratch store inside `folder`, and remove it when the block ends, well or not.

    Parameters
    ----------
    folder : Path
        Where it goes; made where it is missing. Workers of other machines have to find it under the same path.
    key : str
        What it is for. Stores that killed runs left for the same key are removed at the start: one run per key.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, key)
        path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{key}-", dir=folder)).absolute()
    try:
        yield FileScratch(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _sweep(folder: Path, key: str) -> None:
    """Remove the stores of `key`; the random end of a name has no hyphen, so that what precedes the last is the key."""
    for left in folder.glob(f"{_PREFIX}*"):
        if left.name.removeprefix(_PREFIX).rpartition("-")[:2] == (key, "-"):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class FileScratch:
    """Stacks of planes in `.npy` files; see `wsipipe.numerics.solvers.scratch.Scratch`.

    Files are written under a temporary name and renamed, but not synced: they are of no use after a crash.

    Parameters
    ----------
    path : Path
        A folder of its own.
    """

    path: Path

    def put(self, name: str, planes: Sequence[Plane]) -> None:
        """Keep (rows, cols) float32 planes of one shape.

        Raises
        ------
        StoreError
            Disk full, or the folder is gone.
        """
        file = self._file(name)
        temporary = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
        with writing(self.path):
            try:
                with temporary.open("wb") as out:
                    _write(out, planes)
                temporary.replace(file)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def fill(self, name: str, planes: Sequence[Plane], rows: slice) -> None:
        """Copy rows of the first of the planes kept under a name into as many arrays.

        Raises
        ------
        StoreError
            The file cannot be read, or is gone.
        """
        try:
            with self._file(name).open("rb") as file:
                _read(file, planes, rows)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(
                f"scratch of a running solve cannot be read: {reason}",
                path=self.path,
                remedy="workers have to share the file system, and nothing else may remove files there",
            ) from error

    def drop(self, name: str) -> None:
        """Remove what is kept under a name."""
        with writing(self.path):
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npy"


def _write(out: BinaryIO, planes: Sequence[Plane]) -> None:
    """Write one array (planes, rows, cols) without holding it; `ndarray.tofile` would hide why a disk refuses."""
    shape = (len(planes), *planes[0].shape)
    npy.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for plane in planes:
        out.write(np.ascontiguousarray(plane, "<f4").data)


def _read(file: BufferedReader, planes: Sequence[Plane], rows: slice) -> None:
    npy.read_magic(file)
    (_, height, width), _, _ = npy.read_array_header_1_0(file)
    start = file.tell()
    for index, plane in enumerate(planes):
        file.seek(start + 4 * width * (index * height + rows.start))
        into = plane if plane.flags.c_contiguous else np.empty(plane.shape, "<f4")
        if file.readinto(into.data.cast("B")) < into.nbytes:
            raise OSError(errno.EIO, "a file is cut off")
        if into is not plane:
            plane[...] = into
