from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsipipe.errors import GeometryError, NumericsError, StoreError
from wsipipe.geometry import CellGrid
from wsipipe.store.feature_journal import Journal
from wsipipe.store.feature_map import FeatureMap, FeatureMapInfo, FeatureMapWriter, chunk_side, is_finished

ALL = slice(None)


def an_info(rows: int = 30, cols: int = 23, dim: int = 5, **changes: Any) -> FeatureMapInfo:
    info = FeatureMapInfo(
        grid=CellGrid(rows, cols, 32.5, (4.0, -8.0)),
        dim=dim,
        kind="dense",
        encoder="resnet34",
        weights_digest="00ff",
        mpp=0.5,
        stride_px=16,
        slide="slide_1",
        slide_identity="ab" * 16,
        slide_mpp=0.2462,
        slide_size=(750, 970),
        settings={"tile": {"mpp": 0.5, "sizes": [1, 2]}, "note": None},
        settings_digest="1234",
    )
    return replace(info, **changes)


def content(info: FeatureMapInfo, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Vectors and a validity with an empty upper half, (rows, cols, dim) and (rows, cols)."""
    rng = np.random.default_rng(seed)
    valid = rng.random(info.grid.shape) < 0.5
    valid[: info.grid.rows // 2] = False
    return rng.normal(size=info.shape).astype(np.float32), valid


def write(path: Path, info: FeatureMapInfo, block: int, *, stop_after: int | None = None) -> None:
    values, valid = content(info)
    with FeatureMapWriter.open(path, info, block=block) as writer:
        for count, (i, j) in enumerate(writer.blocks):
            if count == stop_after:
                return
            window = writer.block_slices(i, j)
            writer.write_block(i, j, values[window] if valid[window].any() else None, valid[window])
        writer.finish()


def assert_content(path: Path, info: FeatureMapInfo) -> None:
    values, valid = content(info)
    with FeatureMap.open(path) as made:
        np.testing.assert_array_equal(made.read_valid(ALL, ALL), valid)
        expected = np.where(valid[..., None], values.astype(np.float16).astype(np.float32), 0)
        np.testing.assert_array_equal(made.read(ALL, ALL), expected)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_map_comes_back_with_its_facts(tmp_path: Path) -> None:
    info = an_info()
    path = tmp_path / "features" / "m.h5"
    write(path, info, 7)
    assert_content(path, info)
    assert names(path.parent) == ["m.h5"]
    with FeatureMap.open(path) as made:
        assert made.info == info
        assert made.shape == (30, 23, 5)
        window = made.read(slice(20, 23), slice(3, 9))
        assert window.shape == (3, 6, 5)
        assert window.dtype == np.float32
        np.testing.assert_array_equal(window, made.read(ALL, ALL)[20:23, 3:9])


def test_unknown_resolutions_stay_unknown(tmp_path: Path) -> None:
    info = an_info(mpp=None, slide_mpp=None, kind="patch")
    write(tmp_path / "m.h5", info, 16)
    assert FeatureMap.open(tmp_path / "m.h5").info == info


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 80), cols=st.integers(1, 80), block=st.integers(1, 90), dim=st.integers(1, 3))
def test_any_size_and_block_gives_the_same_map(
    tmp_path_factory: pytest.TempPathFactory, rows: int, cols: int, block: int, dim: int
) -> None:
    path = tmp_path_factory.mktemp("map") / "m.h5"
    info = an_info(rows, cols, dim)
    write(path, info, max(block, rows // 8, cols // 8))
    assert_content(path, info)


def test_blocks_partition_the_map(tmp_path: Path) -> None:
    covered = np.zeros((30, 23), int)
    with FeatureMapWriter.open(tmp_path / "m.h5", an_info(), block=8) as writer:
        assert writer.n_blocks == len(list(writer.blocks)) == 12
        for i, j in writer.blocks:
            covered[writer.block_slices(i, j)] += 1
    assert (covered == 1).all()


def test_the_file_is_what_other_programs_read(tmp_path: Path) -> None:
    info = an_info(150, 200, 8)
    values, valid = content(info)
    valid[:] = False
    valid[130, 190] = True
    with FeatureMapWriter.open(tmp_path / "m.h5", info, block=96) as writer:
        for i, j in writer.blocks:
            window = writer.block_slices(i, j)
            writer.write_block(i, j, values[window], valid[window])
        writer.finish()
    with h5py.File(tmp_path / "m.h5") as file:
        features = file["feature_map"]
        assert (features.shape, features.dtype, features.chunks) == ((150, 200, 8), np.float16, (32, 32, 8))
        assert features.compression is None
        assert features.id.get_num_chunks() == 1, "chunks without tissue are not stored"
        assert file["valid"].dtype == np.bool_
        attributes = dict(file.attrs)
    assert attributes["type"] == "wsipipe.feature_map"
    assert attributes["version"] == 1
    assert attributes["encoder"] == "resnet34"
    assert attributes["cell_px"] == 32.5
    assert attributes["origin_px"].tolist() == [4.0, -8.0]
    assert attributes["slide_size"].tolist() == [750, 970]
    assert json.loads(attributes["settings"]) == info.settings


@pytest.mark.parametrize(("dim", "side"), [(1, 32), (256, 32), (2048, 32), (2049, 16), (2**22, 1)])
def test_chunks_are_square_blocks_within_four_mebibytes(dim: int, side: int) -> None:
    assert chunk_side(an_info(dim=dim)) == side


def test_a_stopped_map_goes_on_where_it_stopped(tmp_path: Path) -> None:
    info = an_info()
    write(tmp_path / "m.h5", info, 8, stop_after=5)
    assert names(tmp_path) == ["m.h5.partial"]
    assert not is_finished(tmp_path / "m.h5", info)
    with FeatureMapWriter.open(tmp_path / "m.h5", info, block=8) as writer:
        assert len(list(writer.blocks)) == 7
    write(tmp_path / "m.h5", info, 8)
    assert_content(tmp_path / "m.h5", info)
    assert names(tmp_path) == ["m.h5"]


@pytest.mark.parametrize("change", [{"settings": {}}, {"slide_identity": "cd"}, {"weights_digest": "0"}, {"block": 9}])
def test_other_settings_or_content_start_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "m.h5", an_info(), 8, stop_after=5)
    block = change.pop("block", 8)
    with FeatureMapWriter.open(tmp_path / "m.h5", replace(an_info(), **change), block=block) as writer:
        assert len(list(writer.blocks)) == writer.n_blocks == 12


def test_a_journal_cut_anywhere_resumes_to_the_same_map(tmp_path: Path) -> None:
    info = an_info()
    write(tmp_path / "m.h5", info, 8, stop_after=11)
    whole = (tmp_path / "m.h5.partial").read_bytes()
    left = set()
    for count, size in enumerate([*range(0, len(whole), 27), len(whole) - 1, len(whole)]):
        (tmp_path / "m.h5.partial").write_bytes(whole[:size])
        with FeatureMapWriter.open(tmp_path / "m.h5", info, block=8) as writer:
            left.add(len(list(writer.blocks)))
        if count % 5 == 0:
            write(tmp_path / "m.h5", info, 8)
            assert_content(tmp_path / "m.h5", info)
    assert left == set(range(1, 13))


def test_damage_inside_a_journal_is_noticed(tmp_path: Path) -> None:
    info = an_info()
    write(tmp_path / "m.h5", info, 8, stop_after=11)
    whole = bytearray((tmp_path / "m.h5.partial").read_bytes())
    for place in range(whole.index(b"\n") + 1, len(whole), 131):
        damaged = bytes(whole[:place]) + bytes([whole[place] ^ 255]) + bytes(whole[place + 1 :])
        (tmp_path / "m.h5.partial").write_bytes(damaged)
        write(tmp_path / "m.h5", info, 8)
        assert_content(tmp_path / "m.h5", info)


def test_a_block_damaged_before_the_map_is_assembled_is_told_and_made_again(tmp_path: Path) -> None:
    info = an_info()
    values, valid = content(info)
    journal = tmp_path / "m.h5.partial"
    with FeatureMapWriter.open(tmp_path / "m.h5", info, block=8) as writer:
        for i, j in writer.blocks:
            window = writer.block_slices(i, j)
            writer.write_block(i, j, values[window], valid[window])
        with journal.open("r+b") as file:
            file.seek(-9, os.SEEK_END)
            file.write(b"\0" * 9)
        with pytest.raises(StoreError, match=r"\.partial: the journal is damaged at block \(3, 2\) \(run it again"):
            writer.finish()
    assert names(tmp_path) == ["m.h5.partial"]
    write(tmp_path / "m.h5", info, 8)
    assert_content(tmp_path / "m.h5", info)


def test_what_is_done_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per block, it would cost the square of their number."""
    asked = []
    whole = Journal.done.fget
    monkeypatch.setattr(Journal, "done", property(lambda self: asked.append(1) or whole(self)))  # type: ignore[misc]
    with FeatureMapWriter.open(tmp_path / "m.h5", an_info(), block=8) as writer:
        assert len(list(writer.blocks)) == 12
    assert len(asked) == 1


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_feature_map import an_info, content
from wsipipe.store.feature_map import FeatureMapWriter

info = an_info(120, 100, 64)
values, valid = content(info)
with FeatureMapWriter.open(Path(sys.argv[1]), info, block=10) as writer:
    for i, j in writer.blocks:
        window = writer.block_slices(i, j)
        writer.write_block(i, j, values[window], valid[window])
        time.sleep(0.002)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_writer_leaves_what_the_next_one_needs(tmp_path: Path) -> None:
    info = an_info(120, 100, 64)
    path = tmp_path / "m.h5"
    rng = np.random.default_rng(5)
    partial = tmp_path / "m.h5.partial"
    done = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITE_SLOWLY, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command) as process:
            grown = (partial.stat().st_size if partial.exists() else 0) + 2000 + rng.integers(60_000)
            while process.poll() is None and not (partial.exists() and partial.stat().st_size > grown):
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert names(tmp_path) == ["m.h5.lock", "m.h5.partial"]
        with FeatureMapWriter.open(path, info, block=10) as writer:
            before, done = done, writer.n_blocks - len(list(writer.blocks))
        assert before < done < 120, "the killed writer's blocks count"
    write(path, info, 10)
    assert_content(path, info)
    assert names(tmp_path) == ["m.h5"]


