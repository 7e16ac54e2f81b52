"""The `extract` command's work on one slide: read tissue, encode it, write a feature map that can be resumed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.config import Recipe
from wsipipe.errors import ConfigError, TissueError
from wsipipe.models.devices import pick_device, pinned
from wsipipe.models.encoders import Encoder, Streamable, build_encoder
from wsipipe.numerics.solvers.tasks import available_threads
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.dense_stream import DenseStream
from wsipipe.pipeline.feature_plan import feature_path, plan_map
from wsipipe.pipeline.layouts import Block, DenseLayout, Layout, PatchLayout, Piece, WindowLayout
from wsipipe.pipeline.memory import release_memory
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.pixel_source import PixelSource, Source
from wsipipe.pipeline.stain import normalised, with_target
from wsipipe.pipeline.tile import kept_cells
from wsipipe.pipeline.tissue_reuse import tissue_for
from wsipipe.pipeline.write_behind import WriteBehind
from wsipipe.progress import Progress, Report, silent
from wsipipe.read_ahead import read_ahead
from wsipipe.slides import MppView, SlideEntry, open_slide
from wsipipe.store.feature_map import FeatureMapInfo, FeatureMapWriter, is_finished

__all__ = ["extract_slide", "feature_path"]


def extract_slide(
    entry: SlideEntry,
    out: Path,
    recipe: Recipe,
    *,
    reader: str = "auto",
    device: str = "auto",
    force: bool = False,
    report: Report = silent,
    encoder: Encoder | None = None,
    tissue: Tissue | None = None,
    core_px: int = 1024,
) -> SlideOutcome:
    """Compute the feature map of one slide, or go on with it, or find it finished.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    out : Path
        Project folder; the map goes to `feature_path`.
    recipe : Recipe
        Its sections `tile`, `encoder` and `stain` count.
    reader : str
        Slide library; "auto" chooses.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps".
    force : bool
        Compute again what is finished.
    report : Report
        Told the cells done and to do, stage "extract".
    encoder : Encoder, optional
        What the recipe's encoder section builds, where the caller has it already.
    tissue : Tissue, optional
        What `tissue_for` finds, where the caller has it already.
    core_px : int
        Dense maps: about the side in target px of a block, the unit that is written as a whole. Encoders that cannot
        be streamed compute a block at once, with a halo: larger is faster and needs more memory.

    Returns
    -------
    SlideOutcome
        `outputs[0]` is the path of the map.

    Raises
    ------
    ConfigError
        The recipe skips the encoder, or asks for one that does not exist.
    WeightsError
        The encoder's weights are not at hand.
    SlideError, ResolutionError, TissueError, StainError, StoreError
        The slide cannot be read, has no resolution, no tissue or no stain that can be told; the map cannot be written.
    """
    if recipe.encoder.uses_images:
        raise ConfigError("encoder 'none' has no features to extract", remedy="use --encoder resnet34 or filterbank")
    target, recipe = pick_device(device), with_target(recipe)
    encoder = encoder or build_encoder(recipe.encoder, device=str(target))
    path = feature_path(out, recipe, entry.key)
    with open_slide(entry.path, mpp=entry.mpp, reader=reader) as slide:
        view = MppView(slide, recipe.tile.mpp)
        info = plan_map(entry, view, recipe, dim=encoder.dim, weights_digest=encoder.weights_digest)
        if not force and is_finished(path, info):
            return SlideOutcome(entry.key, "skipped", "feature map is up to date", (path,))
        tissue = tissue or tissue_for(entry, view, out, recipe.tile)
        view, info = normalised(view, info, tissue, recipe.stain)
        layout = _layout(tissue, info, recipe, encoder, core_px=core_px, path=entry.path)
        with FeatureMapWriter.open(path, info, block=layout.block_cells) as writer:
            message = _fill(writer, layout, view, encoder, device=target, report=report)
            writer.finish()
    return SlideOutcome(entry.key, "done", message, (path,))


def _layout(
    tissue: Tissue, info: FeatureMapInfo, recipe: Recipe, encoder: Encoder, *, core_px: int, path: Path
) -> Layout:
    if info.kind == "dense" and encoder.window_px:
        return WindowLayout(info.grid, tissue, encoder.stride_px, encoder.window_px, core_px=core_px)
    if info.kind == "dense":
        return DenseLayout(info.grid, tissue, encoder.stride_px, encoder.halo_px, core_px=core_px)
    kept = kept_cells(tissue, info.grid, recipe.tile, slide_size=info.slide_size)
    if not kept.any():
        raise TissueError(
            f"no patch has a tissue fraction of {recipe.tile.min_tissue:g}",
            path=path,
            remedy="lower min_tissue or the patch size",
        )
    return PatchLayout(info.grid, kept, patch_px=recipe.tile.patch_size_px, stride_px=info.stride_px)


def _fill(
    writer: FeatureMapWriter, layout: Layout, view: MppView, encoder: Encoder, *, device: torch.device, report: Report
) -> str:
    """Compute the blocks that are not done yet; return a line about it."""
    release_memory()  # what building the encoder and finding tissue left
    todo, occupied, total = _settle_empty_blocks(writer, layout)
    started, done, pixels_read = time.perf_counter(), 0, 0
    report(Progress(writer.info.slide, "extract", done, total))

    def tell(cells: int, pixels: int) -> None:
        nonlocal done, pixels_read
        done += cells
        pixels_read += pixels
        report(Progress(writer.info.slide, "extract", done, total))

    with _source(view, encoder, device) as source, WriteBehind() as behind:
        computed: Iterator[Sequence[tuple[Block, NDArray[np.floating[Any]]]]]
        if isinstance(layout, DenseLayout) and isinstance(encoder, Streamable):
            stream = DenseStream(layout, encoder.row_layers(), device, encoder.dim)
            computed = stream.blocks(set(todo), occupied, source, threads=reading_threads(device), tell=tell)
        else:
            pieces = (piece for block in _blocks(writer, layout, todo) for piece in layout.pieces(block))
            data = _read(pieces, source, device)
            computed = _by_pieces(data, layout, encoder, tell)
        for blocks in computed:
            behind.put(partial(_write, writer, blocks))
    seconds = max(time.perf_counter() - started, 1e-9)
    return f"{done} cells of {encoder.dim} values, {pixels_read / 1e6 / seconds:.2f} MP/s{source.told}"


def _source(view: MppView, encoder: Encoder, device: torch.device) -> Source:
    """Pixels from a GPU that decodes tiles itself where it can, for an encoder that runs there; else from the CPU."""
    if device.type == "cuda" and getattr(encoder, "device", None) == device:
        from wsipipe.pipeline.device_source import open_device_source

        if (found := open_device_source(view, device)) is not None:
            return found
    return PixelSource(view)


def _read(pieces: Iterator[Piece], source: Source, device: torch.device) -> Iterator[tuple[Piece, Tensor]]:
    def read(piece: Piece) -> Tensor:
        return pinned(source.read(piece.regions), device)

    threads = reading_threads(device)
    return read_ahead(pieces, read, threads=threads, depth=threads + 1)


def _by_pieces(
    data: Iterator[tuple[Piece, Tensor]], layout: Layout, encoder: Encoder, tell: Callable[[int, int], None]
) -> Iterator[list[tuple[Block, NDArray[np.float32]]]]:
    """Compute blocks one after another, each from its pieces."""
    for block, parts in itertools.groupby(data, key=lambda part: part[0].block):
        values = np.zeros((*block.valid.shape, encoder.dim), np.float32)
        for piece, pixels in parts:
            values[piece.rows, piece.cols] = layout.arrange(encode(encoder, pixels), piece)
            tell(piece.cells, math.prod(pixels.shape[:3]))
        yield [(block, values)]
        release_memory()


def _write(writer: FeatureMapWriter, blocks: Sequence[tuple[Block, NDArray[np.floating[Any]]]]) -> None:
    for block, values in blocks:
        writer.write_block(*block.index, values, block.valid)


def _settle_empty_blocks(
    writer: FeatureMapWriter, layout: Layout
) -> tuple[list[tuple[int, int]], NDArray[np.bool_], int]:
    """Write off the blocks without tissue; return the others, all blocks with tissue, and the cells to compute."""
    left = set(writer.blocks)
    grid, side = layout.grid, layout.block_cells
    occupied = np.zeros((-(-grid.rows // side), -(-grid.cols // side)), np.bool_)
    todo, cells = [], 0
    for block in _blocks(writer, layout, list(np.ndindex(occupied.shape))):
        count = int(np.count_nonzero(block.valid))
        occupied[block.index] = count > 0
        if block.index in left and count:
            todo.append(block.index)
            cells += count
        elif block.index in left:
            writer.write_block(*block.index, None, block.valid)
    return todo, occupied, cells


def _blocks(writer: FeatureMapWriter, layout: Layout, indices: Iterable[tuple[int, ...]]) -> Iterator[Block]:
    for i, j in indices:
        rows, cols = writer.block_slices(i, j)
        yield Block((i, j), rows, cols, layout.valid(rows, cols))


def encode(encoder: Encoder, pixels: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
    """Features of (n, h, w, 3) pixels, back on the CPU; a batch too large for the GPU is halved.

    Raises
    ------
    ConfigError
        The GPU cannot hold even one of the n.
    """
    try:
        return np.asarray(encoder.encode(torch.as_tensor(pixels)).cpu().numpy())
    except torch.OutOfMemoryError as error:
        if len(pixels) == 1:
            height, width = pixels.shape[1:3]
            raise ConfigError(
                f"the device has too little memory for a tile of {width} x {height} px",
                remedy="use --device cpu, or fewer --workers",
            ) from error
    half = len(pixels) // 2
    return np.concatenate([encode(encoder, pixels[:half]), encode(encoder, pixels[half:])])


def reading_threads(device: torch.device) -> int:
    """Threads that read ahead: one feeds a CPU, whose cores are busy with the network; a GPU takes what there is."""
    return min(8, available_threads()) if device.type == "cuda" else 1
