"""The encoder in training: windows of feature maps made from pixels, and gradients that go back into the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsipipe.config import Recipe
from wsipipe.models.map_pieces import MapPiece
from wsipipe.models.multistage import StagedMap
from wsipipe.models.norms import batch_norms, estimating, normalising_by_batch
from wsipipe.models.tuned_encoder import as_module, encoder_digest, encoder_tensors, trainable_encoder
from wsipipe.pipeline.layouts import Block, DenseLayout, PatchLayout, Piece
from wsipipe.pipeline.samples import Sample
from wsipipe.pipeline.sources import FeatureSource
from wsipipe.pipeline.stain import recolouring_of, view_of
from wsipipe.pipeline.tissue import everything
from wsipipe.slides import SlideReader, open_slide

# Side in target px of what a dense encoder is given at once, without the halo: half of that in extraction, for now the
# activations of all layers stay until the gradients are there.
_CORE_PX = 512
# Patches that go through the encoder at once, and the fewest of a window that say how to normalise: of fewer, batch
# norms would see a chance draw.
_PATCHES, _FEWEST = 16, 8


class EncoderTuner:
    """Tunes the encoder of a recipe by multi-stage back-propagation, see `wsipipe.models.multistage`.

    Batch norms of what is tuned normalise by the batch in `encode`, and by the statistics of `settle` in `look` and
    in prediction. Everything else is in evaluation mode all along.

    Parameters
    ----------
    recipe : Recipe
        Its section `encoder` says what is tuned.
    device : torch.device
        Where the encoder is.
    half : bool
        Mixed precision.
    """

    def __init__(self, recipe: Recipe, *, device: torch.device, half: bool) -> None:
        self.encoder, tuned = trainable_encoder(recipe.encoder, device=str(device))
        self.parameters = tuple(parameter for part in tuned for parameter in part.parameters())
        self._norms = batch_norms(tuned)
        self._recipe, self._autocast = recipe, torch.float16 if half else None
        self._waiting: list[tuple[StagedMap, Sequence[_BatchNorm]]] = []

    @property
    def _module(self) -> nn.Module:
        return as_module(self.encoder)

    def encode(self, sample: Sample, valid: NDArray[np.bool_]) -> Tensor:
        """Features (dim, h, w) of a window, to be learnt from: `backpropagate` has to follow.

        Parameters
        ----------
        sample : Sample
            The window.
        valid : (h, w) bool array
            Cells that hold something; the others are 0.
        """
        norms = self._norms if self._suffices(valid) else ()
        with normalising_by_batch(norms):
            staged = self._staged(sample, valid, self._autocast)
        self._waiting.append((staged, norms))
        return _masked(staged.features, valid)

    def settle(self, windows: Iterable[tuple[Sample, NDArray[np.bool_]]]) -> None:
        """Take the statistics that `look` and prediction normalise by from windows and their valid cells."""
        chosen = [(sample, valid) for sample, valid in windows if self._suffices(valid)]
        if not chosen or not self._norms:
            return
        with estimating(self._norms):
            for sample, valid in chosen:
                self._staged(sample, valid, None)

    def _suffices(self, valid: NDArray[np.bool_]) -> bool:
        """Whether a window holds enough to normalise by; the tile of a single dense cell does."""
        return self.encoder.kind == "dense" or int(valid.sum()) >= _FEWEST

    def look(self, sample: Sample, valid: NDArray[np.bool_]) -> Tensor:
        """Features (dim, h, w) of a window, without gradients and in full precision, as `extract` computes them."""
        return _masked(self._staged(sample, valid, None).features.detach(), valid)

    def backpropagate(self) -> None:
        """Add the gradients of all that was encoded since to the encoder's, once those of the features are there."""
        for staged, norms in self._waiting:
            with normalising_by_batch(norms):
                staged.backpropagate()
        self._waiting.clear()

    @property
    def digest(self) -> str:
        """Names the weights as they are now."""
        return encoder_digest(self.encoder)

    def tensors(self) -> dict[str, Tensor]:
        """Weights for a checkpoint."""
        return encoder_tensors(self.encoder)

    def state(self) -> dict[str, Any]:
        """Give what an interrupted run needs to go on the same."""
        return self._module.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._module.load_state_dict(state)

    def _staged(self, sample: Sample, valid: NDArray[np.bool_], autocast: torch.dtype | None) -> StagedMap:
        return StagedMap(self._module, self._source(sample, valid), sample.shape, autocast=autocast)

    def _source(self, sample: Sample, valid: NDArray[np.bool_]) -> WindowPieces:
        assert isinstance(sample.source, FeatureSource)
        pieces, halo = tuple(self._pieces(sample.source, sample, valid)), self.encoder.halo_px
        cells = halo // self.encoder.stride_px if halo else 0
        return WindowPieces(sample.source, (sample.rows.start, sample.cols.start), pieces, cells)

    def _pieces(self, source: FeatureSource, sample: Sample, valid: NDArray[np.bool_]) -> Iterator[Piece]:
        """Cut a window into what goes through the encoder at once.

        Dense maps are cut as `extract` cuts them. A piece of patches is spread over the whole window: batch norms see
        in each of them what the window holds, not a row of neighbours.
        """
        if self.encoder.kind == "patch":
            tile, count = self._recipe.tile, int(valid.sum())
            layout = PatchLayout(source.grid, valid, tile.patch_size_px, tile.stride_px, batch=max(1, count))
            for whole in layout.pieces(next(_blocks(sample, valid, max(valid.shape)))):
                yield from _spread(whole, -(-count // _PATCHES))
        else:
            # Which cells are computed is told by `valid`; no tissue mask is asked.
            tissue, encoder = everything(*source.slide_size), self.encoder
            tiles = DenseLayout(source.grid, tissue, encoder.stride_px, encoder.halo_px, core_px=_CORE_PX)
            for block in _blocks(sample, valid, tiles.block_cells):
                yield from tiles.pieces(block)


def _masked(features: Tensor, valid: NDArray[np.bool_]) -> Tensor:
    """(1, dim, h, w) -> (dim, h, w) float32, 0 on cells without content as in a stored map."""
    return features[0].float() * torch.from_numpy(valid).to(features.device)


def _spread(piece: Piece, parts: int) -> Iterator[Piece]:
    """Divide a piece into pieces of about one size, each of every so many-th patch."""
    rows, cols = np.asarray(piece.rows), np.asarray(piece.cols)
    for first in range(parts):
        every = slice(first, None, parts)
        yield replace(piece, regions=piece.regions[every], rows=rows[every], cols=cols[every])


def _blocks(sample: Sample, valid: NDArray[np.bool_], side: int) -> Iterator[Block]:
    """Squares of `side` cells that a window consists of."""
    for top in range(0, valid.shape[0], side):
        for left in range(0, valid.shape[1], side):
            part = valid[top : top + side, left : left + side]
            row, col = sample.rows.start + top, sample.cols.start + left
            yield Block((0, 0), slice(row, row + part.shape[0]), slice(col, col + part.shape[1]), part)


@dataclass(eq=False)
class WindowPieces:
    """Pieces of a window, read from its slide in their order; the slide is open from the first to the last.

    Parameters
    ----------
    source : FeatureSource
        The map and its slide.
    corner : (int, int)
        First cell (row, col) of the window on the map.
    pieces : tuple of Piece
        What to read.
    halo : int
        Cells to crop from the features of each.
    """

    source: FeatureSource
    corner: tuple[int, int]
    pieces: tuple[Piece, ...]
    halo: int
    _slide: SlideReader | None = field(default=None, init=False)

    def __len__(self) -> int:
        """Count the pieces."""
        return len(self.pieces)

    def __getitem__(self, index: int, /) -> MapPiece:
        """Read a piece."""
        entry, piece = self.source.entry, self.pieces[index]
        if self._slide is None:
            self._slide = open_slide(entry.path, mpp=entry.mpp, reader=self.source.reader)
        view = view_of(self._slide, self.source.info.mpp, recolouring_of(self.source.info))
        pixels = np.stack([view.read(region) for region in piece.regions])
        if index == len(self) - 1:
            self._slide.close()
            self._slide = None
        return MapPiece(torch.from_numpy(pixels), torch.from_numpy(self._corners(piece)), self.halo)

    def _corners(self, piece: Piece) -> NDArray[np.int64]:
        """First cell (row, col) of each region on the window."""
        block = piece.block
        rows, cols = (
            np.atleast_1d(cells.start if isinstance(cells, slice) else cells) + place.start - first
            for cells, place, first in zip((piece.rows, piece.cols), (block.rows, block.cols), self.corner, strict=True)
        )
        return np.stack([rows, cols], axis=1)
