"""Label masks: PNG or TIFF pictures of ordinary size whose pixel values are classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from wsipipe.errors import AnnotationError

MAX_PIXELS = 200_000_000


def read_mask(
    path: str | Path, *, values: Sequence[int] | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """Read which pixels are in-target.

    Parameters
    ----------
    path : path-like
        PNG, TIFF (first page) or another picture without loss; grey, palette (the index counts) or black and
        white. Colours count only where all channels are equal.
    values : sequence of int, optional
        Pixel values that are in-target; without them, every value but 0.
    max_pixels : int
        Larger pictures are refused: a mask of a whole slide is no picture of ordinary size.

    Returns
    -------
    (height, width) bool array
        In the pixels of the mask; all False where no pixel has such a value.

    Raises
    ------
    AnnotationError
        The file is missing, no picture, damaged, too large, or holds colours.
    """
    labels = read_labels(path, max_pixels=max_pixels)
    return np.asarray(labels != 0 if values is None else np.isin(labels, values))


def read_labels(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
    """Read the values of a mask's pixels, (height, width), of the dtype of the picture; otherwise as `read_mask`."""
    labels = _read_labels(Path(path), max_pixels)
    return _single_channel(labels, Path(path)) if labels.ndim == 3 else labels


def read_class_mask(path: str | Path, *, classes: int, max_pixels: int = MAX_PIXELS) -> NDArray[np.int8]:
    """Read which of several classes pixels are of.

    Parameters
    ----------
    path, max_pixels
        See `read_mask`.
    classes : int
        How many there are: pixel value 1 is the first, 0 says nothing.

    Returns
    -------
    (height, width) int8 array
        In the pixels of the mask; the first class is 0, -1: not known.

    Raises
    ------
    AnnotationError
        As `read_mask`, or a pixel has another value.
    """
    labels = read_labels(path, max_pixels=max_pixels)
    check_classes(labels, classes, Path(path))
    return labels.astype(np.int8) - np.int8(1)


def check_classes(labels: NDArray[np.generic], classes: int, path: Path) -> None:
    """Refuse labels that no class has.

    Raises
    ------
    AnnotationError
        There are some.
    """
    lowest, largest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if lowest < 0 or largest > classes:
        raise AnnotationError(
            f"holds the value {largest if largest > classes else lowest}, the {classes} classes are 1 to {classes}",
            path=path,
            remedy="save the place of each class in the list as its value, and 0 where nothing is known",
        )


def _read_labels(path: Path, max_pixels: int) -> NDArray[np.generic]:
    try:
        with warnings.catch_warnings():
            # Pillow's own limits are replaced by ours, which says what to do.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_picture(image, path, max_pixels)
                labels = np.asarray(image)
                # Pillow inverts such pictures itself unless they have 16 bits.
                is_raw = image.mode.startswith("I;16") and _stores_white_as_0(image)
                return np.asarray(~labels) if is_raw else labels
    except UnidentifiedImageError as error:
        raise AnnotationError("is no picture", path=path, remedy="give a label mask as PNG or TIFF") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, max_pixels) from error
    except FileNotFoundError as error:
        raise AnnotationError("does not exist", path=path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise AnnotationError(f"cannot be read as a picture: {error}", path=path) from error


def _stores_white_as_0(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _check_picture(image: Image.Image, path: Path, max_pixels: int) -> None:
    if image.format == "JPEG":
        raise AnnotationError("is a JPEG, which blurs labels", path=path, remedy="save the mask as PNG or TIFF")
    if image.width * image.height > max_pixels:
        raise _too_large(path, max_pixels)


def _too_large(path: Path, max_pixels: int) -> AnnotationError:
    return AnnotationError(
        f"is a mask of more than {max_pixels:,} pixels", path=path, remedy="give it at a lower resolution"
    )


def _single_channel(labels: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    """One channel of a picture whose colours are all grey; alpha, the second or fourth channel, is left out."""
    colours = labels[..., :1] if labels.shape[2] == 2 else labels[..., :3]
    if (colours != colours[..., :1]).any():
        raise AnnotationError("holds colours, not labels", path=path, remedy="save one value per class, without RGB")
    return colours[..., 0]
