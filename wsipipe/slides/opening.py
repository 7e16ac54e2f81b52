"""Open a slide with the library that can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsipipe.errors import ResolutionError, SlideError
from wsipipe.slides.base import SlideReader
from wsipipe.slides.handle import LazyReader
from wsipipe.slides.image_reader import ImageReader, image_kind
from wsipipe.slides.tiff_structure import check_tiff


def open_slide(path: str | Path, mpp: float | None = None, reader: str = "auto") -> SlideReader:
    """Open a slide.

    Parameters
    ----------
    path : path-like
        A slide file, a folder with one DICOM series, or a plain image.
    mpp : float, optional
        um per level-0 px, instead of what the file says.
    reader : str
        "openslide", "tiffslide" or "image" force that library; "auto" takes OpenSlide where it opens the file,
        else tiffslide, else Pillow. "direct" decodes the tiles of a TIFF file itself, with the metadata of OpenSlide
        or tiffslide; "auto" does so, several times faster, wherever the library gives the same pixels.

    Returns
    -------
    SlideReader
        Use it as a context manager, or close it.

    Raises
    ------
    SlideError
        No such file, an empty, cut-off or unknown one; the message tells what every library said.
    ResolutionError
        `mpp` is absurd.
    """
    path = Path(path)
    errors: list[SlideError] = []
    for opener in _openers(path, reader):
        try:
            return opener(path, mpp=mpp)
        except ResolutionError:
            raise
        except SlideError as error:
            errors.append(error)
    told = "; ".join(error.problem for error in errors)
    remedy = next((error.remedy for error in errors if error.remedy), None)
    raise SlideError(f"cannot be opened: {told}", path=path, remedy=remedy)


def _openers(path: Path, reader: str) -> list[Callable[..., SlideReader]]:
    libraries: dict[str, Callable[..., SlideReader]] = {
        "openslide": _openslide,
        "tiffslide": _tiffslide,
        "image": ImageReader,
        "direct": _direct,
    }
    if reader not in ("auto", *libraries):
        raise SlideError(f"no reader is called {reader!r}", path=path, remedy=f"auto, {', '.join(libraries)}")
    _check_file(path)
    if reader != "auto":
        return [libraries[reader]]
    if path.is_dir():
        return [_openslide]
    if image_kind(path) in ("PNG", "JPEG", "BMP"):
        return [ImageReader]
    if image_kind(path) != "TIFF":
        return [_openslide, _tiffslide]
    return [_direct_if_equal(_openslide), _direct_if_equal(_tiffslide), ImageReader]


def _check_file(path: Path) -> None:
    if not path.exists():
        raise SlideError("no such file", path=path)
    if path.is_dir():
        return
    try:
        size = path.stat().st_size
        tiff = size > 0 and image_kind(path) == "TIFF"
    except OSError as error:
        raise SlideError(f"cannot be read: {error.strerror}", path=path) from error
    if size == 0:
        raise SlideError("is empty", path=path)
    if tiff:
        check_tiff(path)


def _openslide(path: Path, *, mpp: float | None) -> LazyReader[Any]:
    # Imported where needed: both libraries are slow to load, and commands that only list slides need neither.
    from wsipipe.slides.openslide_reader import OpenSlideReader

    return OpenSlideReader(path, mpp=mpp)


def _tiffslide(path: Path, *, mpp: float | None) -> LazyReader[Any]:
    from wsipipe.slides.tiffslide_reader import TiffSlideReader

    return TiffSlideReader(path, mpp=mpp)


def _direct(path: Path, *, mpp: float | None) -> SlideReader:
    """Decode the tiles ourselves, with the metadata of the first library that opens the file."""
    from wsipipe.slides.direct_reader import DirectReader

    try:
        library = _openslide(path, mpp=mpp)
    except ResolutionError:
        raise
    except SlideError:
        library = _tiffslide(path, mpp=mpp)
    return DirectReader(library, mpp=mpp, check=False)


def _direct_if_equal(opener: Callable[..., LazyReader[Any]]) -> Callable[..., SlideReader]:
    """Decode the tiles ourselves where the library that opens the file gives the same pixels."""

    def opened(path: Path, *, mpp: float | None) -> SlideReader:
        from wsipipe.slides.direct_reader import DirectReader

        library = opener(path, mpp=mpp)
        try:
            return DirectReader(library, mpp=mpp)
        except SlideError:
            return library

    return opened
