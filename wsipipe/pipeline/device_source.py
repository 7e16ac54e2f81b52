"""Pixels of one slide on the device that computes: tiles are sent there as JPEG, decoded and put together there."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.models.jpeg_decoding import UndecodableError, decode_jpegs
from wsipipe.pipeline.device_resample import resample_on_device
from wsipipe.pipeline.stain import RecolouredView
from wsipipe.slides import MppView
from wsipipe.slides.encoded_tiles import EncodedTiles, Key, Part, encoded_tiles
from wsipipe.slides.pixels import WHITE
from wsipipe.slides.resample import linear_taps

# Decoded tiles that are kept on the device: some rows of them across a band of a dense map.
CACHE_BYTES = 256 << 20
# How far a device's decoder may lie from the CPU's in any of the tiles that are compared, in grey values: mean and
# largest. Colours that are not interpolated between their samples, which the standard leaves open, make 1.3 and 25 in
# an H&E section (4:2:0, quality 90); colours taken for others, a mean of 29 (`benchmarks/device_decoding.py`).
MOST_MEAN, MOST = 2.0, 64


class DeviceSource:
    """Reads regions at the target resolution into tensors on a device; see `PixelSource`.

    Parameters
    ----------
    view : MppView
        The slide at the target resolution.
    tiles : EncodedTiles
        Of the level that the view reads.
    device : torch.device
        Where the pixels are wanted.

    Notes
    -----
    Any number of threads may read at once: bytes are read in parallel, one thread at a time decodes. On CUDA that
    happens in a stream of its own beside the network's, and is done when `read` returns. A tile that the file does not
    hold, or not to its end, or that the device does not decode, comes from the slide's reader, which raises where it is
    damaged. Bits that are damaged inside a tile which ends as it should are told where the device's decoder tells.
    """

    def __init__(self, view: MppView, tiles: EncodedTiles, device: torch.device) -> None:
        self.told = f", tiles decoded on {device}"
        self._view, self._tiles, self._device = view, tiles, device
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._most_kept = CACHE_BYTES // (tiles.tile_size[0] * tiles.tile_size[1] * 3)
        self._lock = threading.Lock()
        on_cuda = device.type == "cuda"
        self._network = torch.cuda.current_stream(device) if on_cuda else None
        self._own = cast("Any", torch.cuda.Stream)(device) if on_cuda else None

    def read(self, regions: tuple[Region, ...]) -> Tensor:
        """Read regions of one size, in target px: (n, height, width, 3) uint8 Tensor, white outside of the slide."""
        if self._view.ratio == 1.0:
            return self._read(regions)
        rows = [linear_taps(region.y, region.height, self._view.ratio) for region in regions]
        cols = [linear_taps(region.x, region.width, self._view.ratio) for region in regions]
        places = [Region(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in zip(rows, cols, strict=True)]
        return self._read(places, lambda pixels: resample_on_device(pixels, rows, cols))

    def _read(self, places: Sequence[Region], then: Callable[[Tensor], Tensor] = lambda pixels: pixels) -> Tensor:
        """Read places in px of the level, and do something with them on the device."""
        parts = [self._tiles.parts(place) for place in places]
        wanted = list(dict.fromkeys(part.key for each in parts for part in each))
        streams = {key: self._tiles.stream(key) for key in wanted if key not in self._kept}
        with self._lock, torch.cuda.stream(self._own):
            self._wait()  # memory that is used anew must be idle: the decoder works in yet another stream
            tiles = self._decoded(wanted, streams)
            pixels = then(self._assembled(places, parts, tiles))
            self._wait()
        if self._network is not None:
            pixels.record_stream(self._network)
        return pixels

    def agrees(self) -> bool:
        """Whether the device decodes some tiles as the CPU does, up to `MOST_MEAN` and `MOST`."""
        keys = self._tiles.examples()
        streams = [stream for key in keys if (stream := self._tiles.stream(key)) is not None]
        try:
            with self._lock, torch.cuda.stream(self._own):
                self._wait()
                decoded = [image.cpu().numpy() for image in decode_jpegs(streams, self._device)]
            return 0 < len(keys) == len(decoded) and all(map(self._is_close, keys, decoded))
        except (UndecodableError, SlideError):
            return False

    def _is_close(self, key: Key, ours: NDArray[np.uint8]) -> bool:
        theirs = self._tiles.pixels(key)
        (part,) = self._tiles.parts(self._tiles.place(key))
        if ours.shape != theirs.shape:
            return False
        apart = np.abs(ours[part.source].astype(np.int16) - theirs[part.source])
        return bool(apart.mean() <= MOST_MEAN and apart.max() <= MOST)

    def _decoded(self, wanted: Sequence[Key], streams: Mapping[Key, bytes | None]) -> dict[Key, Tensor]:
        """Tiles on the device, of this or an earlier reading; `streams` are those that were read for it."""
        missing = [key for key in wanted if key not in self._kept]
        new = self._decode({key: streams[key] if key in streams else self._tiles.stream(key) for key in missing})
        tiles = {key: new[key] if key in new else self._kept.pop(key) for key in wanted}
        self._kept.update(tiles)
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return tiles

    def _decode(self, streams: Mapping[Key, bytes | None]) -> dict[Key, Tensor]:
        sent = {key: stream for key, stream in streams.items() if stream is not None}
        try:
            decoded = dict(zip(sent, decode_jpegs(list(sent.values()), self._device), strict=True))
        except UndecodableError:
            decoded = {}  # the reader finds the one that is damaged
        width, height = self._tiles.tile_size
        whole = {key: image for key, image in decoded.items() if image.shape == (height, width, 3)}
        return {key: whole[key] if key in whole else self._from_reader(key) for key in streams}

    def _from_reader(self, key: Key) -> Tensor:
        return torch.from_numpy(self._tiles.pixels(key)).to(self._device)

    def _assembled(
        self, places: Sequence[Region], parts: Sequence[Sequence[Part]], tiles: Mapping[Key, Tensor]
    ) -> Tensor:
        """Put places together: (n, h, w, 3) of the largest height and width, white where there is no tile."""
        height, width = max(place.height for place in places), max(place.width for place in places)
        shape = len(places), height, width, 3
        canvas = torch.full(shape, WHITE, dtype=torch.uint8, device=self._device)
        for image, each in zip(canvas, parts, strict=True):
            for part in each:
                image[part.there] = tiles[part.key][part.source]
        return canvas

    def _wait(self) -> None:
        if self._own is not None:
            self._own.synchronize()

    def close(self) -> None:
        """Give tiles and handles back."""
        self._kept.clear()
        self._tiles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_device_source(view: MppView, device: torch.device) -> DeviceSource | None:
    """Source that decodes on a device, with a handle of its own on the slide.

    Returns
    -------
    DeviceSource or None
        None where pixels are recoloured, the level is not stored as JPEG tiles that are read directly, or is read
        smaller, or the device does not decode them as the CPU does.
    """
    if isinstance(view, RecolouredView) or view.factor > 1:
        return None
    tiles = encoded_tiles(copy.copy(view.reader), view.level)
    if tiles is None:
        return None
    source = DeviceSource(view, tiles, device)
    if source.agrees():
        return source
    source.close()
    return None
