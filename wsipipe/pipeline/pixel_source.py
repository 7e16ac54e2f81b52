"""Pixels of one slide for several reading threads."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.geometry import Region
from wsipipe.slides import MppView


class Source(Protocol):
    """Reads regions in any number of threads; a context manager."""

    @property
    def told(self) -> str:
        """What to tell of the way that was taken, behind a comma; nothing of the usual one."""
        ...

    def read(self, regions: tuple[Region, ...]) -> NDArray[np.uint8] | Tensor:
        """Read regions of one size, in target px: (n, height, width, 3) uint8, white outside of the slide."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PixelSource:
    """Reads regions at the target resolution; readings at the same time have their own handles on the slide.

    There are as many handles as ever read at once, however many threads come and go; but of plain images one, which
    holds the whole picture.

    Parameters
    ----------
    view : MppView
        The slide at the target resolution.
    """

    def __init__(self, view: MppView) -> None:
        self.told = ""
        self._view = view
        self._idle: list[MppView] = []
        self._opened = ExitStack()

    def read(self, regions: tuple[Region, ...]) -> NDArray[np.uint8]:
        """Read regions of one size, in target px: (n, height, width, 3) uint8, white outside of the slide."""
        pixels = np.empty((len(regions), regions[0].height, regions[0].width, 3), np.uint8)
        with self._lent_view() as view:
            for place, region in zip(pixels, regions, strict=True):
                view.read(region, out=place)
        return pixels

    @contextmanager
    def _lent_view(self) -> Iterator[MppView]:
        if self._view.reader.backend == "image":
            yield self._view
            return
        try:
            view = self._idle.pop()
        except IndexError:
            view = copy.copy(self._view)
            view.reader = self._opened.enter_context(copy.copy(self._view.reader))
        try:
            yield view
        finally:
            self._idle.append(view)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
