"""Pictures of made-up tissue in any stain: the same amounts of two stains, seen through other vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PURPLE = np.array([[0.60, 0.22], [0.72, 0.85], [0.35, 0.48]])  # columns: nuclear stain, counter-stain
BLUE = np.array([[0.80, 0.35], [0.55, 0.85], [0.25, 0.40]])


def amounts(width: int, height: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Amounts of two stains, (height, width, 2): nuclei on a textured ground, most px with more of one than of both."""
    rng = np.random.default_rng(seed)
    ground = ndimage.gaussian_filter(rng.random((height, width)), 6)
    ground = (ground - ground.min()) / np.ptp(ground)
    nuclei = ndimage.gaussian_filter((rng.random((height, width)) > 0.997).astype(float), 2.5)
    nuclei = np.minimum(nuclei / 0.02, 1)
    return np.stack([1.6 * nuclei + 0.02, (0.9 * ground + 0.5) * (1 - nuclei) + 0.02], axis=2)


def stained(
    of: NDArray[np.float64], vectors: NDArray[np.float64], strength: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """Picture (h, w, 3) uint8 of amounts (h, w, 2): light of 240 that the stains absorb."""
    unit = vectors / np.linalg.norm(vectors, axis=0)
    return np.round(240 * np.exp(-(of * strength) @ unit.T) - 1).clip(0, 255).astype(np.uint8)
