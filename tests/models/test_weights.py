"""Weights: random ones are the same everywhere, files are taken in their usual wrappings, misfits are named."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from wsipipe.errors import WeightsError
from wsipipe.models.resnet import build_resnet
from wsipipe.models.weights import imagenet_file, random_weights, read_weights, weights_digest


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Whole state dict of a resnet18, classifier and counters included."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torchvision.models.resnet18().state_dict()


@pytest.fixture(scope="module")
def like(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in state.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


def test_random_weights_are_these_on_every_machine() -> None:
    like = {"conv1.weight": torch.empty(2, 1, 1, 2), "layer1.0.bn2.weight": torch.empty(2), "bn1.bias": torch.empty(2)}
    weights = random_weights(like)
    assert weights_digest(weights) == "60de7a8ee5e6ecc7"
    assert weights["layer1.0.bn2.weight"].tolist() == [0.5, 0.5]
    assert weights["bn1.bias"].tolist() == [0, 0]
    assert build_resnet("resnet34", kind="dense", weights="none").weights_digest == "random-a60089613775f22b"


def test_random_weights_depend_on_the_seed_and_fill_the_range(like: dict[str, Tensor]) -> None:
    zero, one = random_weights(like, seed=0), random_weights(like, seed=1)
    assert weights_digest(zero) != weights_digest(one)
    values, bound = zero["layer2.0.conv2.weight"], (6 / (128 * 9)) ** 0.5
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert abs(values.mean().item()) < 0.01 * bound


def test_patch_and_dense_share_their_weights() -> None:
    patch, dense = (build_resnet("resnet18", kind=kind, weights="none") for kind in ("patch", "dense"))
    assert patch.weights_digest == dense.weights_digest
    assert patch.weights_digest.startswith("random-")


def wrappings(state: dict[str, Tensor]) -> dict[str, object]:
    return {
        "bare": state,
        "module.": {f"module.{name}": value for name, value in state.items()},
        "lightning": {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()}},
        "ddp in a checkpoint": {"model": {f"module.model.{name}": value for name, value in state.items()}},
        "no classifier": {name: value for name, value in state.items() if not name.startswith("fc.")},
        "half": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    }


@pytest.mark.parametrize("wrapping", ["bare", "module.", "lightning", "ddp in a checkpoint", "no classifier"])
def test_files_are_taken_in_their_usual_wrappings(
    wrapping: str, state: dict[str, Tensor], like: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrappings(state)[wrapping], tmp_path / "w.pth")
    got = read_weights(str(tmp_path / "w.pth"), encoder="resnet18", like=like)
    assert got.keys() == like.keys()
    assert all(torch.equal(got[name], state[name]) for name in like)


def test_safetensors_and_pickles_give_the_same_digest(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    save_file(state, tmp_path / "w.safetensors")
    digests = {
        build_resnet("resnet18", kind="patch", weights=str(tmp_path / name)).weights_digest
        for name in ("w.pt", "w.safetensors")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 16


def test_half_precision_files_become_float32(state: dict[str, Tensor], like: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(wrappings(state)["half"], tmp_path / "w.pt")
    got = read_weights(str(tmp_path / "w.pt"), encoder="resnet18", like=like)
    assert {value.dtype for value in got.values()} == {torch.float32}


def test_weights_of_another_network_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt: tensors do not fit.*missing \(layer1\.2\.bn1\.bias, .*, \.\.\.\)"):
        build_resnet("resnet34", kind="patch", weights=str(tmp_path / "w.pt"))
    torch.save(state | {"head.weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"1 unknown \(head\.weight\)"):
        build_resnet("resnet18", kind="patch", weights=str(tmp_path / "w.pt"))


def test_a_tensor_of_another_shape_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"conv1\.weight has shape \(64, 4, 7, 7\), the encoder needs \(64, 3, 7, 7\)"
    ):
        build_resnet("resnet18", kind="patch", weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_damaged_file_is_told_in_one_line(name: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=rf"{name}: cannot be read as weights") as caught:
        build_resnet("resnet18", kind="patch", weights=str(path))
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("anything")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        build_resnet("resnet18", kind="patch", weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}])
def test_a_file_without_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        build_resnet("resnet18", kind="patch", weights=str(tmp_path / "w.pt"))


def test_a_missing_file_says_what_else_there_is(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pt: no such weights file.*imagenet, none"):
        build_resnet("resnet18", kind="patch", weights=str(tmp_path / "nowhere.pt"))


def test_offline_imagenet_names_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(WeightsError) as caught:
        build_resnet("resnet34", kind="patch", weights="imagenet")
    message = str(caught.value)
    for part in ("--weights none", "--weights FILE", "--encoder filterbank", str(imagenet_file("resnet34"))):
        assert part in message
    assert "\n" not in message
    assert imagenet_file("resnet34").is_relative_to(tmp_path)
    assert list(tmp_path.rglob("*.pth*")) == []


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_files_are_called_as_torchvision_calls_its_weights(name: str) -> None:
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    assert imagenet_file(name).name == url.rpartition("/")[2]


def unreachable(*args: object, **kwargs: object) -> None:
    reason = "no network"
    raise URLError(reason)


def test_imagenet_weights_put_into_the_cache_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    place = imagenet_file("resnet18")
    place.parent.mkdir(parents=True)
    torch.save(state, place)
    torch.save(state, tmp_path / "same.pt")
    cached, given = (
        build_resnet("resnet18", kind="patch", weights=weights) for weights in ("imagenet", str(tmp_path / "same.pt"))
    )
    assert cached.weights_digest == given.weights_digest
