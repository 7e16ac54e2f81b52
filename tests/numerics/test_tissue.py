import itertools

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from wsipipe.config import TissueSettings
from wsipipe.errors import NumericsError, TissueError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import SMOOTH, Tissue, _deviation, _opened, _smooth, _window, tissue_mask

MPP = 8.0
GLASS = (241, 238, 240)
SPOT = (slice(60, 190), slice(70, 250))  # where the scenes have tissue


@pytest.fixture(scope="module")
def tissue():
    """Brown and blue immunohistochemistry as it looks at 8 um per px, (130, 180, 3)."""
    picture = Image.fromarray(skimage.data.immunohistochemistry()[:480, :480])
    patch = np.asarray(picture.resize((60, 60), Image.Resampling.BOX))
    row = np.concatenate([patch, patch[:, ::-1], patch], axis=1)
    return np.concatenate([row, row[::-1], row], axis=0)[:130, :180]


def glass(height=260, width=340, color=GLASS):
    noise = np.random.default_rng(0).normal(0, 1.0, (height, width, 1))
    return np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def scene(tissue):
    picture = glass()
    picture[SPOT] = tissue
    return picture


@pytest.fixture
def truth():
    mask = np.zeros((260, 340), bool)
    mask[SPOT] = True
    return mask


def find(picture, mpp=MPP, **settings):
    return tissue_mask(picture, mpp=mpp, settings=TissueSettings(**settings))


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def shade(picture, mask, color, *, blur=0.0):
    """Lay a light filter over the picture where the mask says so."""
    strength = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    amount = np.asarray(strength)[..., None] / 255.0
    return np.clip(picture * (np.array(color) / 255.0) ** amount, 0, 255).astype(np.uint8)


def drawn(draw_on, size=(340, 260)):
    image = Image.new("L", size)
    draw_on(ImageDraw.Draw(image))
    return np.asarray(image) > 0


def test_outline_follows_tissue(scene, truth):
    assert overlap(find(scene), truth) > 0.97


@pytest.mark.parametrize("color", [(199, 203, 201), (228, 216, 190), (255, 255, 255)])
def test_glass_may_be_grey_yellow_or_white(scene, truth, color):
    tinted = np.clip(scene * (np.array(color) / 241.0), 0, 255).astype(np.uint8)
    assert overlap(find(tinted), truth) > 0.97


def test_halo_of_stain_is_no_tissue(scene, truth):
    smear = drawn(lambda draw: draw.ellipse((150, 90, 330, 250), fill=255)) & ~truth
    stained = shade(scene, smear, (245, 180, 205), blur=14)
    strong = (stained[..., 1] < 190) & ~ndimage.binary_dilation(truth, iterations=4)
    assert strong.sum() > 1000
    assert overlap(find(stained), truth) > 0.95
    assert not find(stained)[strong].any()


def test_printed_dots_are_no_tissue(scene, truth):
    dots = drawn(
        lambda draw: [
            draw.ellipse((x, y, x + 8, y + 8), fill=255)
            for x, y in itertools.product(range(5, 340, 24), range(5, 260, 24))
        ]
    )
    assert overlap(find(shade(scene, dots & ~truth, (247, 246, 249), blur=1)), truth) > 0.97


def test_dust_out_of_focus_is_no_tissue(scene, truth):
    dust = drawn(lambda draw: draw.ellipse((285, 20, 315, 50), fill=255))
    assert overlap(find(shade(scene, dust, (160, 160, 165), blur=8)), truth) > 0.97


def test_unscanned_fields_and_their_seams_are_no_tissue(scene, truth):
    scene[:, 290:] = 255
    scene[:40] = 255
    assert overlap(find(scene), truth) > 0.97


PENS = {
    "blue": (40, 70, 190),
    "pale blue": (90, 130, 210),
    "navy": (25, 30, 110),
    "green": (20, 140, 60),
    "red": (205, 30, 40),
    "black": (25, 25, 30),
}


@pytest.mark.parametrize("color", PENS.values(), ids=PENS)
def test_pen_beside_tissue_is_no_tissue(scene, truth, color):
    stroke = drawn(lambda draw: draw.line([(30, 20), (150, 35), (300, 15)], fill=255, width=18, joint="curve"))
    streaks = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=stroke.shape), (1, 6))
    ink = (np.array(color) / 255.0) ** np.clip(1 + 0.2 * streaks / streaks.std(), 0.6, 1.4)[..., None]
    amount = np.asarray(Image.fromarray((stroke * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1)))
    marked = (scene * ink ** (amount[..., None] / 255.0)).astype(np.uint8)
    assert overlap(find(marked), truth) > 0.97


