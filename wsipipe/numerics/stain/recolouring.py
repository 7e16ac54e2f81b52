"""A fitted change of colours, whatever its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.stain import macenko, reinhard

Method = Literal["macenko", "reinhard"]
Numbers = tuple[float, ...]

PUBLISHED: Mapping[Method, Numbers] = MappingProxyType({"macenko": macenko.PUBLISHED, "reinhard": reinhard.PUBLISHED})
"""Reference of each method."""
FIT: Mapping[Method, Callable[[NDArray[np.uint8]], Numbers]] = MappingProxyType(
    {"macenko": macenko.fit, "reinhard": reinhard.fit}
)
"""What (n, 3) uint8 pixels of tissue say of a slide's stain."""


@dataclass(frozen=True)
class Recolouring:
    """From the stain of one slide to that of a reference; small and picklable.

    Parameters
    ----------
    method : {"macenko", "reinhard"}
        See the modules of these names.
    own, target : tuple of float
        What the method's fit says of the slide and of the reference.
    """

    method: Method
    own: Numbers
    target: Numbers

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Recolour (..., 3) uint8 pixels."""
        recolour = macenko.recolour if self.method == "macenko" else reinhard.recolour
        return recolour(pixels, self.own, self.target)
