"""Layers that look at a window of their input, and blocks of them with a shortcut, as `row_stream` takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from wsipipe.models.residual_network import ResidualBlock
from wsipipe.models.stem import Stem


@dataclass(frozen=True, eq=False)
class Window:
    """A layer whose output i sees the inputs [stride * i - padding, stride * i - padding + kernel) on either axis.

    Parameters
    ----------
    run : callable
        (1, c, h, w) -> (1, channels, h', w') *without* padding: h' = (h - kernel) // stride + 1. Its result is its own
        to change; the input is not.
    kernel, stride, padding : int
        Of both axes. The padding tells where the output lies; what is there are the values beside the input.
    channels : int
        Of the output.
    relu : bool
        Whether a ReLU follows.
    macs : int
        Multiply-adds per output place.
    held : int
        Values that `run` holds at most, per value of the output.
    """

    run: Callable[[Tensor], Tensor]
    kernel: int
    stride: int
    padding: int
    channels: int
    relu: bool = False
    macs: int = 0
    held: int = 1


@dataclass(frozen=True, eq=False)
class Residual:
    """ReLU of the sum of what some windows, one after another, and a shortcut make of one input.

    Parameters
    ----------
    main : tuple of Window
        The windows; a ReLU of the last one is that of the sum.
    shortcut : Window
        `IDENTITY`, or one that brings the input to the size of the output.
    """

    main: tuple[Window, ...]
    shortcut: Window


Layer = Window | Residual

IDENTITY = Window(lambda x: x, kernel=1, stride=1, padding=0, channels=0)


def layers_of(body: nn.Module) -> Iterator[Layer]:
    """Layers of a `Stem`, of residual blocks, of poolings, and of sequences of these.

    Raises
    ------
    TypeError
        A module is none of them.
    """
    if isinstance(body, Stem):
        macs = 4 * body.conv1.weight.numel()
        yield Window(body.inside, 11, 4, 5, body.conv1.out_channels, macs=macs, held=4)
    elif isinstance(body, nn.AvgPool2d):
        side = _side(body.kernel_size)
        yield Window(lambda x: functional.avg_pool2d(x, side), side, side, 0, channels=0)
    elif isinstance(body, ResidualBlock):
        yield _block(body)
    elif isinstance(body, nn.Sequential):
        for part in body:
            yield from layers_of(part)
    else:
        raise TypeError(f"{type(body).__name__} cannot be streamed")


def _block(block: ResidualBlock) -> Residual:
    main = tuple(_convolution(conv, norm) for conv, norm in block.layers())
    return Residual(main, IDENTITY if block.downsample is None else _convolution(*block.downsample))


def _convolution(conv: nn.Conv2d, norm: nn.Module) -> Window:
    kernel, stride, padding = (_side(value) for value in (conv.kernel_size, conv.stride, conv.padding))

    def run(x: Tensor) -> Tensor:
        y: Tensor = norm(functional.conv2d(x, conv.weight, conv.bias, stride=stride))
        return y

    return Window(run, kernel, stride, padding, conv.out_channels, relu=True, macs=conv.weight.numel())


def _side(value: int | str | tuple[int, ...]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    side = sides.pop()
    if sides or not isinstance(side, int):
        raise TypeError(f"a layer with kernel, stride or padding {value} cannot be streamed")
    return side
