"""New HDF5 files whose writer learns of a full disk in an orderly way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@contextmanager
def new_hdf5(path: Path) -> Iterator[Any]:
    """Give a new HDF5 file to fill.

    Parameters
    ----------
    path : Path
        File to write, the temporary one of `atomic_path`.

    Yields
    ------
    h5py.File

    Raises
    ------
    OSError
        Something could not be written, with the system's own error number.

    Notes
    -----
    A HDF5 library that cannot write what it still holds cannot close the file, and crashes when the program ends
    (HDF5 2.0). So it writes to a sink that never fails, and the sink's first error is raised once the file is closed.
    """
    with _Sink(path, "w+") as sink:
        with h5py.File(sink, "w") as file:
            yield file
        if sink.error is not None:
            raise sink.error


class _Sink(FileIO):
    """File that keeps its first error of writing to itself, and seems to take everything from then on."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
