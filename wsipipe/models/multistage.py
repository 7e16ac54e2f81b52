"""Ordinary back-propagation through an encoder and a whole feature map, in memory that few patches need.

Multi-stage back-propagation: encode all pieces of the map without a graph; find the gradient of the loss with respect
to the map; encode the pieces once more, one after the other and with a graph, and feed each its slice of that gradient
(Takahama et al., Multi-stage pathological image classification using semantic segmentation, ICCV 2019). It costs one
more pass through the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from wsipipe.errors import NumericsError
from wsipipe.models.distributed import share_buffers, unwrapped
from wsipipe.models.map_pieces import MapCells, MapPiece, PieceSource, arranged, reading_ahead
from wsipipe.models.replay import Replay

Criterion = Callable[[Tensor], Tensor]
# How far the second pass may be from the first, in norms: rounding of another kernel, not other pixels or draws.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def multistage_backward(
    encoder: nn.Module,
    pieces: PieceSource,
    criterion: Criterion,
    *,
    shape: tuple[int, int],
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    depth: int = 2,
) -> Tensor:
    """Add the gradients of a loss of a whole feature map to the encoder's and the head's parameters.

    Parameters
    ----------
    encoder : Module
        Images of a piece -> (n, dim) or (n, dim, h, w); on one device, trained or in part, alone or in a
        `DistributedDataParallel`.
    pieces : PieceSource
        Images and where their features belong. Read twice.
    criterion : callable
        Feature map (1, dim, rows, cols) -> scalar loss; any head and loss. Cells that no piece fills are 0.
    shape : (int, int)
        (rows, cols) of the map.
    autocast : dtype, optional
        Encoder and criterion compute in this precision where torch's autocast does; None: as they are, whatever
        autocast the caller is in.
    scaler : GradScaler, optional
        Scales the loss; `scaler.step` and `scaler.update` are the caller's.
    depth : int
        Pieces in memory at most, beside the one that is computed: they are read in a thread.

    Returns
    -------
    Tensor
        The loss, without graph and scale.

    Raises
    ------
    NumericsError
        Pieces lie off the map or over each other, the loss does not depend on the map, or a piece was encoded
        otherwise the second time.

    Notes
    -----
    Gradients are those of ordinary back-propagation through the same batches, up to rounding. Batch norm in training
    mode normalises each batch by itself, here as there: another division into pieces is another function. Random
    numbers of torch are replayed and running statistics updated once, see `Replay`.

    Gradients add up over calls, so that several slides make one optimiser step. Under `DistributedDataParallel` they
    are averaged over the processes once per call, in its last backward pass; `no_sync` holds that off as usual. The
    number of pieces may differ between processes, but not with batch norms that speak with each other (SyncBatchNorm).

    Memory: two maps (values and gradient), the graph of one piece and those that are read ahead; before that, the
    graph of the criterion.
    """
    staged = StagedMap(encoder, pieces, shape, autocast=autocast, depth=depth)
    with _precision(staged.features.device, autocast):
        loss = criterion(staged.features)
    scaled = loss if scaler is None else scaler.scale(loss)
    torch.autograd.backward(scaled)
    staged.backpropagate()
    return loss.detach()


class StagedMap:
    """A feature map whose gradient goes on into the encoder: stage 1 when it is made, stage 3 by `backpropagate`.

    For training loops of other kinds than `multistage_backward`: several maps may go into one loss, in any order.
    Parameters are those of `multistage_backward`.

    Attributes
    ----------
    features : (1, dim, rows, cols) Tensor
        The map, a leaf that asks for a gradient; in the precision that the encoder gives.
    """

    features: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        pieces: PieceSource,
        shape: tuple[int, int],
        *,
        autocast: torch.dtype | None = None,
        depth: int = 2,
    ) -> None:
        self._encoder, self._pieces = encoder, pieces
        self._device = next(encoder.parameters()).device
        self._autocast, self._depth = autocast, depth
        self._cells = MapCells(shape, self._device)
        share_buffers(encoder)
        self._replay = Replay(encoder, self._device)
        self.features = self._stitched()[None].requires_grad_()

    @torch.no_grad()
    def _stitched(self) -> Tensor:
        """Stage 1: the map (dim, rows, cols)."""
        target: Tensor | None = None
        for piece in reading_ahead(self._pieces, self._depth):
            features = self._encode(unwrapped(self._encoder), piece)
            if target is None:
                target = features.new_zeros((features.shape[1], *self._cells.shape))
            self._cells.put(target, piece, features)
        if target is None:
            raise NumericsError("a feature map needs at least one piece, got none")
        self._cells.check()
        return target

    def backpropagate(self) -> None:
        """Stage 3: add to the encoder's gradients what `features.grad` says; that is given back as None.

        Raises
        ------
        NumericsError
            There is no gradient, or a piece is encoded otherwise than in stage 1.
        """
        gradient, self.features.grad = self.features.grad, None
        if gradient is None:
            raise NumericsError("the loss does not depend on the feature map, there is nothing to back-propagate")
        if not any(parameter.requires_grad for parameter in self._encoder.parameters()):
            return
        with self._replay.again(), torch.enable_grad():
            for index, piece in enumerate(reading_ahead(self._pieces, self._depth)):
                # Only the last piece passes through the wrapper: processes average the sum of all gradients, once.
                last = index == len(self._pieces) - 1
                self._feed(self._encoder if last else unwrapped(self._encoder), piece, gradient[0])

    def _feed(self, encoder: nn.Module, piece: MapPiece, gradient: Tensor) -> None:
        features = self._encode(encoder, piece)
        rows, cols = self._cells.index(piece, features)
        self._check(features.detach(), self.features.detach()[0, :, rows, cols].movedim(0, 1))
        if features.requires_grad:
            torch.autograd.backward(features, gradient[:, rows, cols].movedim(0, 1))

    def _encode(self, encoder: nn.Module, piece: MapPiece) -> Tensor:
        """Features (n, dim, h, w) of a piece without its halo."""
        with _precision(self._device, self._autocast):
            return arranged(encoder(piece.pixels.to(self._device, non_blocking=True)), piece)

    def _check(self, again: Tensor, before: Tensor) -> None:
        """See that both passes gave the same; else gradients would belong to neither. NaN is left to the loss."""
        share = _SAME[self._autocast or again.dtype]
        wide = torch.promote_types(again.dtype, torch.float32)  # norms overflow in half precision
        again, before = again.to(wide), before.to(wide)
        if torch.linalg.vector_norm(again - before) > share * torch.linalg.vector_norm(before):
            raise NumericsError(
                "a piece of the feature map was encoded otherwise the second time",
                remedy="a source must give the same pixels again; augmentation belongs in the encoder, "
                "with torch's random numbers",
            )


def _precision(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast that keeps no cast weights: older torch hands those of a pass without a graph to the next, with one."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)
