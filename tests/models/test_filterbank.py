from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from wsipipe.errors import ConfigError, NumericsError
from wsipipe.models.filterbank import STAINS, FilterBank, feature_names, reach_cells


@pytest.fixture(scope="module")
def image(picture):
    return torch.from_numpy(picture[:480, :640].copy())[None]


@pytest.fixture(scope="module")
def bank():
    return FilterBank(4)


@pytest.fixture(scope="module")
def features(bank, image):
    return bank.encode(image)


def feature(features, name):
    return features[0, feature_names().index(name)].numpy()


def densities(image):
    """Haematoxylin, eosin and luminance in float64, (h, w, 3)."""
    density = -np.log((image[0].numpy().astype(np.float64) + 1) / 256)
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    unmixed = np.linalg.solve(stains.T, density.reshape(-1, 3).T).T.reshape(density.shape)
    return np.concatenate([unmixed[..., :2], density.mean(2, keepdims=True)], axis=2)


def cells(values, stride=4):
    rows, cols = values.shape[0] // stride, values.shape[1] // stride
    return values.reshape(rows, stride, cols, stride)


def test_features_are_as_many_as_their_names_and_of_unit_scale(bank, image, features):
    assert bank.kind == "dense"
    assert features.shape == (1, bank.dim, 120, 160)
    assert features.dtype == torch.float32
    assert len(set(feature_names())) == bank.dim
    assert features.abs().max() < 10
    assert (features.std(dim=(2, 3)) > 0.005).all()
    assert (features - features.half().float()).abs().max() < 5e-3


@pytest.mark.parametrize(("channel", "name"), list(enumerate("HEL")))
def test_means_are_gaussians_of_the_stains(image, features, channel, name):
    mean = cells(densities(image)[..., channel]).mean((1, 3))
    for scale in (1, 2, 4):
        expected = gaussian_filter(mean, scale, mode="nearest", truncate=3)
        np.testing.assert_allclose(feature(features, f"mean {name}, scale {scale}"), expected, atol=1e-5)


def test_spread_and_shares_come_from_the_pixels_of_a_cell(image, features):
    luminance = densities(image)[..., 2]
    spread = np.sqrt(cells(luminance).var((1, 3)) + 1e-4) - 0.01
    glass = cells(1 / (1 + np.exp((luminance - 0.12) / 0.03))).mean((1, 3))
    for name, values in (("spread L", spread), ("share glass", glass)):
        expected = gaussian_filter(values, 2, mode="nearest", truncate=3)
        np.testing.assert_allclose(feature(features, f"{name}, scale 2"), expected, atol=1e-4)


def test_curvatures_are_the_eigenvalues_of_the_hessian(features):
    mean = feature(features, "mean L, scale 2").astype(np.float64)
    dy, dx = np.gradient(mean)
    hessian = np.array([[np.gradient(dy, axis=0), np.gradient(dy, axis=1)]] * 2)
    hessian[1] = [np.gradient(dx, axis=0), np.gradient(dx, axis=1)]
    values = 4 * np.linalg.eigvalsh(np.moveaxis(hessian, (0, 1), (2, 3)))
    inner = slice(3, -3), slice(3, -3)
    np.testing.assert_allclose(feature(features, "curvature min L, scale 2")[inner], values[..., 0][inner], atol=1e-5)
    np.testing.assert_allclose(feature(features, "curvature max L, scale 2")[inner], values[..., 1][inner], atol=1e-5)


def test_rings_look_at_eight_cells_around(features):
    mean = feature(features, "mean H, scale 1")
    row, col = 40, 70
    around = [mean[row + dy, col + dx] for dy, dx in ((0, 3), (2, 2), (3, 0), (2, -2))]
    opposite = [mean[row - dy, col - dx] for dy, dx in ((0, 3), (2, 2), (3, 0), (2, -2))]
    assert feature(features, "ring min H, scale 1")[row, col] == min(around + opposite)
    assert feature(features, "ring max H, scale 1")[row, col] == max(around + opposite)
    assert feature(features, "ring opposed H, scale 1")[row, col] == min(map(max, around, opposite))


