"""`wsipipe convert` on the command line."""

from __future__ import annotations

import numpy as np
from typer.testing import CliRunner

from listmaker import patches, write_clam, write_trident
from wsipipe.store.feature_map import FeatureMap
from wsipipe_cli.main import app


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_lists_become_maps_and_maps_lists_and_a_bad_one_costs_only_itself(tmp_path):
    _, coords, features = patches(7, 10, step=128)
    write_trident(tmp_path / "lists" / "a.h5", features, coords, size=(1400, 1000))
    (tmp_path / "lists" / "b.h5").write_bytes(b"\x89HDF")
    result = invoke("convert", tmp_path / "lists", "--mpp", 1, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 done, 0 skipped as already done, 1 failed" in result.output
    assert "is cut off or no HDF5 file" in result.output.replace("\n", " ")
    (path,) = (tmp_path / "out" / "features").rglob("a.h5")
    for layout, file in (("trident", "10x_64px_0px_overlap/features_uni_v1/a.h5"), ("clam", "h5_files/a.h5")):
        result = invoke("convert", path, "--to", layout, "-o", tmp_path / layout)
        assert result.exit_code == 0, result.output
        assert (tmp_path / layout / file).is_file()
    assert invoke("convert", path, "-o", tmp_path / "x").exit_code == 1  # a map is no list


def test_flags_say_what_a_list_lacks(tmp_path):
    _, coords, features = patches(7, 10, step=128)
    write_clam(tmp_path / "a.h5", features, coords)
    flags = ("--patch-size", 64, "--mpp", 1, "--slide-mpp", 0.5, "--slide-size", "1400x1000", "--encoder", "mine")
    result = invoke("convert", tmp_path / "a.h5", *flags, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    with FeatureMap.open(tmp_path / "features" / "mine-clam-patch-64px-1mpp" / "a.h5") as stored:
        assert stored.info.slide_size == (1400, 1000)
        assert np.count_nonzero(stored.read_valid(slice(None), slice(None))) == len(coords)


def test_impossible_words_are_refused(tmp_path):
    for flags, told in ((("--to", "atlas"), "trident, clam, stamp"), (("--slide-size", "12"), "WIDTHxHEIGHT")):
        result = invoke("convert", tmp_path / "a.h5", *flags)
        assert result.exit_code == 2
        assert told in result.output
