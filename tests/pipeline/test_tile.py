import json

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import shape

from slidemaker import write_slide
from wsipipe.config import TileSettings, TissueSettings
from wsipipe.errors import ResolutionError, StoreError, TissueError
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.tile import TilePaths, kept_cells, patch_corners, patch_grid, tile_slide
from wsipipe.pipeline.tissue import detection_mpp, everything, find_tissue, slide_tissue
from wsipipe.slides import MppView, SlideEntry, open_slide
from wsipipe.store.tile_file import read_tile_file

SETTINGS = TileSettings(mpp=0.5, patch_size_px=64)


@pytest.fixture
def entry(slide_path):
    return SlideEntry("tissue", slide_path)


def test_find_tissue_follows_the_tissue(slide_path):
    with open_slide(slide_path) as slide:
        tissue = find_tissue(slide, TissueSettings())
    truth = Tissue(np.pad(np.ones((576, 832), bool), 96), CellGrid(768, 1024, 1.0)).fraction(tissue.grid) > 0.5
    assert tissue.grid.cell_px * 0.5 == pytest.approx(3.0)  # 384 um over 128 px
    assert (tissue.mask & truth).sum() / (tissue.mask | truth).sum() > 0.95


def test_smear_up_to_the_edges_is_glass(tmp_path):
    # Pixels of the overview at 16 um are eight of these: the last row and column lie mostly past the slide.
    width, height = 1603, 2403
    across, down = (np.clip((np.arange(side) - side + 900) / 600, 0, 1) for side in (width, height))
    smear = np.maximum(across, down[:, None])[..., None]
    image = np.array([247.0, 245.0, 246.0]) * (1 - smear) + np.array([245.0, 221.0, 233.0]) * smear
    image[200:500, 1203:] -= np.random.default_rng(0).integers(0, 130, (300, 400, 1)).repeat(3, axis=2)
    path = write_slide(tmp_path / "smear.svs", image.astype(np.uint8), mpp=2.0, levels=1, compression="deflate")
    with open_slide(path) as slide:
        tissue = find_tissue(slide, TissueSettings(mpp=16.0))
    assert tissue.mask.shape == (301, 201)
    assert tissue.mask[28:60, 155:].all()
    assert not tissue.mask[:20].any()
    assert not tissue.mask[70:].any()


@pytest.mark.parametrize(
    ("size", "mpp", "expected"),
    [
        ((20000, 20000), 0.5, 8.0),
        ((40960, 30720), 0.5, 12.2474),  # two megapixels
        ((80000, 60000), 0.5, 16.0),
        ((775, 522), 0.62, 522 * 0.62 / 128),
        ((100, 100), 0.5, 0.5),
        ((900, 900), 20.0, 20.0),
    ],
)
def test_detection_is_finer_on_small_pictures_and_coarser_on_large_ones(size, mpp, expected):
    assert detection_mpp(size, mpp, TissueSettings()) == pytest.approx(expected, rel=1e-5)


def test_everything_covers_the_picture():
    fraction = everything(5003, 2999).fraction(CellGrid(2, 4, 1250.0))
    np.testing.assert_allclose(fraction, 1.0)


def test_done_then_skipped(entry, tmp_path):
    reports = []
    first = tile_slide(entry, tmp_path, SETTINGS, report=reports.append)
    assert (first.key, first.status) == ("tissue", "done")
    assert first.outputs == TilePaths.of(tmp_path, "tissue").files
    assert all(path.is_file() for path in first.outputs)
    assert reports[-1].done == reports[-1].total
    times = [path.stat().st_mtime_ns for path in first.outputs]
    assert tile_slide(entry, tmp_path, SETTINGS).status == "skipped"
    assert [path.stat().st_mtime_ns for path in first.outputs] == times


@pytest.mark.parametrize(
    "settings",
    [
        TileSettings(mpp=0.5, patch_size_px=96),
        TileSettings(mpp=0.5, patch_size_px=64, min_tissue=0.4),
        TileSettings(mpp=0.5, patch_size_px=64, tissue=TissueSettings(min_hole_um2=0)),
    ],
)
def test_other_settings_are_done_again(entry, tmp_path, settings):
    tile_slide(entry, tmp_path, SETTINGS)
    assert tile_slide(entry, tmp_path, settings).status == "done"
    assert read_tile_file(tmp_path / "tiles" / "tissue.h5").info.settings == settings.model_dump(mode="json")


