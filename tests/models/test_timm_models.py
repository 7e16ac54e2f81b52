"""Encoders of timm: what its own code computes, from weights at hand, and one line for everything else."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from wsipipe.config import EncoderSettings
from wsipipe.errors import ConfigError, WeightsError
from wsipipe.models.encoders import build_encoder
from wsipipe.models.timm_models import TimmName, build_timm


def settings(name: str, kind: str = "patch", stride: int = 16, weights: str = "none") -> EncoderSettings:
    return EncoderSettings.model_validate({"name": name, "kind": kind, "weights": weights, "stride_px": stride})


@pytest.fixture(scope="module")
def tissue(picture: NDArray[np.uint8]) -> Tensor:
    """Two pieces of tissue of the test models' own size, (2, 160, 160, 3)."""
    return torch.from_numpy(np.stack([picture[200:360, 200:360], picture[400:560, 500:660]]))


def prepared(net: nn.Module, tissue: Tensor) -> Tensor:
    """Pixels as timm's own evaluation transform makes them of images of the right size."""
    config = timm.data.resolve_model_data_config(net)
    x = tissue.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ViT with its classifier, as timm would save them."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = timm.create_model("test_vit")
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(net.state_dict(), path)
    return path


def restored(path: Path) -> nn.Module:
    net: nn.Module = timm.create_model("test_vit", checkpoint_path=str(path)).eval()
    return net


def test_patch_vectors_are_those_of_timm(saved: Path, tissue: Tensor) -> None:
    net = restored(saved)
    encoder = build_timm(settings("timm:test_vit", weights=str(saved)))
    with torch.no_grad():
        x = prepared(net, tissue)
        expected = net.forward_head(net.forward_features(x), pre_logits=True)
    assert (encoder.dim, encoder.stride_px, encoder.halo_px, encoder.window_px) == (64, 0, 0, 0)
    torch.testing.assert_close(encoder.encode(tissue), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1


def test_dense_maps_are_the_tokens_without_the_class(saved: Path, tissue: Tensor) -> None:
    net = restored(saved)
    encoder = build_timm(settings("timm:test_vit", "dense", weights=str(saved)))
    with torch.no_grad():
        x = prepared(net, tissue)
        expected = net.forward_intermediates(x, indices=[-1], norm=True, intermediates_only=True)[0]
    assert (encoder.dim, encoder.stride_px, encoder.halo_px, encoder.window_px) == (64, 16, 0, 160)
    torch.testing.assert_close(encoder.encode(tissue), expected, rtol=1e-4, atol=1e-5)


def test_convolutional_maps_are_those_of_forward_features(tissue: Tensor) -> None:
    encoder = build_encoder(settings("timm:test_resnet", "dense", 32))
    with torch.no_grad():
        expected = encoder.net.forward_features(prepared(encoder.net, tissue))  # type: ignore[attr-defined]
    torch.testing.assert_close(encoder.encode(tissue), expected, rtol=1e-4, atol=1e-5)
    assert (encoder.dim, encoder.stride_px, encoder.window_px) == (96, 32, 0)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_the_halo_of_a_convolutional_map_makes_tiles_exact(name: str) -> None:
    encoder = build_timm(settings(f"timm:{name}", "dense", 32))
    halo, side = encoder.halo_px, 32 * 4
    noise = np.random.default_rng(1).integers(0, 256, (1, 2 * halo + side, 2 * halo + 2 * side, 3), np.uint8)
    whole = torch.from_numpy(noise)
    cells = halo // 32
    inner = encoder.encode(whole)[:, :, cells : cells + 4, cells : cells + 4]
    tile = encoder.encode(whole[:, :, : 2 * halo + side])[:, :, cells:-cells, cells:-cells]
    torch.testing.assert_close(tile, inner, rtol=1e-4, atol=1e-5)
    # One cell less on a side is too little: the halo is no larger than it must be.
    left = encoder.encode(whole[:, :, 32:])[:, :, cells : cells + 4, cells - 1 : cells + 3]
    right = encoder.encode(whole[:, :, : 2 * halo + side - 32])[:, :, cells : cells + 4, cells : cells + 4]
    assert max((left - inner).abs().max(), (right - inner).abs().max()) > 0


def test_networks_that_look_everywhere_see_windows() -> None:
    """Squeeze and excitation mixes all of an image into each cell."""
    encoder = build_timm(settings("timm:test_efficientnet", "dense", 32))
    assert (encoder.halo_px, encoder.window_px) == (0, 160)


def test_random_weights_are_these_on_every_machine() -> None:
    patch, dense = (build_timm(settings("timm:test_vit", kind)) for kind in ("patch", "dense"))
    assert patch.weights_digest == dense.weights_digest == "random-5ba0352f5df2644d"
    assert build_timm(settings("timm:test_convnext")).weights_digest == "random-3f3efab9e2b400a5"


def test_building_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_timm(settings("timm:test_vit"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_resnet", "test_convnext"])
def test_random_features_are_of_ordinary_size_and_tell_pictures_apart(name: str, tissue: Tensor) -> None:
    features = build_timm(settings(f"timm:{name}")).encode(tissue)
    assert 1e-2 < features.abs().max() < 1000
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_files_and_pickles_give_one_digest(saved: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in restored(saved).state_dict().items()}}, tmp_path / "w.pth")
    digests = [
        build_timm(settings("timm:test_vit", weights=str(path))).weights_digest for path in (saved, tmp_path / "w.pth")
    ]
    assert digests[0] == digests[1]
    assert not digests[0].startswith("random")


def test_arguments_reach_the_model(saved: Path) -> None:
    wide = build_timm(settings("timm:test_vit?img_size=224", "dense", weights=str(saved)))
    assert (wide.window_px, wide.stride_px) == (224, 16)  # positions of the file are resampled, by timm
    registers = build_timm(settings("timm:test_vit?reg_tokens=4&mlp_layer=SwiGLUPacked&act_layer=silu", "dense"))
    assert registers.net.num_prefix_tokens == 5
    assert type(registers.net.get_submodule("blocks.0.mlp")).__name__ == "GluMlp"
    unpooled = build_timm(settings("timm:test_vit?global_pool="))
    assert unpooled.dim == 2 * 64


def test_names_come_apart() -> None:
    name = TimmName.parse("timm:hf-hub:Owner/Model@v2?init_values=1e-5&act_layer=silu&dynamic_img_size=True")
    assert (name.model, name.repository) == ("hf-hub:Owner/Model@v2", "Owner/Model@v2")
    assert name.arguments == {"init_values": 1e-5, "act_layer": "silu", "dynamic_img_size": True}
    for bad, told in (("timm:", "names no model"), ("timm:a?b", "'b' is no argument"), ("timm:a?1=2", "'1' is no")):
        with pytest.raises(ConfigError, match=told):
            TimmName.parse(bad)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:vit_smal_patch16_224", r"has no model 'vit_smal_patch16_224' \(did you mean vit_small_patch16_224"),
        ("timm:MahmoodLab/UNI", r"models of the hub are timm:hf-hub:MahmoodLab/UNI"),
        ("timm:test_vit?colour=blue", r"cannot build 'test_vit': .*unexpected keyword argument 'colour'"),
        ("timm:test_vit.nonsense", r"cannot build 'test_vit.nonsense': Invalid pretrained tag"),
        ("timm:local-dir:/nowhere", r"/nowhere/config.json.*the folder holds a model's config.json and weights"),
    ],
)
def test_what_timm_cannot_build_is_told_in_one_line(name: str, told: str) -> None:
    with pytest.raises((ConfigError, WeightsError), match=told) as caught:
        build_encoder(settings(name))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors: tensors do not fit the encoder: \d+ missing"):
        build_timm(settings("timm:test_resnet", weights=str(saved)))
    with pytest.raises(WeightsError, match=r"nothing\.pt: no such weights file"):
        build_timm(settings("timm:test_vit", weights=str(tmp_path / "nothing.pt")))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut\.safetensors: cannot be read as weights"):
        build_timm(settings("timm:test_vit", weights=str(cut)))