def test_finished_work_is_recognised_by_content_and_settings(tmp_path: Path) -> None:
    info = an_info(settings={"pair": (1, 2)})
    path = tmp_path / "m.h5"
    assert not is_finished(path, info)
    write(path, info, 8)
    assert is_finished(path, info)
    for change in ({"slide_identity": "cd"}, {"mpp": 0.25}, {"settings": {}}, {"encoder": "x"}, {"slide_size": (1, 2)}):
        assert not is_finished(path, replace(info, **change))
    path.write_bytes(path.read_bytes()[:-10])
    assert not is_finished(path, info)


def test_a_map_cut_off_is_told(tmp_path: Path) -> None:
    write(tmp_path / "whole.h5", an_info(), 8)
    whole = (tmp_path / "whole.h5").read_bytes()
    for size in (0, 1, 100, 800, 2048, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m.h5").write_bytes(whole[:size])
        with pytest.raises(
            StoreError, match=r"m\.h5: is cut off or no HDF5 file: .* \(delete it and run `wsipipe extract`"
        ):
            FeatureMap.open(tmp_path / "m.h5")


def test_what_is_no_map_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such feature map \(run `wsipipe extract` first\)"):
        FeatureMap.open(tmp_path / "m.h5")
    (tmp_path / "m.h5").write_text("no HDF5")
    with pytest.raises(StoreError, match="no HDF5 file"):
        FeatureMap.open(tmp_path / "m.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
    with pytest.raises(StoreError, match="is no feature map: type None, not '"):
        FeatureMap.open(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("attribute", "value", "problem"),
    [
        ("version", 2, "has version 2, this program reads 1"),
        ("dim", 6, r"is damaged: holds .* says \(30, 23, 6\)"),
        ("kind", "neither", "is damaged: kind 'neither'"),
        ("encoder", None, "is damaged: .*encoder"),
        ("settings", "{", "is damaged"),
        ("cell_px", -1.0, "is damaged: a cell grid needs"),
    ],
)
def test_a_map_with_wrong_facts_is_told(tmp_path: Path, attribute: str, value: object, problem: str) -> None:
    write(tmp_path / "m.h5", an_info(), 8)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    with pytest.raises(StoreError, match=problem):
        FeatureMap.open(tmp_path / "m.h5")


def test_a_map_without_its_data_is_told(tmp_path: Path) -> None:
    write(tmp_path / "m.h5", an_info(), 8)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        del file["valid"]
    with pytest.raises(StoreError, match="is damaged"):
        FeatureMap.open(tmp_path / "m.h5")


@pytest.mark.parametrize(
    "window",
    [
        (slice(0, 31), ALL),
        (slice(-1, 5), ALL),
        (ALL, slice(5, 5)),
        (ALL, slice(9, 4)),
        (slice(0, 9, 2), ALL),
        (slice(31), ALL),
    ],
)
def test_windows_past_the_map_are_refused(tmp_path: Path, window: tuple[slice, slice]) -> None:
    write(tmp_path / "m.h5", an_info(), 8)
    with FeatureMap.open(tmp_path / "m.h5") as made:
        with pytest.raises(GeometryError, match="do not lie within 0:"):
            made.read(*window)
        with pytest.raises(GeometryError, match="do not lie within 0:"):
            made.read_valid(*window)


def test_maps_travel_by_path_and_reopen(tmp_path: Path) -> None:
    write(tmp_path / "m.h5", an_info(), 8)
    with FeatureMap.open(tmp_path / "m.h5") as made:
        expected = made.read(ALL, ALL)
        copy = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copy.read(ALL, ALL), expected)
    np.testing.assert_array_equal(made.read(ALL, ALL), expected)
    made.close()
    copy.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_opens_its_own_handle(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom wsipipe.store.feature_map import FeatureMap\n"
        "made = FeatureMap.open(Path(sys.argv[1]))\n"
        "before = made.read(slice(None), slice(None)).sum()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    parents = made._handle\n"
        "    same = made.read(slice(None), slice(None)).sum() == before\n"
        "    os._exit(0 if same and made._handle is not parents and made._handle[0] == os.getpid() else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    write(tmp_path / "m.h5", an_info(), 8)
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "m.h5")], check=False).returncode == 0


