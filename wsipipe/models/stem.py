"""First layers of a ResNet, in bands of rows: pixels in, features at a quarter of the resolution out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Values of the first convolution's output that one band holds: 32 MiB of float32.
_BAND_VALUES = 2**23


class Stem(nn.Module):
    """Normalisation, 7 x 7 convolution, batch norm, ReLU and max pooling, without ever holding the convolution whole.

    The first convolution of a tile of 1600 x 1600 px takes 164 MB, more than any later layer, and a quarter of that
    is left after pooling. Bands of rows overlap by what the kernels reach and give the same values as one pass.

    Parameters
    ----------
    conv1 : Conv2d
        Kernel 7, stride 2, padding 3.
    bn1 : Module
        What follows it before the ReLU.
    maxpool : MaxPool2d
        Kernel 3, stride 2, padding 1.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, conv1: nn.Conv2d, bn1: nn.Module, maxpool: nn.MaxPool2d) -> None:
        super().__init__()
        self.conv1, self.bn1, self.maxpool = conv1, bn1, maxpool
        std = torch.tensor(IMAGENET_STD)
        self.register_buffer("gain", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-torch.tensor(IMAGENET_MEAN) / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, h, w, 3) uint8 -> (n, c, ceil(h / 4), ceil(w / 4)) float32."""
        # (n, h, w, 3) seen as (n, 3, h, w) is channels-last already: no copy but the one to float.
        x = pixels.permute(0, 3, 1, 2)
        bands = [self._band(x, start, stop) for start, stop in self._bands(*x.shape)]
        return bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)

    def inside(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) uint8 -> (n, c, (h - 7) // 4, (w - 7) // 4): without padding, and not in bands."""
        y = functional.conv2d(self._normalised(x), self.conv1.weight, self.conv1.bias, stride=2)
        return functional.max_pool2d(functional.relu(self.bn1(y), inplace=True), 3, stride=2)

    def _normalised(self, x: Tensor) -> Tensor:
        return x.to(self.gain.dtype).mul_(self.gain).add_(self.shift)

    def _bands(self, n: int, _: int, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Rows of the output, few enough at a time."""
        conv_row = n * self.conv1.out_channels * -(-width // 2)
        step = max(1, _BAND_VALUES // (2 * conv_row))
        rows = -(-height // 4)
        return ((start, min(start + step, rows)) for start in range(0, rows, step))

    def _band(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Output rows [start, stop).

        Output row r takes rows 2 r - 1 to 2 r + 1 of the convolution, and its row c takes rows 2 c - 3 to 2 c + 3 of
        the input; rows off the edge are zero, as in the convolution's own padding. The pooling's padding is minus
        infinity, but after a ReLU zero does as well.
        """
        conv_rows = -(-x.shape[2] // 2)
        first, last = max(2 * start - 1, 0), min(2 * stop, conv_rows)
        top, bottom = 2 * first - 3, 2 * last + 2
        inside = functional.pad(
            self._normalised(x[:, :, max(top, 0) : bottom]), (0, 0, max(-top, 0), max(bottom - x.shape[2], 0))
        )
        y = functional.conv2d(inside, self.conv1.weight, self.conv1.bias, stride=2, padding=(0, 3))
        y = functional.relu(self.bn1(y), inplace=True)
        above, below = first - (2 * start - 1), 2 * stop - last
        if above or below:  # padding copies, so only the outermost bands pay for it
            y = functional.pad(y, (0, 0, above, below))
        return functional.max_pool2d(y, 3, stride=2, padding=(0, 1))
