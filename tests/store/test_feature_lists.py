"""Lists of other projects: what they say is read, what we write is laid out as theirs, damage is told in a line."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from listmaker import patches, write_clam, write_stamp, write_trident
from wsipipe.errors import StoreError
from wsipipe.store.feature_lists import ListHeader, list_paths, read_feature_list, write_feature_list


@pytest.fixture(scope="module")
def some():
    return patches(7, 9, step=128.0)


def test_trident_lists_say_much(tmp_path, some):
    _, coords, features = some
    path = write_trident(tmp_path / "s.h5", features, coords, size=(1200, 900), overlap=16)
    listed = read_feature_list(path)
    facts = listed.facts
    assert (facts.layout, facts.unit, facts.patch, facts.patch_px, facts.overlap_px) == ("trident", "px", 128.0, 64, 16)
    assert (facts.slide_size, facts.magnification, facts.encoder, facts.slide) == ((1200, 900), 10.0, "uni_v1", "s")
    np.testing.assert_array_equal(listed.corners, coords)
    np.testing.assert_array_equal(listed.features, features.astype(np.float16))


def test_the_folder_of_trident_names_the_encoder(tmp_path, some):
    path = write_trident(tmp_path / "features_virchow2" / "s.h5", some[2], some[1], size=(9, 9), encoder=None)
    assert read_feature_list(path).facts.encoder == "virchow2"
    path = write_trident(tmp_path / "s.h5", some[2], some[1], size=(9, 9), encoder=None)
    assert read_feature_list(path).facts.encoder is None


def test_clam_lists_say_nothing_but_with_the_attributes_of_its_patch_files(tmp_path, some):
    path = write_clam(tmp_path / "s.h5", some[2], some[1])
    facts = read_feature_list(path).facts
    assert (facts.layout, facts.patch, facts.patch_px, facts.encoder) == ("clam", None, None, None)
    with h5py.File(path, "a") as file:
        file["coords"].attrs.update({"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0)})
    facts = read_feature_list(path).facts
    assert (facts.patch, facts.patch_px) == (1024.0, 256)


def test_stamp_lists_are_in_um(tmp_path, some):
    path = write_stamp(tmp_path / "s.h5", some[2], some[1] / 2, tile_um=64.0, tile_px=32)
    listed = read_feature_list(path)
    assert (listed.facts.unit, listed.facts.patch, listed.facts.patch_px) == ("um", 64.0, 32)
    assert listed.facts.encoder == "ctranspath"
    np.testing.assert_array_equal(listed.corners, some[1] / 2)
    with h5py.File(path, "a") as file:  # STAMP 2.0
        file.attrs["tile_size"] = file.attrs["tile_size_um"]
        del file.attrs["tile_size_um"]
    assert read_feature_list(path).facts.patch == 64.0
    with h5py.File(path, "a") as file:
        del file.attrs["unit"]
    with pytest.raises(StoreError, match="does not say how large its tiles are"):
        read_feature_list(path)


def bent(file, name, values):
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def nan_in(values, row):
    values = values.copy()
    values[row, 1] = np.nan
    return values


BENDS = [
    (lambda f: bent(f, "features", nan_in(f["features"][:], 13)), r"NaN in the features of patch 13"),
    (lambda f: bent(f, "features", 1e6 * f["features"][:]), r"beyond what float16 holds \(65504\) in the features"),
    (lambda f: bent(f, "features", f["features"][:][:-1]), r"has features \(\d+, 6\), coords \(\d+, 2\).*\(N, D\)"),
    (lambda f: bent(f, "features", f["features"][:][None]), r"has features \(1, \d+, 6\)"),
    (lambda f: bent(f, "coords", f["coords"][:].T), r"coords \(2, \d+\)"),
    (lambda f: bent(f, "features", f["features"][:].astype("S8")), r"\|S8 features"),
    (lambda f: (bent(f, "features", np.zeros((0, 6))), bent(f, "coords", np.zeros((0, 2), int))), r"lists no patches"),
    (lambda f: bent(f, "coords", nan_in(f["coords"][:].astype(float), 2)), r"coordinates that are no numbers"),
    (lambda f: f["coords"].attrs.update({"patch_size_level0": "large"}), r"an attribute that cannot be used"),
    (lambda f: f["coords"].attrs.update({"overlap": -3}), r"an attribute that cannot be used: overlap is -3"),
    (lambda f: f.pop("coords"), r"is no feature list: it holds features.*STAMP `feats`"),
]  # fmt: skip


@pytest.mark.parametrize(("bend", "told"), BENDS, ids=[told[:20] for _, told in BENDS])
def test_damage_is_told_in_one_line(tmp_path, some, bend, told):
    path = write_trident(tmp_path / "s.h5", some[2], some[1], size=(1200, 900))
    with h5py.File(path, "a") as file:
        bend(file)
    with pytest.raises(StoreError, match=rf"s\.h5: .*{told}") as caught:
        read_feature_list(path)
    assert "\n" not in str(caught.value)


def test_files_cut_off_missing_or_of_another_kind_are_refused(tmp_path, some):
    path = write_trident(tmp_path / "s.h5", some[2], some[1], size=(1200, 900))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(StoreError, match=r"s\.h5: is cut off or no HDF5 file"):
        read_feature_list(path)
    with pytest.raises(StoreError, match=r"no such file"):
        read_feature_list(tmp_path / "none.h5")


def header(coords, dim, **changes):
    told = {
        "slide": "s",
        "encoder": "timm:hf-hub:a/b",
        "slide_size": (1300, 900),
        "slide_mpp": 0.5,
        "scale": 2.0,
        "patch_px": 64,
        "overlap_px": 0,
        "dim": dim,
        "corners": coords,
        "digest": "0123456789abcdef",
    }
    return ListHeader(**told | changes)


def halves(features):
    return lambda: iter(np.array_split(features, 2))


def layout_of(path):
    with h5py.File(path) as file:
        data = {name: (data.dtype.str, data.shape, data.maxshape) for name, data in file.items()}
        attributes = {name: dict(data.attrs) for name, data in file.items()} | {"": dict(file.attrs)}
    return data, attributes


def test_trident_finds_what_it_writes_itself(tmp_path, some):
    _, coords, features = some
    paths = write_feature_list(tmp_path, header(coords, 6), halves(features), "trident")
    home = tmp_path / "10x_64px_0px_overlap"
    assert paths == (home / "features_timm_hf-hub_a_b" / "s.h5", home / "patches" / "s_patches.h5")
    ours, told = layout_of(paths[0])
    theirs, expected = layout_of(write_trident(tmp_path / "t" / "s.h5", features, coords, size=(1300, 900)))
    assert ours == theirs
    assert told["coords"] == expected["coords"] | {"savetodir": str(home / "patches")}
    assert told["features"].keys() == expected["features"].keys()
    assert told["features"]["encoder"] == "timm:hf-hub:a/b"
    patches_file, told_there = layout_of(paths[1])
    assert patches_file == {"coords": ours["coords"]}
    assert told_there["coords"] == told["coords"]
    with h5py.File(paths[0]) as file:
        np.testing.assert_array_equal(file["features"], features)


def test_clam_finds_what_it_writes_itself(tmp_path, some):
    _, coords, features = some
    paths = write_feature_list(tmp_path, header(coords, 6), halves(features), "clam")
    assert paths == (tmp_path / "h5_files" / "s.h5", tmp_path / "patches" / "s.h5")
    ours, told = layout_of(paths[0])
    theirs, expected = layout_of(write_clam(tmp_path / "t" / "s.h5", features, coords))
    assert (ours, told) == (theirs, expected)
    _, told = layout_of(paths[1])
    assert told["coords"].keys() == {
        "patch_size", "patch_level", "downsample", "downsampled_level_dim", "level_dim", "name", "save_path",
    }  # fmt: skip
    assert (told["coords"]["patch_size"], told["coords"]["patch_level"]) == (128, 0)


def test_stamp_finds_what_it_writes_itself(tmp_path, some):
    _, coords, features = some
    paths = write_feature_list(tmp_path, header(coords, 6), halves(features), "stamp")
    assert paths == (tmp_path / "timm_hf-hub_a_b" / "s.h5",)
    ours, told = layout_of(paths[0])
    theirs, expected = layout_of(write_stamp(tmp_path / "t" / "s.h5", features, coords * 0.5))
    assert {name: data[:2] for name, data in ours.items()} == {name: data[:2] for name, data in theirs.items()}
    assert told[""].keys() == expected[""].keys()
    assert (told[""]["tile_size_um"], told[""]["tile_size_px"], told[""]["unit"]) == (64.0, 64, "um")
    with h5py.File(paths[0]) as file:
        np.testing.assert_array_equal(file["coords"], coords * 0.5)


@pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
def test_what_we_write_we_read(tmp_path, some, layout):
    _, coords, features = some
    path, *_ = write_feature_list(tmp_path, header(coords, 6), halves(features), layout)
    listed = read_feature_list(path)
    assert listed.facts.layout == layout
    np.testing.assert_array_equal(listed.features, features.astype(np.float16))
    np.testing.assert_array_equal(listed.corners, coords * (0.5 if layout == "stamp" else 1))


def test_a_name_of_a_magnification_that_is_no_whole_number(tmp_path, some):
    paths = list_paths(tmp_path, header(some[1], 6, slide_mpp=0.2525, scale=2.0, overlap_px=8), "trident")
    assert paths[0].parts[-3] == "19.802x_64px_8px_overlap"