def open_writer(path: Path) -> FeatureMapWriter:
    return FeatureMapWriter.open(path, an_info(), block=8)


def test_what_a_writer_killed_at_the_end_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".0123abcd.m.h5").write_bytes(b"half of the map")
    (tmp_path / ".0123abcd.other.h5").write_bytes(b"somebody else's")
    write(tmp_path / "m.h5", an_info(), 8)
    assert names(tmp_path) == [".0123abcd.other.h5", "m.h5"]


def test_two_writers_do_not_share_a_map(tmp_path: Path) -> None:
    with open_writer(tmp_path / "m.h5"), pytest.raises(StoreError, match="is being written by process"):
        open_writer(tmp_path / "m.h5")
    open_writer(tmp_path / "m.h5").close()


def test_an_unfinished_map_cannot_be_finished(tmp_path: Path) -> None:
    with open_writer(tmp_path / "m.h5") as writer:
        writer.write_block(0, 0, None, np.zeros((8, 8), bool))
        with pytest.raises(StoreError, match=r"m\.h5: lacks 11 of 12 blocks"):
            writer.finish()
    assert names(tmp_path) == ["m.h5.partial"]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_vectors_that_float16_cannot_hold_are_told(tmp_path: Path, wrong: float) -> None:
    values = np.ones((8, 8, 5), np.float32)
    values[2, 3, 4] = wrong
    with open_writer(tmp_path / "m.h5") as writer:
        with pytest.raises(StoreError, match=r"m\.h5: block \(1, 2\) holds (NaN|inf|65520|1e\+30)"):
            writer.write_block(1, 2, values[:, :7], np.ones((8, 7), bool))
        invalid = np.ones((8, 7), bool)
        invalid[2, 3] = False
        writer.write_block(1, 2, values[:, :7], invalid)
        assert (1, 2) not in list(writer.blocks)


