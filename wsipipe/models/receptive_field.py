"""How far a stack of convolutions and poolings looks around each of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ReceptiveField:
    """Output i of a stack sees the inputs [stride * i - before, stride * i + after], in px along one axis.

    Parameters
    ----------
    stride : int
        Input px per output.
    before, after : int
        Reach in px towards smaller and larger coordinates.
    """

    stride: int
    before: int
    after: int

    def halo(self, multiple: int) -> int:
        """Margin in px, a multiple of `multiple`, that makes the outputs inside a tile exact on every side."""
        reach = max(self.before, self.after - multiple + 1)
        return -(-reach // multiple) * multiple


def receptive_field(layers: Iterable[nn.Module]) -> ReceptiveField:
    """Receptive field of layers that follow one another.

    Parameters
    ----------
    layers : iterable of Module
        Convolutions and poolings in order, square kernels without dilation; see `main_path`.

    Returns
    -------
    ReceptiveField

    Notes
    -----
    A layer with kernel k, stride s and padding p whose inputs lie `jump` px apart adds p * jump px before and
    (k - 1 - p) * jump px after, and multiplies `jump` by s (Araujo, Norris and Sim, Distill 2019, eq. 2 and 3).
    """
    jump, before, after = 1, 0, 0
    for layer in layers:
        kernel, stride, padding = (_side(getattr(layer, name)) for name in ("kernel_size", "stride", "padding"))
        before += padding * jump
        after += (kernel - 1 - padding) * jump
        jump *= stride
    return ReceptiveField(stride=jump, before=before, after=after)


def main_path(body: nn.Module) -> Iterator[nn.Module]:
    """Convolutions and poolings of a residual network, without its shortcuts, which never look farther."""
    for name, module in body.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and "downsample" not in name:
            yield module


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
