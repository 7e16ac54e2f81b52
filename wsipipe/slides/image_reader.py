"""Plain images of ordinary size (PNG, JPEG, TIFF, BMP) through Pillow."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides.handle import LazyReader, SlideFacts
from wsipipe.slides.pixels import to_rgb, white

LARGEST_PX = 400_000_000
# Copied out of Pillow at a time; its own guard against decompression bombs wakes at 89 Mpx.
_PIECE_PX = 1 << 25
_FAILURES = (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError)


class ImageReader(LazyReader[Image.Image]):
    """An image of one level, decoded whole at the first read of a process; see `SlideReader`.

    Orientation tags of cameras are left alone: pixels are as stored, which is how annotation programs show them.
    """

    backend = "image"

    def _open(self) -> Image.Image:
        try:
            # Opened by kind, not by Image.open: its size limit is a global that is not ours to move.
            image = _plugin(self.path)(self.path)
        except _FAILURES as error:
            raise self._refused(error) from error
        if image.width * image.height > LARGEST_PX:
            image.close()
            raise SlideError(
                f"is a plain image of {image.width} x {image.height} px, above {LARGEST_PX // 10**6} Mpx",
                path=self.path,
                remedy="write it as a tiled pyramidal TIFF first",
            )
        return image

    def _shut(self, handle: Image.Image) -> None:
        handle.close()

    def _facts(self, handle: Image.Image) -> SlideFacts:
        return SlideFacts(
            vendor="image",
            level_dimensions=((handle.width, handle.height),),
            level_downsamples=(1.0,),
            properties=_properties(handle),
        )

    def _read(self, part: Region, level: int) -> NDArray[np.uint8]:
        canvas = white(part.height, part.width)
        rows = max(1, _PIECE_PX // part.width)
        try:
            image = self._decoded()
            for top in range(0, part.height, rows):
                bottom = min(top + rows, part.height)
                box = (part.x, part.y + top, part.x_end, part.y + bottom)
                canvas[top:bottom] = to_rgb(_samples(image.crop(box)))
        except _FAILURES as error:
            raise self._damaged(part, level, error) from error
        return canvas

    def _decoded(self) -> Image.Image:
        image = self._use()
        with self._lock:
            image.load()
        return image

    def _refused(self, error: BaseException) -> SlideError:
        told = " ".join(str(error).split()) or type(error).__name__
        return SlideError(f"Pillow says {told}", path=self.path)


def image_kind(path: Path) -> str | None:
    """PNG, JPEG, TIFF or BMP by the first bytes of a file; None where it is none of them."""
    with path.open("rb") as file:
        start = file.read(8)
    magic = {
        b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP",
        b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF",
    }  # fmt: skip
    return next((kind for prefix, kind in magic.items() if start.startswith(prefix)), None)


def _plugin(path: Path) -> type[ImageFile.ImageFile]:
    plugins: dict[str, type[ImageFile.ImageFile]] = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
    }
    kind = image_kind(path)
    if kind is None:
        raise ValueError("neither PNG, JPEG, TIFF nor BMP")
    return plugins[kind]


def _samples(image: Image.Image) -> NDArray[np.uint8 | np.uint16]:
    """Give samples of any mode as grey or RGB, with or without alpha."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        raise ValueError(f"{'32-bit integer' if image.mode == 'I' else 'floating-point'} samples are no picture")
    transparent = "A" in image.getbands() or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _properties(image: Image.Image) -> dict[str, str]:
    properties = {"image.format": str(image.format), "image.mode": image.mode}
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        names = {270: "ImageDescription", 282: "XResolution", 283: "YResolution", 296: "ResolutionUnit"}
        tags = {name: image.tag_v2.get(tag) for tag, name in names.items()}
        return properties | {f"tiff.{name}": str(value) for name, value in tags.items() if value is not None}
    if "dpi" in image.info:
        x, y = image.info["dpi"]
        properties |= {"image.dpi-x": str(x), "image.dpi-y": str(y)}
    return properties