@pytest.mark.parametrize(
    ("values", "valid", "problem"),
    [
        (np.zeros((8, 8, 4)), np.ones((8, 8), bool), r"block \(0, 0\) is \(8, 8, 5\), got \(8, 8, 4\)"),
        (np.zeros((8, 8, 5)), np.ones((8, 7), bool), r"block \(0, 0\) is \(8, 8, 5\), got"),
        (None, np.ones((8, 8), bool), r"block \(0, 0\) has valid cells but no values"),
    ],
)
def test_blocks_of_another_shape_are_refused(tmp_path: Path, values: Any, valid: Any, problem: str) -> None:
    with open_writer(tmp_path / "m.h5") as writer:
        with pytest.raises(NumericsError, match=problem):
            writer.write_block(0, 0, values, valid)
        with pytest.raises(GeometryError, match=r"block \(4, 0\) lies outside 4 x 3 blocks"):
            writer.write_block(4, 0, values, valid)


def test_impossible_places_and_blocks_are_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StoreError, match="choose another output folder"):
        open_writer(tmp_path / "out" / "m.h5")
    (tmp_path / "m.h5.partial").mkdir()
    with pytest.raises(StoreError, match="a folder has the name"):
        open_writer(tmp_path / "m.h5")
    assert not (tmp_path / "m.h5.lock").exists()
    with pytest.raises(NumericsError, match="at least one cell"):
        FeatureMapWriter.open(tmp_path / "n.h5", an_info(), block=0)


def write_within(writer: FeatureMapWriter, size: int) -> None:
    """Write all blocks from the last to the first, on a disk that takes no file beyond a size."""
    resource = pytest.importorskip("resource")
    values, valid = content(an_info())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        for i, j in reversed(list(writer.blocks)):
            window = writer.block_slices(i, j)
            writer.write_block(i, j, values[window], valid[window])
    finally:
        writer.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_keeps_the_finished_blocks(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "m.h5")
    size = (tmp_path / "m.h5.partial").stat().st_size
    with pytest.raises(StoreError, match=r"m\.h5\.partial: cannot be written"):
        write_within(writer, size + 1100)
    assert names(tmp_path) == ["m.h5.partial"]
    assert (tmp_path / "m.h5.partial").stat().st_size < size + 1100, "half a block is cut off"
    with open_writer(tmp_path / "m.h5") as writer:
        assert 0 < len(list(writer.blocks)) < writer.n_blocks
    write(tmp_path / "m.h5", an_info(), 8)
    assert_content(tmp_path / "m.h5", an_info())
