"""Pieces of a feature map: images that go through the encoder together, and the cells that they make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wsipipe.errors import NumericsError
from wsipipe.read_ahead import read_ahead


@dataclass(frozen=True, eq=False)
class MapPiece:
    """Images of one size and where their features belong.

    Parameters
    ----------
    pixels : (n, ...) Tensor
        What the encoder takes, on any device.
    corners : (n, 2) int64 Tensor
        First cell (row, col) of each image on the map. A patch makes that cell alone; a dense tile the block that is
        left of its features without the halo.
    halo : int
        Dense tiles: cells to crop on every side.
    """

    pixels: Tensor
    corners: Tensor
    halo: int = 0


class PieceSource(Protocol):
    """Pieces that can be read again: a list of them, or an object that reads one when asked, in another thread.

    Piece i has to be the same each time. What draws random numbers belongs in the encoder
    (`nn.Sequential(augmentation, encoder)`), where it is replayed.
    """

    def __len__(self) -> int:
        """Count the pieces."""
        ...

    def __getitem__(self, index: int, /) -> MapPiece:
        """Read a piece."""
        ...


def reading_ahead(pieces: PieceSource, depth: int) -> Iterator[MapPiece]:
    """Yield pieces in order; up to `depth` of them are read, or being read, while another is computed."""
    with closing(read_ahead(range(len(pieces)), pieces.__getitem__, depth=depth)) as read:
        for _, piece in read:
            yield piece


def arranged(features: Tensor, piece: MapPiece) -> Tensor:
    """Bring what the encoder gave for a piece, (n, dim) or (n, dim, h, w), into (n, dim, h', w') without the halo.

    Raises
    ------
    NumericsError
        The features are of another shape, or nothing is left of them.
    """
    halo, sides = piece.halo, features.shape[2:] or (1, 1)
    if features.ndim not in (2, 4) or len(features) != len(piece.corners) or min(sides) <= 2 * halo:
        raise NumericsError(
            f"the encoder gave features of shape {tuple(features.shape)} for {len(piece.corners)} images with a halo "
            f"of {halo} cells, wanted (n, dim) or (n, dim, h, w)"
        )
    features = features.reshape(*features.shape[:2], *sides)
    return features[:, :, halo : sides[0] - halo, halo : sides[1] - halo]


class MapCells:
    """The cells of a map that pieces fill, each once.

    Parameters
    ----------
    shape : (int, int)
        (rows, cols) of the map.
    device : torch.device
        Where the map is.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.shape = shape
        self._filled = torch.zeros(shape, dtype=torch.int32, device=device)

    def put(self, target: Tensor, piece: MapPiece, features: Tensor) -> None:
        """Write arranged features (n, dim, h, w) into a map (dim, rows, cols).

        Raises
        ------
        NumericsError
            A cell lies off the map.
        """
        rows, cols = self.index(piece, features)
        target[:, rows, cols] = features.movedim(1, 0)
        self._filled.index_put_((rows, cols), torch.ones_like(self._filled[0, 0]), accumulate=True)

    def index(self, piece: MapPiece, features: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, h, 1) and columns (n, 1, w) of a piece's cells, on the map's device."""
        size, corners = features.shape[2:], piece.corners.cpu()
        if len(corners) and (corners.min() < 0 or (corners + torch.tensor(size) > torch.tensor(self.shape)).any()):
            raise NumericsError(f"features of {tuple(size)} cells at {corners.tolist()} lie off a map of {self.shape}")
        rows, cols = (
            (corners[:, axis, None] + torch.arange(size[axis])).to(self._filled.device, non_blocking=True)
            for axis in (0, 1)
        )
        return rows[:, :, None], cols[:, None, :]

    def check(self) -> None:
        """See that no cell was written twice: its gradient would count twice.

        Raises
        ------
        NumericsError
            One was.
        """
        twice = int((self._filled > 1).sum())
        if twice:
            raise NumericsError(f"{twice} cells of the feature map are filled by more than one image")