def test_other_resolution_force_and_lost_or_spoilt_files_are_done_again(entry, tmp_path):
    paths = TilePaths.of(tmp_path, "tissue")

    def status(entry=entry, **options):
        return tile_slide(entry, tmp_path, SETTINGS, **options).status

    assert status() == "done"
    assert status(SlideEntry("tissue", entry.path, 0.4)) == "done"
    assert status(force=True) == "done"
    paths.thumbnail.unlink()
    assert status() == "done"
    paths.tiles.write_bytes(paths.tiles.read_bytes()[:2000])
    assert status() == "done"
    assert status(crop=False) == "done"
    assert status(crop=False) == "skipped"


def test_other_slide_of_the_same_name_is_done_again(picture, entry, tmp_path):
    tile_slide(entry, tmp_path, SETTINGS)
    other = write_slide(tmp_path / "tissue.svs", picture[:, :900])
    assert tile_slide(SlideEntry("tissue", other), tmp_path, SETTINGS).status == "done"


@pytest.mark.parametrize(("mpp", "patch", "overlap"), [(0.5, 64, 0), (0.37, 100, 0), (1.3, 48, 16), (0.8, 60, 21)])
def test_coordinates_equal_a_count_of_pixels(entry, tmp_path, mpp, patch, overlap):
    settings = TileSettings(mpp=mpp, patch_size_px=patch, overlap_px=overlap, min_tissue=0.45)
    tile_slide(entry, tmp_path, settings)
    tiles = read_tile_file(tmp_path / "tiles" / "tissue.h5")
    scale, stride = mpp / 0.5, patch - overlap
    fine = 16  # samples per px of the tissue mask
    side = tiles.tissue.grid.cell_px / fine
    mask = tiles.tissue.mask.repeat(fine, axis=0).repeat(fine, axis=1)
    mask = mask[: round(768 / side), : round(1024 / side)]
    expected = []
    for row in range(int(np.ceil(768 / (stride * scale) - 1e-6))):
        for col in range(int(np.ceil(1024 / (stride * scale) - 1e-6))):
            top, left = ((i * stride + overlap / 2) * scale / side for i in (row, col))
            rows = slice(round(top), round(top + stride * scale / side))
            cols = slice(round(left), round(left + stride * scale / side))
            share = mask[rows, cols].mean() if mask[rows, cols].size else 0.0
            assert abs(share - 0.45) > 0.004  # the samples cannot decide closer calls
            if share > 0.45:
                expected.append((round(col * stride * scale), round(row * stride * scale)))
    assert tiles.coords.dtype == np.int64
    np.testing.assert_array_equal(tiles.coords, expected)


def test_patches_and_cells_share_their_centres():
    settings = TileSettings(mpp=0.5, patch_size_px=256, overlap_px=64)
    grid = patch_grid(10_000, 8_000, 2.0, settings)
    cells = np.argwhere(np.ones(grid.shape, bool))
    corners = patch_corners(cells, 2.0, settings)
    np.testing.assert_allclose(grid.centres(cells), corners + 256 * 2.0 / 2)
    assert grid.shape == (21, 27)


def test_corners_are_rounded_one_by_one():
    settings = TileSettings(mpp=0.5, patch_size_px=100)
    corners = patch_corners(np.array([[0, 999], [999, 0]]), 1.0005, settings)
    np.testing.assert_array_equal(corners, [[99950, 0], [0, 99950]])


def test_kept_cells_reach_the_threshold():
    tissue = Tissue(np.array([[True, False], [True, True], [False, False]]), CellGrid(3, 2, 10.0))
    grid = CellGrid(2, 2, 10.0, (0.0, 5.0))
    kept = kept_cells(tissue, grid, TileSettings(min_tissue=0.5), slide_size=(20, 30))
    np.testing.assert_array_equal(kept, [[True, True], [True, True]])
    kept = kept_cells(tissue, grid, TileSettings(min_tissue=0.6), slide_size=(20, 30))
    np.testing.assert_array_equal(kept, [[True, False], [False, False]])


def test_only_the_part_of_a_cell_on_the_slide_counts():
    mask = np.ones((10, 11), bool)  # of 4 px: the slide has 42 x 40 px
    mask[:5] = False
    settings = TileSettings(patch_size_px=16, overlap_px=0, min_tissue=0.99)
    tissue, grid = Tissue(mask, CellGrid(10, 11, 4.0)), patch_grid(42, 40, 1.0, settings)
    kept = kept_cells(tissue, grid, settings, slide_size=(42, 40))
    np.testing.assert_array_equal(kept, [[False] * 3, [False] * 3, [True] * 3])
    kept = kept_cells(tissue, grid, settings.model_copy(update={"min_tissue": 0.75}), slide_size=(42, 40))
    np.testing.assert_array_equal(kept, [[False] * 3, [True] * 3, [True] * 3])


