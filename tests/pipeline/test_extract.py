"""Extraction: the map holds what the encoder says of the slide's pixels, whatever the tiling and the interruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slidemaker import tissue_picture, write_slide
from wsipipe.config import EncoderSettings, Recipe, updated
from wsipipe.errors import ConfigError, ResolutionError, TissueError, WeightsError
from wsipipe.geometry import CellGrid, Region
from wsipipe.models.encoders import Encoder, build_encoder
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.extract import encode, extract_slide, feature_path
from wsipipe.pipeline.layouts import Block, DenseLayout
from wsipipe.pipeline.pixel_source import PixelSource
from wsipipe.pipeline.tile import tile_slide
from wsipipe.progress import Progress
from wsipipe.slides import MppView, SlideEntry, open_slide
from wsipipe.store.feature_map import FeatureMap

ALL = slice(None)


def recipe(kind: str = "patch", *, mpp: float | None = 1.0, stride: int = 16, **tile: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "tile": {"mpp": mpp, "patch_size_px": 64, "min_tissue": 0.5} | tile,
            "encoder": {"name": "resnet18", "kind": kind, "weights": "none", "stride_px": stride},
        }
    )


def entry(path: Path) -> SlideEntry:
    return SlideEntry(path.stem, path)


@pytest.fixture(scope="module")
def dense_encoder() -> Encoder:
    return build_encoder(EncoderSettings(name="resnet18", kind="dense", weights="none"))


@pytest.fixture(scope="module")
def patch_encoder() -> Encoder:
    return build_encoder(EncoderSettings(name="resnet18", weights="none"))


def content(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    with FeatureMap.open(path) as features:
        return features.read(ALL, ALL), features.read_valid(ALL, ALL)


def test_every_patch_cell_holds_the_vector_of_its_patch(
    slide_path: Path, tmp_path: Path, patch_encoder: Encoder
) -> None:
    outcome = extract_slide(entry(slide_path), tmp_path, recipe(overlap_px=16), device="cpu", encoder=patch_encoder)
    assert outcome.status == "done"
    assert outcome.outputs == (feature_path(tmp_path, recipe(overlap_px=16), "tissue"),)
    values, valid = content(outcome.outputs[0])
    with FeatureMap.open(outcome.outputs[0]) as features:
        assert (features.info.kind, features.info.stride_px, features.info.dim) == ("patch", 48, 512)
    assert 0.2 < valid.mean() < 1
    assert not values[~valid].any()
    with open_slide(slide_path) as slide:
        view = MppView(slide, 1.0)
        cells = np.argwhere(valid)
        pixels = np.stack([view.read(Region(int(c) * 48, int(r) * 48, 64, 64)) for r, c in cells])
    expected = patch_encoder.encode(torch.from_numpy(pixels)).numpy()
    error = np.abs(values[valid] - expected)
    assert np.all(error <= 1e-3 * np.abs(expected) + 1e-5 * expected.max())  # float16 keeps 11 bits


def test_patches_without_tissue_are_never_read(
    slide_path: Path, tmp_path: Path, patch_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Region] = []
    read = PixelSource.read

    def watched(self: PixelSource, regions: tuple[Region, ...]) -> NDArray[np.uint8]:
        seen.extend(regions)
        return read(self, regions)

    monkeypatch.setattr(PixelSource, "read", watched)
    outcome = extract_slide(entry(slide_path), tmp_path, recipe(), device="cpu", encoder=patch_encoder)
    _, valid = content(outcome.outputs[0])
    assert sorted((region.y // 64, region.x // 64) for region in seen) == [tuple(cell) for cell in np.argwhere(valid)]


def undivided(view: MppView, encoder: Encoder, grid: CellGrid) -> NDArray[np.float32]:
    """One pass over the whole slide, set in white as wide as the halo, (rows, cols, dim)."""
    halo, stride = encoder.halo_px, encoder.stride_px
    whole = Region(0, 0, grid.cols * stride, grid.rows * stride).padded(halo, halo, halo, halo)
    features = encoder.encode(torch.from_numpy(view.read(whole))[None])[0].permute(1, 2, 0).numpy()
    margin = halo // stride
    return np.asarray(features[margin : margin + grid.rows, margin : margin + grid.cols])


@pytest.mark.parametrize(("stride", "mpp"), [(16, None), (32, 0.83)])
def test_stitched_dense_map_equals_one_undivided_pass(stride: int, mpp: float | None, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "odd.svs", tissue_picture(437, 331, margin=40))  # no multiples of a stride
    encoder = build_encoder(EncoderSettings(name="resnet18", kind="dense", weights="none", stride_px=stride))
    with open_slide(path) as slide:
        view = MppView(slide, mpp)
        grid = CellGrid.covering(*slide.dimensions, stride * view.scale)
        tissue = Tissue(np.ones((1, 1), bool), CellGrid(1, 1, 500.0))
        layout = DenseLayout(grid, tissue, stride, encoder.halo_px, core_px=128)
        stitched = np.full((*grid.shape, encoder.dim), np.nan, np.float32)
        tiles = 0
        for i in range(0, grid.rows, layout.block_cells):
            for j in range(0, grid.cols, layout.block_cells):
                rows = slice(i, min(i + layout.block_cells, grid.rows))
                cols = slice(j, min(j + layout.block_cells, grid.cols))
                block = Block((i, j), rows, cols, layout.valid(rows, cols))
                for piece in layout.pieces(block):
                    values = layout.arrange(encode(encoder, view.read(piece.regions[0])[None]), piece)
                    stitched[rows, cols][piece.rows, piece.cols] = values
                    tiles += 1
        expected = undivided(view, encoder, grid)
    assert tiles >= 6
    assert np.abs(stitched - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_smaller_halo_would_show(dense_encoder: Encoder, slide_path: Path) -> None:
    """The equality above is the halo's doing: half of it leaves seams."""
    with open_slide(slide_path) as slide:
        view = MppView(slide, None)
        exact, short = (
            dense_encoder.encode(torch.from_numpy(view.read(Region(256, 256, 64, 64).padded(h, h, h, h)))[None])
            for h in (dense_encoder.halo_px, 48)
        )
    exact, short = (x[..., h // 16 : h // 16 + 4, h // 16 : h // 16 + 4] for x, h in ((exact, 112), (short, 48)))
    assert (exact - short).abs().max() > 1e-3 * exact.abs().max()


@pytest.mark.parametrize("core_px", [160, 1024])
def test_dense_map_of_a_slide_is_the_undivided_pass_on_its_tissue(
    core_px: int, slide_path: Path, tmp_path: Path, dense_encoder: Encoder
) -> None:
    outcome = extract_slide(
        entry(slide_path), tmp_path, recipe("dense"), device="cpu", encoder=dense_encoder, core_px=core_px
    )
    values, valid = content(outcome.outputs[0])
    with FeatureMap.open(outcome.outputs[0]) as features, open_slide(slide_path) as slide:
        info = features.info
        expected = undivided(MppView(slide, 1.0), dense_encoder, info.grid)
    assert (info.kind, info.stride_px, info.shape, info.mpp) == ("dense", 16, (24, 32, 256), 1.0)
    assert 0.4 < valid.mean() < 0.95
    assert not values[~valid].any()
    error = np.abs(values[valid] - expected[valid])
    assert np.all(error <= 1e-3 * np.abs(expected[valid]) + 1e-5 * expected.max())


def test_valid_cells_are_those_on_and_beside_tissue(slide_path: Path, tmp_path: Path, dense_encoder: Encoder) -> None:
    outcome = extract_slide(entry(slide_path), tmp_path, recipe("dense"), device="cpu", encoder=dense_encoder)
    _, valid = content(outcome.outputs[0])
    # the tissue of the picture begins 96 level-0 px from its edges: 3 cells of 32 px
    assert valid[3:-3, 3:-3].all()
    assert not valid[0].any()
    assert not valid[:, 0].any()


class Interrupt(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize("kind", ["patch", "dense"])
def test_interrupted_work_goes_on_and_ends_the_same(
    kind: str, slide_path: Path, tmp_path: Path, patch_encoder: Encoder, dense_encoder: Encoder
) -> None:
    encoder = patch_encoder if kind == "patch" else dense_encoder
    wanted = recipe(kind, patch_size_px=16)
    arguments: dict[str, Any] = {"device": "cpu", "encoder": encoder, "core_px": 160}

    def stop_near_the_end(progress: Progress, /) -> None:
        if progress.done > 0.8 * progress.total:
            raise Interrupt

    with pytest.raises(Interrupt):
        extract_slide(entry(slide_path), tmp_path / "a", wanted, report=stop_near_the_end, **arguments)
    assert not feature_path(tmp_path / "a", wanted, "tissue").exists()

    told: list[Progress] = []
    resumed = extract_slide(entry(slide_path), tmp_path / "a", wanted, report=told.append, **arguments)
    whole: list[Progress] = []
    fresh = extract_slide(entry(slide_path), tmp_path / "b", wanted, report=whole.append, **arguments)
    assert told[0].total < whole[0].total  # what was done is not done again
    for progress in (told, whole):
        assert [p.done for p in progress] == sorted(p.done for p in progress)
        assert progress[-1].done == progress[-1].total
        assert {(p.item, p.stage) for p in progress} == {("tissue", "extract")}
    for got, expected in zip(content(resumed.outputs[0]), content(fresh.outputs[0]), strict=True):
        assert np.array_equal(got, expected)


def test_finished_maps_are_recognised(slide_path: Path, tmp_path: Path, patch_encoder: Encoder) -> None:
    arguments: dict[str, Any] = {"device": "cpu", "encoder": patch_encoder}
    first = extract_slide(entry(slide_path), tmp_path, recipe(), **arguments)
    again = extract_slide(entry(slide_path), tmp_path, recipe(), **arguments)
    forced = extract_slide(entry(slide_path), tmp_path, recipe(), force=True, **arguments)
    changed = extract_slide(entry(slide_path), tmp_path, recipe(min_tissue=0.9), **arguments)
    assert [outcome.status for outcome in (first, again, forced, changed)] == ["done", "skipped", "done", "done"]
    assert again.outputs == first.outputs == changed.outputs


def test_another_slide_under_the_same_name_is_extracted_anew(tmp_path: Path, patch_encoder: Encoder) -> None:
    outcomes = []
    for width in (400, 464):
        path = write_slide(tmp_path / "s.svs", tissue_picture(width, 320, margin=32))
        outcomes.append(extract_slide(entry(path), tmp_path, recipe(), device="cpu", encoder=patch_encoder))
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    with FeatureMap.open(outcomes[1].outputs[0]) as features:
        assert features.info.slide_size == (464, 320)


def test_tissue_comes_from_an_up_to_date_tile_file(
    slide_path: Path, tmp_path: Path, patch_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = extract_slide(entry(slide_path), tmp_path / "a", recipe(), device="cpu", encoder=patch_encoder)
    tile_slide(entry(slide_path), tmp_path / "b", recipe().tile)

    def refuse(*args: object) -> None:
        pytest.fail("tissue was looked for although it is known")

    with monkeypatch.context() as patch:
        patch.setattr("wsipipe.pipeline.tissue_reuse.slide_tissue", refuse)
        reused = extract_slide(entry(slide_path), tmp_path / "b", recipe(), device="cpu", encoder=patch_encoder)
    for got, expected in zip(content(reused.outputs[0]), content(found.outputs[0]), strict=True):
        assert np.array_equal(got, expected)

    other = recipe(min_tissue=0.2)  # a tile file of other settings does not count, nor does a torn one
    assert extract_slide(entry(slide_path), tmp_path / "b", other, encoder=patch_encoder).status == "done"
    tiles = tmp_path / "b" / "tiles" / "tissue.h5"
    tiles.write_bytes(tiles.read_bytes()[:100])
    assert extract_slide(entry(slide_path), tmp_path / "b", recipe(), encoder=patch_encoder).status == "done"


def test_pictures_without_a_resolution_are_taken_whole_at_their_own_pixels(
    tmp_path: Path, picture: NDArray[np.uint8], patch_encoder: Encoder
) -> None:
    path = write_slide(tmp_path / "core.tif", picture[:200, :300], mpp=None, vendor="generic")
    outcome = extract_slide(entry(path), tmp_path, recipe(mpp=None), device="cpu", encoder=patch_encoder)
    _, valid = content(outcome.outputs[0])
    assert valid.shape == (4, 5)
    with pytest.raises(ResolutionError, match="--slide-mpp"):
        extract_slide(entry(path), tmp_path, recipe(), device="cpu", encoder=patch_encoder)


def test_the_filter_bank_goes_the_same_way(slide_path: Path, tmp_path: Path) -> None:
    wanted = updated(recipe("dense"), {"encoder": {"name": "filterbank", "stride_px": 8}})
    outcome = extract_slide(entry(slide_path), tmp_path, wanted, device="cpu", core_px=160)
    values, valid = content(outcome.outputs[0])
    with FeatureMap.open(outcome.outputs[0]) as features, open_slide(slide_path) as slide:
        encoder = build_encoder(wanted.encoder)
        expected = undivided(MppView(slide, 1.0), encoder, features.info.grid)
    np.testing.assert_allclose(values[valid], expected[valid], rtol=2e-3, atol=1e-3 * np.abs(expected).max())


def test_reading_by_several_threads_changes_nothing(
    slide_path: Path, tmp_path: Path, patch_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = extract_slide(entry(slide_path), tmp_path / "a", recipe(), device="cpu", encoder=patch_encoder)
    monkeypatch.setattr("wsipipe.pipeline.extract.reading_threads", lambda device: 3)
    many = extract_slide(entry(slide_path), tmp_path / "b", recipe(), device="cpu", encoder=patch_encoder)
    for got, expected in zip(content(many.outputs[0]), content(one.outputs[0]), strict=True):
        assert np.array_equal(got, expected)


class SmallDevice:
    """An encoder that holds at most `most` pictures at once."""

    name, kind, dim, stride_px, halo_px, weights_digest = "small", "patch", 3, 0, 0, "x"

    def __init__(self, most: int) -> None:
        self.most = most

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch.float().mean((1, 2))


def test_a_batch_too_large_for_the_device_is_halved() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_allclose(encode(SmallDevice(2), pixels), pixels.mean((1, 2)), rtol=1e-6)


def test_a_tile_too_large_for_the_device_is_told() -> None:
    with pytest.raises(ConfigError, match=r"too little memory for a tile of 6 x 4 px.*--device cpu"):
        encode(SmallDevice(0), np.zeros((3, 4, 6, 3), np.uint8))


def test_images_that_skip_the_encoder_are_refused(slide_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no features to extract"):
        extract_slide(entry(slide_path), tmp_path, updated(recipe(), {"encoder": {"name": "none"}}))
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_leave_nothing_behind(slide_path: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        extract_slide(entry(slide_path), tmp_path, updated(recipe(), {"encoder": {"weights": "nowhere.pt"}}))
    assert list(tmp_path.iterdir()) == []


def test_a_slide_without_enough_tissue_is_told(tmp_path: Path, patch_encoder: Encoder) -> None:
    path = write_slide(tmp_path / "s.svs", tissue_picture(600, 560, margin=100))
    wanted = recipe(patch_size_px=128, min_tissue=1.0, tissue={"min_area_um2": 1000.0})
    with pytest.raises(TissueError, match=r"s\.svs: no patch has a tissue fraction of 1.*min_tissue"):
        extract_slide(entry(path), tmp_path, wanted, device="cpu", encoder=patch_encoder)
    white = write_slide(tmp_path / "w.svs", np.full((320, 400, 3), 243, np.uint8))
    with pytest.raises(TissueError, match=r"w\.svs: no tissue"):
        extract_slide(entry(white), tmp_path, recipe(), device="cpu", encoder=patch_encoder)
    assert not (tmp_path / "features").exists()
