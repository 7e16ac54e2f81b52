"""A convolutional network over a plane of any height, strip by strip of rows, and only where its output is wanted.

Tiles with a halo compute every halo twice and more. Here the last rows of what each layer gave stay for the next strip,
so no row is computed twice; and every layer is computed only in those columns that reach an output that is wanted. The
result is that of one pass over an unbounded plane: the caller gives pixels wherever they are asked for, also beside the
slide.

**Where things lie.** Let a layer have m rows for each row of the output, and let output r depend on its rows
[m r - before, m r + after]. For strip t, outputs [t H, (t + 1) H), it then has to be known up to row
m (t + 1) H - m + after: the layer computes the m H rows up to there, ahead of the output by after - m + 1 rows, and
keeps as many rows as its readers look back. Row r of the output needs its strip t if t H <= r < (t + 1) H + (before +
after) // m.

**The same shapes, wherever one begins.** Which rows and columns a layer computes in strip t depends on t and on what is
wanted, not on where the stream began. Begun in the middle, the first strips compute rows from what is not there, but
none that a wanted output sees; all that it sees went through the same operations as in a stream from the top, so it is
the same bit for bit where a convolution looks at its window alone, as on CPUs. What is not there is zero, so that
algorithms that mix neighbouring places (Winograd's, on GPUs) see nothing wild.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.models.row_layers import Layer, Residual, Window

# Values that one call of a layer gives at most: 8 MiB of float32, which the heap recycles.
_CHUNK_VALUES = 2**21


class Rect(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of the input."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, eq=False)
class _Step:
    """One window from one node to the next, and what is added to it."""

    window: Window
    source: int
    target: int
    shortcut: Window | None = None
    base: int = 0

    def reads(self) -> Iterator[tuple[Window, int]]:
        yield self.window, self.source
        if self.shortcut is not None:
            yield self.shortcut, self.base


@dataclass(frozen=True)
class _Node:
    """Values between two layers: `scale` rows per row of the output, which sees `before` and `after` of them.

    `tail` rows stay from strip to strip; `last` is the step that reads the node last.
    """

    channels: int
    scale: int = 1
    before: int = 0
    after: int = 0
    tail: int = 0
    last: int = -1

    @property
    def ahead(self) -> int:
        """Rows that the node is ahead of the output."""
        return self.after - self.scale + 1

    @property
    def look(self) -> int:
        """Rows of output past a strip's own that need the strip."""
        return (self.before + self.after) // self.scale