def test_cells_beyond_the_slide_have_no_tissue():
    settings = TileSettings(patch_size_px=20, overlap_px=8)
    grid = patch_grid(26, 26, 1.0, settings)
    assert grid.origin[0] + 2 * grid.cell_px > 26  # in the mask, which reaches to 32, and off the slide
    tissue = Tissue(np.ones((4, 4), bool), CellGrid(4, 4, 8.0))
    kept = kept_cells(tissue, grid, settings, slide_size=(26, 26))
    np.testing.assert_array_equal(kept, np.pad(np.ones((2, 2), bool), (0, 1)))


@pytest.mark.parametrize("overlap", [0, 64, 200])
def test_a_picture_smaller_than_a_patch_is_one_patch(picture, tmp_path, overlap):
    path = write_slide(tmp_path / "small.tif", picture[300:330, 300:340], mpp=None, vendor="generic")
    settings = TileSettings(mpp=None, patch_size_px=256, overlap_px=overlap)
    assert tile_slide(SlideEntry("small", path), tmp_path, settings).status == "done"
    np.testing.assert_array_equal(read_tile_file(tmp_path / "tiles" / "small.h5").coords, [(0, 0)])


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_a_run_cut_short_is_not_taken_for_the_former_one(entry, tmp_path):
    def stop(progress):
        if progress.stage == "patches" and progress.done == 3:
            raise KeyboardInterrupt

    other = TileSettings(mpp=0.5, patch_size_px=96)
    tile_slide(entry, tmp_path, SETTINGS, export_png=True)
    with pytest.raises(KeyboardInterrupt):
        tile_slide(entry, tmp_path, other, export_png=True, report=stop)
    folder = tmp_path / "patches" / "tissue"
    assert [size_of(path) for path in folder.iterdir()] == [(96, 96)] * 3
    assert tile_slide(entry, tmp_path, SETTINGS, export_png=True).status == "done"
    assert {size_of(path) for path in folder.iterdir()} == {(64, 64)}


def test_the_tile_file_goes_before_the_outlines_change(entry, tmp_path):
    paths = TilePaths.of(tmp_path, "tissue")
    tile_slide(entry, tmp_path, SETTINGS)
    paths.tissue.unlink()
    paths.tissue.mkdir()
    with pytest.raises(StoreError, match=r"tissue\.geojson"):
        tile_slide(entry, tmp_path, TileSettings(mpp=0.5, patch_size_px=96))
    assert not paths.tiles.exists()


