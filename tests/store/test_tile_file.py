import dataclasses

import h5py
import numpy as np
import pytest

from wsipipe.errors import StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import Tissue
from wsipipe.store.tile_file import TileFile, TileInfo, read_tile_file, read_tile_info, write_tile_file

INFO = TileInfo(
    slide="a",
    slide_identity="0" * 32,
    slide_mpp=0.25,
    slide_size=(4001, 3001),
    mpp=0.5,
    scale=2.0,
    patch_size_px=256,
    overlap_px=32,
    level=1,
    level_size=(2000, 1500),
    level_downsample=2.0005,
    grid=CellGrid(7, 9, 448.0, (32.0, 32.0)),
    settings={"mpp": 0.5, "tissue": {"mpp": 8.0}},
    settings_digest="abc",
)
COORDS = np.array([[0, 0], [448, 0], [0, 448]])


@pytest.fixture
def tiles():
    mask = np.random.default_rng(0).random((94, 126)) > 0.5
    return TileFile(INFO, COORDS, Tissue(mask, CellGrid(94, 126, 32.0)))


def attributes(path):
    with h5py.File(path) as file:
        assert file["coords"].dtype == np.int64
        return dict(file["coords"].attrs)


def test_round_trip(tmp_path, tiles):
    path = tmp_path / "tiles" / "a.h5"
    write_tile_file(path, tiles)
    found = read_tile_file(path)
    assert found.info == tiles.info == read_tile_info(path)
    np.testing.assert_array_equal(found.coords, COORDS)
    np.testing.assert_array_equal(found.tissue.mask, tiles.tissue.mask)
    assert found.tissue.grid == tiles.tissue.grid
    assert [file.name for file in path.parent.iterdir()] == ["a.h5"]


def test_unknown_resolution_is_kept_as_such(tmp_path, tiles):
    info = dataclasses.replace(INFO, slide_mpp=None, mpp=None, scale=1.0, patches_exported=True)
    write_tile_file(tmp_path / "a.h5", dataclasses.replace(tiles, info=info))
    assert read_tile_info(tmp_path / "a.h5") == info
    # TRIDENT falls back on CLAM's attributes where it finds no magnifications.
    assert "level0_magnification" not in attributes(tmp_path / "a.h5")


def test_attributes_of_clam(tmp_path, tiles):
    write_tile_file(tmp_path / "a.h5", tiles)
    found = attributes(tmp_path / "a.h5")
    assert (found["patch_size"], found["patch_level"], found["custom_downsample"]) == (256, 1, 1)
    np.testing.assert_allclose(found["downsample"], (2.0005, 2.0005))
    np.testing.assert_array_equal(found["level_dim"], (2000, 1500))
    np.testing.assert_array_equal(found["downsampled_level_dim"], (2000, 1500))
    assert (found["name"], found["save_path"]) == ("a", str(tmp_path))


def test_attributes_of_trident(tmp_path, tiles):
    write_tile_file(tmp_path / "a.h5", tiles)
    found = attributes(tmp_path / "a.h5")
    assert (found["patch_size"], found["patch_size_level0"], found["overlap"]) == (256, 512, 32)
    assert (found["level0_magnification"], found["target_magnification"]) == (40, 20)
    assert (found["level0_width"], found["level0_height"]) == (4001, 3001)
    assert (found["name"], found["savetodir"]) == ("a", str(tmp_path))


def test_target_between_levels_tells_the_rest(tmp_path, tiles):
    info = dataclasses.replace(INFO, slide_mpp=0.23, scale=3.0, mpp=0.69, level_downsample=2.0)
    write_tile_file(tmp_path / "a.h5", dataclasses.replace(tiles, info=info))
    found = attributes(tmp_path / "a.h5")
    assert found["custom_downsample"] == 1.5
    assert found["patch_size_level0"] == 768
    np.testing.assert_array_equal(found["downsampled_level_dim"], (1333, 1000))
    assert found["level0_magnification"] / found["target_magnification"] == pytest.approx(3.0)


@pytest.mark.parametrize("coords", [np.zeros((3, 2)), np.zeros(6, int), np.zeros((2, 3), int)])
def test_coordinates_must_be_pairs_of_whole_numbers(tmp_path, tiles, coords):
    with pytest.raises(StoreError, match=r"\(n, 2\) whole numbers"):
        write_tile_file(tmp_path / "a.h5", dataclasses.replace(tiles, coords=coords))
    assert not list(tmp_path.iterdir())


def test_missing_file(tmp_path):
    with pytest.raises(StoreError, match=r"a\.h5: no such tile file \(run `wsipipe tile` first\)"):
        read_tile_file(tmp_path / "a.h5")


def test_file_cut_off(tmp_path, tiles):
    path = tmp_path / "a.h5"
    write_tile_file(path, tiles)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match=r"a\.h5: .*delete it and run `wsipipe tile` again"):
        read_tile_file(path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.attrs.modify("version", 99), "version 99"),
        (lambda file: file.attrs.modify("type", "other"), "is other version 1"),
        (lambda file: file.pop("tissue"), "is damaged: .*tissue"),
        (lambda file: file.attrs.pop("slide_size"), "is damaged: .*slide_size"),
        (lambda file: file.attrs.modify("cell_px", -1.0), "is damaged: .*cell"),
        (lambda file: file.attrs.modify("settings", "{"), "is damaged"),
    ],
)
def test_file_spoilt(tmp_path, tiles, spoil, told):
    path = tmp_path / "a.h5"
    write_tile_file(path, tiles)
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(StoreError, match=told):
        read_tile_file(path)