def hub_folder(path: Path, saved: Path, args: dict[str, Any] | None = None, **config: Any) -> Path:
    """What one downloads by hand of a model of the hub: config.json beside its weights."""
    path.mkdir()
    own = {"input_size": [3, 160, 160], "fixed_input_size": True, "classifier": "head", "num_classes": 1000}
    told = {"architecture": "test_vit", "num_features": 64, "model_args": args or {}, "pretrained_cfg": own | config}
    (path / "config.json").write_text(json.dumps(told))
    return Path(shutil.copy(saved, path / "model.safetensors"))


def test_a_model_of_the_hub_needs_no_network_with_its_files(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tissue: Tensor
) -> None:
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    file = hub_folder(tmp_path / "uni", saved, mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    encoder = build_timm(settings("timm:hf-hub:Owner/Model", weights=str(file)))
    assert encoder.name == "timm:hf-hub:Owner/Model"
    assert encoder.takes.mean == (0.1, 0.2, 0.3)
    folder = build_timm(settings(f"timm:local-dir:{file.parent}", weights="hub"))
    assert encoder.weights_digest == folder.weights_digest
    torch.testing.assert_close(encoder.encode(tissue), folder.encode(tissue))


def test_published_models_are_built_as_their_cards_say(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virchow leaves its tokens unpooled and has gated layers; H-optimus has its own mean."""
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    net = timm.create_model("test_vit", mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU, num_classes=0)
    file = hub_folder(tmp_path / "virchow", saved, {"global_pool": "", "num_classes": 0})
    save_file(net.state_dict(), file)
    assert build_timm(settings("timm:hf-hub:paige-ai/Virchow", weights=str(file))).dim == 128
    net = timm.create_model("test_vit", init_values=1e-5, num_classes=0)
    file = hub_folder(tmp_path / "hoptimus", saved)
    save_file(net.state_dict(), file)
    encoder = build_timm(settings("timm:hf-hub:bioptimus/H-optimus-0", weights=str(file)))
    assert encoder.takes.mean == (0.707223, 0.578729, 0.703617)


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("the hub was asked")


def test_timm_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_timm(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(ConfigError, match=r"need timm.*pip install 'wsipipe\[timm\]'"):
        build_encoder(settings("timm:test_vit"))