def test_pen_over_tissue_is_cut_out(scene, truth):
    stroke = drawn(lambda draw: draw.line([(160, 20), (160, 240)], fill=255, width=20))
    found = find(shade(scene, stroke, (30, 150, 60)))
    assert not found[stroke].any()
    assert found[:, 80:135].sum() > 0.95 * truth[:, 80:135].sum()


def test_blue_nuclei_and_brown_stain_are_not_ink(tissue):
    assert find(tissue).all()


def test_large_holes_stay_and_small_ones_close(scene):
    scene[100:125, 100:125] = glass(25, 25)  # 40,000 um2
    scene[150:160, 200:210] = glass(10, 10)  # 6,400 um2
    found = find(scene)
    assert not found[104:121, 104:121].any()
    assert found[148:162, 198:212].all()
    assert find(scene, min_hole_um2=100_000)[100:125, 100:125].all()


def test_specks_are_dropped_and_pieces_kept(scene, tissue):
    scene[10:24, 10:24] = tissue[:14, :14]  # 12,500 um2
    scene[200:235, 285:325] = tissue[:35, :40]  # 89,600 um2
    found = find(scene)
    assert not found[5:30, 5:30].any()
    assert found[204:231, 289:321].all()
    assert find(scene, min_area_um2=5_000)[12:22, 12:22].all()


def test_edges_of_cover_slips_are_dropped_even_where_they_touch(scene, truth):
    scene[:, 300:302] = 90
    scene[120:122, 230:] = 90
    assert overlap(find(scene), truth) > 0.96


def test_picture_without_a_bright_pixel_is_all_tissue(tissue):
    assert find((tissue * 0.6).astype(np.uint8)).all()


@pytest.mark.parametrize("mpp", [2.0, 4.0, 8.0])
def test_core_that_fills_the_picture_is_all_tissue(mpp):
    core = Image.fromarray(skimage.data.immunohistochemistry()[:, :400])
    size = (round(400 * 0.62 / mpp), round(512 * 0.62 / mpp))
    assert find(np.asarray(core.resize(size, Image.Resampling.BOX)), mpp).all()


def test_finer_overview_gives_the_same_tissue(scene, truth):
    fine = np.asarray(Image.fromarray(scene).resize((680, 520), Image.Resampling.BICUBIC))
    assert overlap(find(fine, 4.0)[::2, ::2], truth) > 0.95


def test_empty_slide_has_no_tissue():
    with pytest.raises(TissueError, match="no tissue found"):
        find(glass())


def test_small_empty_picture_has_no_tissue():
    with pytest.raises(TissueError, match="no tissue found"):
        find(glass(12, 16))


@pytest.mark.parametrize("color", [(60, 0, 0), (40, 40, 40), (10, 200, 20)])
def test_fluorescence_is_refused_with_a_reason(color):
    picture = np.zeros((100, 120, 3), np.uint8)
    picture[30:70, 30:90] = color
    with pytest.raises(TissueError, match=r"dark .*fluorescence"):
        find(picture)


@pytest.mark.parametrize("shape", [(37, 23), (150, 23), (5, 150)])
@pytest.mark.parametrize("late", [False, True])
def test_window_is_the_plain_filter(shape, late):
    values = np.random.default_rng(2).random(shape).astype(np.float32)
    for size in (1, 2, 3, 5, 8, 71):
        origin = -1 if size % 2 == 0 and not late else 0
        plain = ndimage.maximum_filter(values, size, mode="nearest", origin=origin)
        np.testing.assert_array_equal(_window(values, size, np.maximum, late=late), plain)


def test_opening_keeps_what_holds_a_square():
    mask = np.zeros((30, 40), bool)
    mask[5:9, 5:20] = True
    mask[20:23, 5:20] = True
    for size, rows in ((4, {5, 6, 7, 8}), (3, {5, 6, 7, 8, 20, 21, 22})):
        opened = _opened(mask, size)
        assert set(np.flatnonzero(opened.any(axis=1))) == rows
        assert not (opened & ~mask).any()


