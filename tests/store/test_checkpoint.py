from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from wsipipe.config import Recipe, updated
from wsipipe.errors import CheckpointError, StoreError
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint, load_state, save_checkpoint, save_state


def a_checkpoint() -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    tensors = {
        "weight": weight,
        "tied": weight,
        "transposed": weight.T,
        "half": torch.ones(2, dtype=torch.float16),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
    }
    recipe = updated(Recipe(), {"training": {"epochs": 7}, "tile": {"mpp": 1.0}})
    return Checkpoint(
        tensors, recipe, {"encoder": "resnet34", "mpp": np.float64(0.5), "from": Path("runs"), "mask": None}
    )


def write(path: Path, **changes: object) -> None:
    told = {"type": "wsipipe.checkpoint", "version": 1, "recipe": {}, "provenance": {}} | changes
    save_file({"a": torch.zeros(3)}, path, metadata={"wsipipe": json.dumps(told)})


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    saved = a_checkpoint()
    save_checkpoint(tmp_path / "run" / "best.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert loaded.recipe == saved.recipe
    assert loaded.provenance == {"encoder": "resnet34", "mpp": 0.5, "from": "runs", "mask": None}
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor.detach())
        assert not loaded.tensors[name].requires_grad


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", a_checkpoint())
    with safe_open(tmp_path / "c.safetensors", framework="np") as file:
        told = json.loads(file.metadata()["wsipipe"])
        assert file.get_tensor("weight").shape == (4, 3)
    assert (told["type"], told["version"]) == ("wsipipe.checkpoint", 1)
    assert told["recipe"]["training"]["epochs"] == 7


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, Checkpoint({"w": torch.ones(3)}, Recipe(), {"x": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(CheckpointError, match=r"c\.safetensors: no such checkpoint \(give the \.safetensors file"):
        load_checkpoint(path)
    for content in (b"", b"text", pickle.dumps({"a": 1}), b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"c\.safetensors: is cut off or no checkpoint"):
            load_checkpoint(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="is cut off or no checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_cut_off_is_told(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "whole", a_checkpoint())
    whole = (tmp_path / "whole").read_bytes()
    for size in (1, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "c").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is cut off"):
            load_checkpoint(tmp_path / "c")


def test_tensors_of_others_are_told(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}, {"wsipipe": '{"type": "other"}'}, {"wsipipe": "[]"}):
        save_file({"a": torch.zeros(3)}, tmp_path / "c", metadata=metadata)
        with pytest.raises(CheckpointError, match="holds tensors, but is no checkpoint of ours"):
            load_checkpoint(tmp_path / "c")
    save_file({"a": torch.zeros(3)}, tmp_path / "c", metadata={"wsipipe": "{"})
    with pytest.raises(CheckpointError, match="has damaged metadata"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 2}, "has version 2, this program reads 1"),
        ({"recipe": {"tile": {"mpp": -1}}}, r"has an invalid recipe: tile\.mpp"),
        ({"recipe": {"unheard": 1}}, "has an invalid recipe: unknown setting 'unheard'"),
        ({"recipe": None}, "recipe or provenance is no mapping"),
        ({"provenance": []}, "recipe or provenance is no mapping"),
    ],
)
def test_wrong_metadata_are_told(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    write(tmp_path / "c")
    assert load_checkpoint(tmp_path / "c").provenance == {}
    write(tmp_path / "c", **changes)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_checkpoint(tmp_path / "c")
    assert caught.value.path == tmp_path / "c"


def test_provenance_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"provenance\.dice = nan"):
        save_checkpoint(tmp_path / "c", Checkpoint({}, Recipe(), {"dice": float("nan")}))
    assert not any(tmp_path.iterdir())


def test_a_training_goes_on_from_its_state(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {"optimiser": optimiser.state_dict(), "epoch": 3, "random": torch.get_rng_state(), "best": float("inf")}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert (loaded["epoch"], loaded["best"]) == (3, float("inf"))
    assert torch.equal(loaded["random"], state["random"])
    fresh = torch.optim.Adam(model.parameters(), lr=0.5)
    fresh.load_state_dict(loaded["optimiser"])
    assert fresh.param_groups[0]["lr"] == 0.1
    for parameter in model.parameters():
        assert torch.equal(fresh.state[parameter]["exp_avg"], optimiser.state[parameter]["exp_avg"])


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("ran"),)


def test_a_state_runs_no_code_and_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.pt"
    with pytest.raises(CheckpointError, match="no such training state"):
        load_state(path)
    torch.save({"a": Malicious()}, path)
    with pytest.raises(CheckpointError, match=r"state\.pt: is cut off or no training state"):
        load_state(path)
    assert not (tmp_path / "ran").exists()
    save_state(path, {"a": torch.zeros(1000)})
    whole = path.read_bytes()
    for size in (0, 1, 10, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"is cut off or no training state.* \(start the training anew\)"):
            load_state(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="holds list, not a training state"):
        load_state(path)
