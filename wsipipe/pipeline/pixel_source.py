"""Pixels of one slide for several reading threads."""

from __future__ import annotations

import copy
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides import MppView


class PixelSource:
    """Reads regions at the target resolution; every thread has its own handle on the slide.

    But for plain images, which a handle decodes whole: one decoded picture serves all threads.

    Parameters
    ----------
    view : MppView
        The slide at the target resolution.
    """

    def __init__(self, view: MppView) -> None:
        self._view = view
        self._mine = threading.local()
        self._opened = ExitStack()

    def read(self, regions: tuple[Region, ...]) -> NDArray[np.uint8]:
        """Read regions of one size, in target px: (n, height, width, 3) uint8, white outside of the slide."""
        view = self._of_this_thread()
        pixels = np.empty((len(regions), regions[0].height, regions[0].width, 3), np.uint8)
        for place, region in zip(pixels, regions, strict=True):
            view.read(region, out=place)
        return pixels

    def _of_this_thread(self) -> MppView:
        if self._view.reader.backend == "image":
            return self._view
        if not hasattr(self._mine, "view"):
            view = copy.copy(self._view)
            view.reader = self._opened.enter_context(copy.copy(self._view.reader))
            self._mine.view = view
        mine: MppView = self._mine.view
        return mine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()