@pytest.mark.parametrize("size", [3, 5, 11])
def test_smooth_is_where_a_window_hardly_deviates(size):
    rng = np.random.default_rng(3)
    values = (200 + rng.integers(-30, 31, (140, 31)) * np.linspace(0, 1, 140)[:, None]).astype(np.uint8)
    padded = np.pad(-np.log(values / 255), size // 2, mode="edge")
    deviation = np.lib.stride_tricks.sliding_window_view(padded, (size, size)).std(axis=(2, 3))
    np.testing.assert_allclose(_deviation(padded.astype(np.float32), size), deviation, atol=2e-5)
    sure = np.abs(deviation - SMOOTH) > 2e-5
    assert 0.2 < (deviation < SMOOTH).mean() < 0.8
    np.testing.assert_array_equal(_smooth(values, size)[sure], (deviation < SMOOTH)[sure])


def brute_fraction(tissue, grid):
    """Sum the areas that pixels and cells share, one pair at a time along each axis."""

    def shares(axis):
        own, other = tissue.grid, grid
        start = own.origin[1 - axis] + np.arange(own.shape[axis]) * own.cell_px
        low = other.origin[1 - axis] + np.arange(other.shape[axis]) * other.cell_px
        left = np.maximum(low[:, None], start[None])
        right = np.minimum(low[:, None] + other.cell_px, start[None] + own.cell_px)
        return np.maximum(right - left, 0) / other.cell_px

    return shares(0) @ tissue.mask @ shares(1).T


@pytest.mark.parametrize(
    ("cell_px", "origin"), [(32.0, (0.0, 0.0)), (53.7, (11.3, 4.9)), (5.1, (-20.0, -7.5)), (400.0, (0.0, 0.0))]
)
def test_fraction_weighs_by_area(cell_px, origin):
    mask = np.random.default_rng(4).random((20, 31)) > 0.5
    tissue = Tissue(mask, CellGrid(20, 31, 16.1, (3.0, 2.0)))
    grid = CellGrid(rows=9, cols=13, cell_px=cell_px, origin=origin)
    fraction = tissue.fraction(grid)
    assert fraction.dtype == np.float32
    np.testing.assert_allclose(fraction, brute_fraction(tissue, grid), atol=1e-6)


def test_fraction_of_whole_cells_counts_pixels():
    mask = np.random.default_rng(5).random((12, 20)) > 0.4
    fraction = Tissue(mask, CellGrid(12, 20, 2.0)).fraction(CellGrid(3, 5, 8.0))
    np.testing.assert_allclose(fraction, mask.reshape(3, 4, 5, 4).mean(axis=(1, 3)), atol=1e-7)


def test_fraction_is_none_off_the_mask():
    tissue = Tissue(np.ones((4, 4), bool), CellGrid(4, 4, 10.0))
    fraction = tissue.fraction(CellGrid(2, 3, 30.0, (-15.0, 0.0)))
    np.testing.assert_allclose(fraction, [[0.5, 5 / 6, 0.0], [0.5 / 3, 5 / 18, 0.0]], atol=1e-6)


@pytest.mark.parametrize("cell_px", [5.1, 32.0, 53.7])
def test_covered_is_the_fraction_of_a_full_mask(cell_px):
    tissue = Tissue(np.ones((20, 31), bool), CellGrid(20, 31, 16.1, (3.0, 2.0)))
    grid = CellGrid(rows=9, cols=13, cell_px=cell_px, origin=(-20.0, -7.5))
    np.testing.assert_allclose(tissue.covered(grid), tissue.fraction(grid), atol=1e-6)


def test_mask_must_fit_its_grid():
    with pytest.raises(NumericsError, match=r"\(3, 4\).*\(4, 3\)"):
        Tissue(np.ones((3, 4), bool), CellGrid(4, 3, 1.0))


@pytest.mark.parametrize("name", ["train_1", "train_20", "testA_1", "testA_21", "testA_54", "testB_13"])
def test_cores_of_tissue_are_not_split(shared, name):
    picture = Image.open(shared / "glas" / "images" / f"{name}.jpg").convert("RGB")
    small = picture.resize((round(picture.width * 0.62 / 4), round(picture.height * 0.62 / 4)), Image.Resampling.BOX)
    assert find(np.asarray(small), 4.0).all()


@pytest.mark.parametrize("origin", [(0.0, 0.0), (64.0, -32.0)])
@pytest.mark.parametrize(("width", "height"), [(1000, 700), (333, 1025), (50, 20)])
def test_area_is_that_of_the_pixels_of_the_slide(width, height, origin):
    mask = np.random.default_rng(0).random((9, 12)) < 0.5
    tissue = Tissue(mask, CellGrid(9, 12, 128.0, origin))
    y, x = np.mgrid[:height, :width]
    cells = tissue.grid.cells_of(np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1))
    cells = cells[tissue.grid.contains(cells)]
    assert tissue.area_px(width, height) == mask[tuple(cells.T)].sum()