def test_outlines_have_the_area_of_the_tissue_inside_the_slide(entry, tmp_path):
    tile_slide(entry, tmp_path, SETTINGS)
    tissue = read_tile_file(tmp_path / "tiles" / "tissue.h5").tissue
    features = json.loads((tmp_path / "tissue" / "tissue.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == {"Tissue"}
    area = sum(shape(feature["geometry"]).area for feature in features)
    assert area == pytest.approx(tissue.mask.sum() * tissue.grid.cell_px**2, rel=1e-9)


def test_tissue_up_to_the_edge_is_outlined_within_the_slide(picture, tmp_path):
    path = write_slide(tmp_path / "core.svs", picture[100:601, 100:803])
    tile_slide(SlideEntry("core", path), tmp_path, SETTINGS)
    features = json.loads((tmp_path / "tissue" / "core.geojson").read_text())["features"]
    assert [shape(feature["geometry"]).bounds for feature in features] == [(0, 0, 703, 501)]


def test_thumbnail_shows_slide_and_outline(entry, tmp_path, picture):
    tile_slide(entry, tmp_path, SETTINGS)
    thumbnail = np.asarray(Image.open(tmp_path / "thumbnails" / "tissue.png"))
    assert thumbnail.shape == picture.shape
    changed = np.abs(thumbnail.astype(int) - picture).max(axis=2) > 60
    edge = np.zeros(changed.shape, bool)
    edge[80:688, 80:944] = True
    edge[112:656, 112:912] = False
    assert changed[edge].sum() > 1500
    assert changed[~edge].mean() < 0.01


def test_patches_as_pictures(entry, tmp_path):
    settings = TileSettings(mpp=0.8, patch_size_px=96, overlap_px=16)
    tile_slide(entry, tmp_path, SETTINGS, export_png=True)
    assert tile_slide(entry, tmp_path, settings).status == "done"
    assert tile_slide(entry, tmp_path, settings, export_png=True).status == "done"
    assert tile_slide(entry, tmp_path, settings, export_png=True).status == "skipped"
    assert tile_slide(entry, tmp_path, settings).status == "skipped"
    coords = read_tile_file(tmp_path / "tiles" / "tissue.h5").coords
    folder = tmp_path / "patches" / "tissue"
    assert {path.name for path in folder.iterdir()} == {f"{x}_{y}.png" for x, y in coords}
    x, y = coords[len(coords) // 2]
    with open_slide(entry.path) as slide:
        patch = MppView(slide, 0.8).read(Region(round(x / 1.6), round(y / 1.6), 96, 96))
    np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{x}_{y}.png")), patch)


def test_unknown_resolution_needs_a_word(picture, tmp_path):
    path = write_slide(tmp_path / "plain.tif", picture, mpp=None, vendor="generic")
    with pytest.raises(ResolutionError, match="--slide-mpp"):
        tile_slide(SlideEntry("plain", path), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()
    assert tile_slide(SlideEntry("plain", path, 0.5), tmp_path / "out", SETTINGS).status == "done"


def test_own_pixels_need_no_resolution_and_are_all_tissue(picture, tmp_path):
    path = write_slide(tmp_path / "plain.tif", picture, mpp=None, vendor="generic")
    settings = TileSettings(mpp=None, patch_size_px=256)
    assert tile_slide(SlideEntry("plain", path), tmp_path, settings).status == "done"
    tiles = read_tile_file(tmp_path / "tiles" / "plain.h5")
    assert tiles.info.mpp is None
    assert tiles.info.scale == 1.0
    np.testing.assert_array_equal(tiles.coords, [(x, y) for y in (0, 256, 512) for x in (0, 256, 512, 768)])
    features = json.loads((tmp_path / "tissue" / "plain.geojson").read_text())["features"]
    assert [shape(feature["geometry"]).bounds for feature in features] == [(0, 0, 1024, 768)]


def test_own_pixels_of_known_size_are_searched_for_tissue(slide_path):
    with open_slide(slide_path) as slide:
        tissue = slide_tissue(slide, TileSettings(mpp=None))
    assert 0.5 < tissue.mask.mean() < 0.7


def test_slide_without_tissue(tmp_path):
    path = write_slide(tmp_path / "empty.svs", np.full((600, 800, 3), 240, np.uint8))
    with pytest.raises(TissueError, match=r"empty\.svs: no tissue found"):
        tile_slide(SlideEntry("empty", path), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_no_patch_with_enough_tissue(entry, tmp_path):
    settings = TileSettings(mpp=0.5, patch_size_px=1024, min_tissue=0.9)
    with pytest.raises(TissueError, match=r"no patch has a tissue fraction of 0\.9 \(lower min_tissue"):
        tile_slide(entry, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(entry, tmp_path):
    (tmp_path / "tiles").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"tissue\.h5: cannot be written: .*choose another"):
        tile_slide(entry, tmp_path, SETTINGS)


def test_fluorescence_is_refused(shared, tmp_path):
    path = shared / "slides" / "fluorescence-TRITC.ndpi"
    with pytest.raises(TissueError, match="fluorescence, not bright field"):
        tile_slide(SlideEntry("dark", path), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_smear_and_printed_dots_of_a_real_section(shared):
    with open_slide(shared / "slides" / "breast_C2_240_q90.svs", mpp=0.67) as slide:
        tissue = find_tissue(slide, TissueSettings())
    # Rows and columns of the one section at 8 um per px; the pink halo lies to its right, dots everywhere else.
    rows, cols = (np.flatnonzero(tissue.mask.any(axis=axis)) for axis in (1, 0))
    assert (270 < rows[0] < 285, 675 < rows[-1] < 690) == (True, True)
    assert (145 < cols[0] < 160, 660 < cols[-1] < 672) == (True, True)
    assert 0.15 < tissue.mask.mean() < 0.19


def test_seams_hole_and_edges_of_a_real_scan(shared):
    with open_slide(shared / "slides" / "TCGA-CR-7395.svs", mpp=1.0) as slide:
        tissue = find_tissue(slide, TissueSettings())
    assert 0.60 < tissue.mask.mean() < 0.66
    assert not tissue.mask[:60, :340].any()  # unscanned fields, and a scanned one without tissue
    assert not tissue.mask[248:262, 346:360].any()  # the hole
    assert tissue.mask[180:200, 60:300].all()