class RowStream:
    """Strips of pixels in, strips of features out.

    Parameters
    ----------
    layers : sequence of Layer
        The network; see `wsipipe.models.row_layers`.
    wanted : (rows, cols) bool array
        Outputs to compute. Output (r, c) lies over the pixels from (r * stride, c * stride) on.
    strip : int
        Rows of output per strip. Higher ones are faster and need more memory: see `column_bytes`.
    channels : int
        Of the pixels.
    quantum : int
        Columns of output in whose multiples the layers are computed: few shapes are fast, since each costs the
        convolutions' library time and memory.
    dtype : torch.dtype
        Of the layers' values.

    Attributes
    ----------
    stride : int
        Pixels per output.

    Notes
    -----
    Memory is three times `column_bytes` times the columns and the reach on either side, plus some rows of every layer.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        wanted: NDArray[np.bool_],
        *,
        strip: int,
        channels: int = 3,
        quantum: int = 8,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._steps = _steps(layers)
        self._nodes = _nodes(self._steps, channels)
        self._wanted, self._strip, self._quantum, self._dtype = wanted, strip, quantum, dtype
        self.stride = self._nodes[0].scale
        reach = -(-max(self._nodes[0].before, self._nodes[0].after) // self.stride)
        self._margin = (-(-reach // quantum) + 1) * quantum
        self._width: int = 2 * self._margin + -(-wanted.shape[1] // quantum) * quantum
        self._held: dict[int, Tensor] = {}
        self._tails: dict[int, Tensor] = {}
        self._stores: dict[int, Tensor] = {}
        self._computed: dict[int, list[tuple[int, int]]] = {}
        self._free: list[Tensor] = []

    def strips(self, first: int = 0, last: int | None = None) -> range:
        """List the strips to push for the outputs of rows [first, last), in order; some may need no pixels."""
        rows = np.flatnonzero(self._wanted[first:last].any(axis=1)) + first
        if not len(rows):
            return range(0)
        return range((int(rows[0]) - self._nodes[0].look) // self._strip, int(rows[-1]) // self._strip + 1)

    def regions(self, strip: int) -> list[Rect]:
        """Pixels that `push` takes for a strip."""
        top, bottom = self._rows(self._nodes[0], strip)
        return [Rect(top, bottom, *span) for span in self._spans(self._nodes[0], strip, quantum=1)]

    @torch.inference_mode()
    def push(self, strip: int, pixels: Sequence[Tensor]) -> Tensor | None:
        """Compute a strip.

        Parameters
        ----------
        strip : int
            The one after that of the last call, or the first.
        pixels : sequence of (1, channels, h, w) Tensor
            One for each of `regions`, on the layers' device; memory in channels-last order is fastest.

        Returns
        -------
        (1, dim, strip, cols) Tensor or None
            Outputs of rows [strip * t, strip * (t + 1)), right where `wanted`; overwritten by the next call. None
            where none is wanted.
        """
        if not pixels:
            return None
        like = pixels[0]
        first = self._take(0, like, self._spans(self._nodes[0], strip, quantum=1))
        top, left = self._nodes[0].tail, self._margin * self.stride
        for part, rect in zip(pixels, self.regions(strip), strict=True):
            first[:, :, top:, left + rect.left : left + rect.right] = part
        for place, step in enumerate(self._steps):
            self._run(step, strip, like)
            for source in {source for _, source in step.reads()} & self._held.keys():
                if self._nodes[source].last == place:
                    self._put_away(source)
        out = self._held.get(len(self._nodes) - 1)
        if out is None:
            return None
        self._put_away(len(self._nodes) - 1)
        return out[..., self._margin : self._margin + self._wanted.shape[1]]

    def macs(self) -> int:
        """Count the multiply-adds of the whole stream."""
        total = 0
        for strip, step in itertools.product(self.strips(), self._steps):
            node = self._nodes[step.target]
            columns = sum(right - left for left, right in self._spans(node, strip, self._quantum))
            total += sum(window.macs for window, _ in step.reads()) * columns * self._strip * node.scale
        return total

    def macs_per_output(self) -> int:
        """Count the multiply-adds per output of one pass over a plane, where nothing is computed in vain."""
        places = [(self._nodes[step.target].scale, step) for step in self._steps]
        return sum(window.macs * scale * scale for scale, step in places for window, _ in step.reads())

    def _rows(self, node: _Node, strip: int) -> tuple[int, int]:
        start = strip * self._strip * node.scale + node.ahead
        return start, start + self._strip * node.scale

    def _spans(self, node: _Node, strip: int, quantum: int) -> list[tuple[int, int]]:
        """Columns of a node that some wanted output sees, in multiples of `quantum` columns of output."""
        first = strip * self._strip
        rows = self._wanted[max(first, 0) : max(first + self._strip + node.look, 0)]
        spans: list[tuple[int, int]] = []
        step = quantum * node.scale
        for left, right in runs(np.any(rows, axis=0)):
            start = (left * node.scale - node.before) // step * step
            stop = -(-((right - 1) * node.scale + node.after + 1) // step) * step
            if spans and start <= spans[-1][1]:
                start, _ = spans.pop()
            spans.append((start, stop))
        return spans

    def _run(self, step: _Step, strip: int, like: Tensor) -> None:
        node = self._nodes[step.target]
        spans = self._spans(node, strip, self._quantum)
        if not spans:
            return
        out = self._take(step.target, like, spans)
        rows, margin = self._strip * node.scale, self._margin * node.scale
        most = max(1, _CHUNK_VALUES // (node.channels * rows * step.window.held * node.scale * self._quantum))
        for span in spans:
            for left, right in _chunks(*span, step=self._quantum * node.scale, most=most):
                columns = margin + left, margin + right
                self._into(out[:, :, node.tail :, columns[0] : columns[1]], step, columns)

    def _into(self, out: Tensor, step: _Step, columns: tuple[int, int]) -> None:
        """Compute some columns of a step's new rows."""
        y = step.window.run(self._window(step.window, step.source, step.target, columns))
        if step.shortcut is not None:
            y += step.shortcut.run(self._window(step.shortcut, step.base, step.target, columns))
        if step.window.relu:
            torch.clamp_min(y, 0, out=out)
        else:
            out.copy_(y)

    def _window(self, window: Window, source: int, target: int, columns: tuple[int, int]) -> Tensor:
        """Give what a window sees of its source, for all new rows and some columns of its target."""
        before, after = self._nodes[source], self._nodes[target]
        top = after.ahead * window.stride - window.padding - before.ahead + before.tail
        height = (self._strip * after.scale - 1) * window.stride + window.kernel
        left = columns[0] * window.stride - window.padding
        width = (columns[1] - columns[0] - 1) * window.stride + window.kernel
        return self._held[source][:, :, top : top + height, left : left + width]

    def _take(self, index: int, like: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        """Rows of a node for one strip: those kept of the last, and room for the new ones in some columns."""
        node = self._nodes[index]
        store = self._free.pop() if self._free and index else self._room(node, like)
        # Rows, columns, channels in memory, whatever the order of the axes: channels-last.
        flat = store[: self._size(node)].view(-1, self._width * node.scale, node.channels)
        held = flat.permute(2, 0, 1)[None]
        self._stores[index], self._held[index], self._computed[index] = store, held, spans
        if index in self._tails:
            held[:, :, : node.tail] = self._tails[index]
        else:
            held[:, :, : node.tail] = 0
        # Windows reach past what is computed by less than two quanta.
        beside, margin = 2 * self._quantum * node.scale, self._margin * node.scale
        for left, right in spans:
            held[:, :, node.tail :, max(margin + left - beside, 0) : margin + left] = 0
            held[:, :, node.tail :, margin + right : margin + right + beside] = 0
        return held

    def _size(self, node: _Node) -> int:
        return (node.tail + self._strip * node.scale) * self._width * node.scale * node.channels

    def _room(self, node: _Node, like: Tensor) -> Tensor:
        """Make room for the pixels, or for any other node."""
        if node == self._nodes[0]:
            return like.new_empty(self._size(node))
        return torch.empty(max(map(self._size, self._nodes[1:])), dtype=self._dtype, device=like.device)

    def _put_away(self, index: int) -> None:
        """Keep the rows that the next strip needs, and make room."""
        held, spans, node = self._held.pop(index), self._computed.pop(index), self._nodes[index]
        if node.tail:
            new = held[:, :, -node.tail :]
            tails = self._tails.setdefault(index, torch.empty_like(new)).zero_()
            for left, right in spans:
                columns = slice(self._margin * node.scale + left, self._margin * node.scale + right)
                tails[..., columns] = new[..., columns]
        store = self._stores.pop(index)
        if index:
            self._free.append(store)


def column_bytes(layers: Sequence[Layer], *, strip: int, channels: int = 3, itemsize: int = 4) -> int:
    """Bytes that the largest layer holds per column of output."""
    nodes = _nodes(_steps(layers), channels)[1:]
    return max((node.tail + strip * node.scale) * node.scale * node.channels for node in nodes) * itemsize


def _steps(layers: Sequence[Layer]) -> list[_Step]:
    steps: list[_Step] = []
    node = 0
    for layer in layers:
        start = node
        windows = layer.main if isinstance(layer, Residual) else (layer,)
        for window in windows:
            steps.append(_Step(window, node, node + 1))
            node += 1
        if isinstance(layer, Residual):
            steps[-1] = _Step(windows[-1], node - 1, node, layer.shortcut, start)
    return steps


def _nodes(steps: Sequence[_Step], channels: int) -> list[_Node]:
    """Go forward for the channels, and back from the output for all else."""
    widths = [channels]
    for step in steps:
        widths.append(step.window.channels or widths[step.source])
    nodes = [_Node(width) for width in widths]
    for place, step in reversed(list(enumerate(steps))):
        out = nodes[step.target]
        for window, source in step.reads():
            old = nodes[source]
            nodes[source] = _Node(
                old.channels,
                scale=out.scale * window.stride,
                before=max(old.before, out.before * window.stride + window.padding),
                after=max(old.after, out.after * window.stride + window.kernel - 1 - window.padding),
                last=max(old.last, place),
            )
    for step in steps:
        for window, source in step.reads():
            first = nodes[step.target].ahead * window.stride - window.padding  # row that is read for the first new one
            tail = max(nodes[source].tail, nodes[source].ahead - first)
            nodes[source] = replace(nodes[source], tail=tail)
    return nodes


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Find the runs of True in a mask of one axis, as (start, stop)."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
    return [(int(start), int(stop)) for start, stop in edges]


def _chunks(left: int, right: int, *, step: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut columns, a multiple of `step`, into parts of at most `most` steps that differ by one at most."""
    steps = (right - left) // step
    parts = -(-steps // most)
    edges = [left + step * (steps * part // parts) for part in range(parts + 1)]
    return itertools.pairwise(edges)
