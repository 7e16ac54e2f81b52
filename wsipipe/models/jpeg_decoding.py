"""Decode JPEG streams on a device: nvJPEG on CUDA, libjpeg-turbo on the CPU, both through torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class UndecodableError(Exception):
    """Streams that cannot be decoded on a device, or a device or library that cannot decode; says why."""


def decode_jpegs(streams: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """Decode streams in one go.

    Parameters
    ----------
    streams : sequence of bytes
        Complete JPEG streams.
    device : torch.device
        The CPU or a GPU of CUDA.

    Returns
    -------
    list of (height, width, 3) uint8 Tensor
        RGB, on the device, in the order of the streams; views of planes.

    Raises
    ------
    UndecodableError
        One of the streams is damaged, or the device has no decoder.

    Notes
    -----
    torchvision lets one thread at a time decode on CUDA, on a stream of its own that it waits for. Memory for the
    pixels comes from the caller's current stream, whose work must be done: the decoder does not wait for it.
    """
    if not streams:
        return []
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        encoded = [torch.frombuffer(bytearray(stream), dtype=torch.uint8) for stream in streams]
        decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    except (ImportError, RuntimeError) as error:  # torchvision 0.29 announces that its decoder will go
        raise UndecodableError(" ".join(str(error).split())) from error
    return [image.permute(1, 2, 0) for image in decoded]
