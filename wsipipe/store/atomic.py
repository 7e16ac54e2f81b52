"""Files that are either whole or not there: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import glob
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsipipe.errors import StoreError

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another output folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another output folder",
    errno.EFBIG: "the file system or a limit takes no file that large: choose another output folder",
    errno.EACCES: "no right to write there: choose another output folder",
    errno.EPERM: "no right to write there: choose another output folder",
    errno.EROFS: "the file system is read-only: choose another output folder",
    errno.ENOTDIR: "a part of the output folder is a file: choose another output folder",
    errno.EEXIST: "the output folder is a file: choose another output folder",
    errno.EISDIR: "a folder has the name of the output file: choose another name",
    errno.ENAMETOOLONG: "the file name is too long: shorten the slide's name",
}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends well.

    Parameters
    ----------
    path : Path
        The file wanted; parents are created, a former file is replaced only by a whole new one.

    Yields
    ------
    Path
        Hidden sibling of `path` with the same ending, so that libraries choose the right format; not created yet.
        It is synced and renamed at the end of the block, and removed if the block fails.

    Raises
    ------
    StoreError
        The file cannot be written: disk full, folder not writable, read-only or no folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            # After a rename nothing is left to remove; a folder that cannot be searched holds nothing of ours.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove temporary files that killed writers of `path` left; only for who holds the lock of `path`."""
    for left in path.parent.glob(f".????????.{glob.escape(path.name)}"):
        left.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any OSError of the block into a StoreError that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StoreError:
    """Error for a file that the system refuses to write."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return StoreError(f"cannot be written: {reason}", path=path, remedy=_REMEDIES.get(error.errno or 0))


def sync(path: Path) -> None:
    """Force a file's content to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, where the file system can."""
    with suppress(OSError):  # some network file systems know no sync of folders; the rename has happened anyway
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once; see `atomic_path` for the errors."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text at once, line ends as given; see `atomic_path` for the errors."""
    write_bytes(path, text.encode("utf-8"))