def test_enclosure_is_the_weakest_of_the_rays(features):
    nuclei = feature(features, "share nuclei, scale 1")
    angles = np.arange(8) * np.pi / 4
    rays = [
        max(
            map_coordinates(nuclei, [[60 + round(r * np.sin(a))], [80 + round(r * np.cos(a))]], order=0)[0]
            for r in range(2, 17, 2)
        )
        for a in angles
    ]
    assert feature(features, "nuclei all round, within 16")[60, 80] == pytest.approx(min(rays))
    assert feature(features, "nuclei half round, within 16")[60, 80] == pytest.approx(sorted(rays)[3])


@pytest.mark.parametrize("stride", [4, 5])
def test_tiles_with_a_halo_equal_one_pass(picture, stride):
    bank = FilterBank(stride)
    whole = torch.from_numpy(picture[: 140 * stride, : 110 * stride].copy())[None]
    halo = bank.halo_px
    top, left, height, width = 38 * stride, 37 * stride, 50 * stride, 30 * stride
    tile = whole[:, top - halo : top + height + halo, left - halo : left + width + halo]
    margin = halo // stride
    inner = bank.encode(tile)[:, :, margin:-margin, margin:-margin]
    expected = bank.encode(whole)[:, :, 38:88, 37:67]
    assert inner.shape == expected.shape
    assert (inner - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_halo_is_the_reach_of_the_longest_filter(bank, image):
    assert bank.halo_px == 4 * reach_cells()
    changed = image.clone()
    changed[:, 240:244, 320:324] = 255 - changed[:, 240:244, 320:324]
    moved = (bank.encode(changed) - bank.encode(image)).abs().amax((0, 1)) > 1e-6
    rows, cols = torch.nonzero(moved, as_tuple=True)
    farthest = max((rows - 60).abs().max().item(), (cols - 80).abs().max().item())
    assert 20 < farthest <= reach_cells()


def test_turned_images_give_turned_features(bank, image, features):
    for axes in ((1,), (2,), (1, 2)):
        turned = bank.encode(image.flip(axes)).flip([axis + 1 for axis in axes])
        assert (turned - features).abs().max() < 1e-5
    assert (bank.encode(image.transpose(1, 2)).transpose(2, 3) - features).abs().max() < 1e-5


def test_an_even_image_has_no_texture(bank):
    features = bank.encode(torch.full((1, 160, 160, 3), 130, dtype=torch.uint8))
    for index, name in enumerate(feature_names()):
        if name.startswith(("spread", "gradient", "edge", "curvature")):
            assert features[0, index].abs().max() < 1e-3, name


def test_batches_are_encoded_one_by_one(bank, image, features):
    both = bank(torch.cat([image, image.flip(1)]))
    assert torch.equal(both[:1], features)
    assert both.shape[0] == 2


def test_digest_names_the_definition(bank, monkeypatch):
    assert bank.weights_digest == FilterBank(8).weights_digest
    monkeypatch.setattr("wsipipe.models.filterbank.SCALES", (1, 2, 5))
    assert FilterBank(4).weights_digest != bank.weights_digest


@pytest.mark.parametrize("stride", [1, 65])
def test_impossible_strides_are_refused(stride):
    with pytest.raises(ConfigError, match=rf"2 to 64 px, got {stride}.*--stride"):
        FilterBank(stride)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(1, 8, 8, 3), r"uint8, got \(1, 8, 8, 3\) torch.float32"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"got \(8, 8, 3\)"),
        (torch.zeros(1, 10, 8, 3, dtype=torch.uint8), "stride 4, got 10 x 8"),
    ],
)
def test_wrong_batches_are_refused(bank, batch, words):
    with pytest.raises(NumericsError, match=words):
        bank.encode(batch)
