"""Residual networks (He et al. 2015, table 1), layer for layer those of torchvision, with its names.

Importing torchvision takes a second and 160 MB, most of it for operators of its detection networks. Weights of its
networks fit, and tests hold the two against each other.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
_WIDTHS = (64, 128, 256, 512)
# Kernels of a block's convolutions.
_BASIC, _BOTTLENECK = (3, 3), (1, 3, 1)
# Output channels of a bottleneck per channel inside.
_EXPANSION = 4


class ResidualBlock(nn.Module):
    """Convolutions `conv1`, `conv2`, ... with batch norms `bn1`, `bn2`, ..., and a shortcut around them.

    Parameters
    ----------
    inputs, width : int
        Channels of the input, and inside.
    kernels : tuple of int
        (3, 3), or (1, 3, 1), which ends in 4 `width` channels.
    stride : int
        Of the first convolution with a kernel of 3, as torchvision has it, and of the shortcut.

    Attributes
    ----------
    downsample : Sequential or None
        Convolution and batch norm of the shortcut where it changes the size.
    """

    def __init__(self, inputs: int, width: int, *, kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        outputs = _outputs(width, kernels)
        widths = [inputs, *[width] * (len(kernels) - 1), outputs]
        self.depth = len(kernels)
        for index, kernel in enumerate(kernels):
            step = stride if index == kernels.index(3) else 1
            self.add_module(f"conv{index + 1}", _convolution(widths[index], widths[index + 1], kernel, step))
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(widths[index + 1]))
        same = stride == 1 and inputs == outputs
        self.downsample = (
            None if same else nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def layers(self) -> list[tuple[nn.Conv2d, nn.Module]]:
        """Convolutions of the main path, each with what follows it before the ReLU."""
        return [(getattr(self, f"conv{n}"), getattr(self, f"bn{n}")) for n in range(1, self.depth + 1)]

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        *inner, (last, norm) = self.layers()
        y = x
        for conv, bn in inner:
            y = functional.relu(bn(conv(y)), inplace=True)
        y = norm(last(y))
        y += shortcut
        return functional.relu(y, inplace=True)


def residual_network(name: str) -> nn.Sequential:
    """Network up to its pooled features: children `conv1`, `bn1`, `relu`, `maxpool`, `layer1` to `layer4`, `avgpool`.

    Parameters
    ----------
    name : str
        "resnet18", "resnet34" or "resnet50".
    """
    kernels = _BOTTLENECK if name == "resnet50" else _BASIC
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_convolution(3, _WIDTHS[0], 7, 2),
        bn1=nn.BatchNorm2d(_WIDTHS[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inputs = _WIDTHS[0]
    for index, (count, width) in enumerate(zip(_BLOCKS[name], _WIDTHS, strict=True)):
        parts[f"layer{index + 1}"] = _stage(inputs, width, count, kernels, stride=1 if index == 0 else 2)
        inputs = _outputs(width, kernels)
    parts["avgpool"] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(parts)


def _stage(inputs: int, width: int, count: int, kernels: tuple[int, ...], *, stride: int) -> nn.Sequential:
    """Blocks of one width; the first of them takes the stride."""
    first = ResidualBlock(inputs, width, kernels=kernels, stride=stride)
    outputs = _outputs(width, kernels)
    return nn.Sequential(first, *(ResidualBlock(outputs, width, kernels=kernels, stride=1) for _ in range(count - 1)))


def _outputs(width: int, kernels: tuple[int, ...]) -> int:
    """Channels that a block of some width gives."""
    return width * _EXPANSION if kernels == _BOTTLENECK else width


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
