"""Small pictures for people: thumbnails, overlays, previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsipipe.errors import NumericsError
from wsipipe.store.atomic import atomic_path

# Of 9: photographs become 15% larger than with zlib's default of 6, in a third of the time.
_COMPRESSION = 1


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture as PNG, whole or not at all.

    Parameters
    ----------
    path : Path
        File to write; its ending need not be ".png".
    rgb : (h, w, 3) or (h, w) uint8 array
        RGB or grey values.

    Raises
    ------
    NumericsError
        The array has another shape or dtype, or is empty.
    StoreError
        The file cannot be written.
    """
    picture = np.ascontiguousarray(rgb)
    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2 or picture.size == 0:
        raise NumericsError(f"a picture is (h, w, 3) or (h, w) uint8, got {picture.shape} {picture.dtype}", path=path)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=_COMPRESSION)
