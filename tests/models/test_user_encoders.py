"""Encoders that users bring: found, checked and run; what is wrong with them is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wsipipe.config import EncoderSettings
from wsipipe.errors import ConfigError, WeightsError
from wsipipe.models.encoders import build_encoder

MODULE = """
import timm
import torch
from torch import nn

class Squares(nn.Module):
    side_px, mean, std = 64, [0, 0, 0], [1, 1, 1]

    def __init__(self):
        super().__init__()
        self.scale = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.scale.weight)

    def forward(self, x):
        return nn.functional.avg_pool2d(self.scale(x), 8)

def squares():
    return Squares()

ready = Squares()

def of_timm(settings):
    return timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)

class Whole:
    name, kind, dim, stride_px, halo_px, window_px, weights_digest = "mine", "dense", 3, 16, 0, 0, "1"

    def encode(self, batch):
        return nn.functional.avg_pool2d(batch.permute(0, 3, 1, 2).float(), 16)

class Half:
    kind = "dense"

def wrong():
    raise RuntimeError("no weights\\nhere")

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a module in the working folder, where the search path does not lead."""
    name = "mine_" + str(abs(hash(request.node.name)))
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def settings(name: str, kind: str = "dense", stride: int = 8, weights: str = "imagenet") -> EncoderSettings:
    return EncoderSettings.model_validate({"name": name, "kind": kind, "weights": weights, "stride_px": stride})


@pytest.mark.parametrize("name", ["squares", "Squares", "ready"])
def test_networks_are_taken_from_functions_classes_and_names(module: str, name: str) -> None:
    encoder = build_encoder(settings(f"python:{module}.{name}"))
    assert (encoder.name, encoder.dim, encoder.stride_px, encoder.window_px) == (f"python:{module}.{name}", 3, 8, 64)
    pixels = torch.arange(64 * 64 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 64, 64, 3)
    expected = torch.nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2) / 255, 8)
    torch.testing.assert_close(encoder.encode(pixels), expected)
    assert str(Path.cwd()) not in sys.path


def test_a_network_of_timm_keeps_its_configuration(module: str) -> None:
    encoder = build_encoder(settings(f"python:{module}.of_timm", stride=16))
    assert (encoder.dim, encoder.stride_px, encoder.window_px) == (64, 16, 160)


def test_an_object_with_everything_is_taken_as_it_is(module: str) -> None:
    encoder = build_encoder(settings(f"python:{module}.Whole", stride=16))
    assert (encoder.name, encoder.dim) == ("mine", 3)


def test_a_file_is_loaded_into_the_network(module: str, tmp_path: Path) -> None:
    torch.save({"scale.weight": torch.full((3, 3, 1, 1), 2.0)}, tmp_path / "w.pt")
    own, filled = (
        build_encoder(settings(f"python:{module}.squares", weights=weights))
        for weights in ("none", str(tmp_path / "w.pt"))
    )
    assert own.weights_digest != filled.weights_digest
    assert filled.encode(torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)).mean() == 6
    torch.save({"other": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"1 missing \(scale\.weight\)"):
        build_encoder(settings(f"python:{module}.squares", weights=str(tmp_path / "w.pt")))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("python:nowhere_at_all.f", r"cannot import 'nowhere_at_all'.*PYTHONPATH"),
        ("python:alone", r"no dotted path.*python:package\.module\.function"),
        ("python:{}.absent", r"has no attribute 'absent'"),
        ("python:{}.wrong", r"fails: RuntimeError: no weights here"),
        ("python:{}.Half", r"is Half and lacks dim, stride_px, halo_px, window_px, weights_digest, encode"),
        ("python:{}.number", r"is int and lacks kind"),
        ("python:{}.Whole", r"makes dense features with a stride of 16 px, asked for were dense and 8"),
    ],
)
def test_what_is_no_encoder_is_told_in_one_line(module: str, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        build_encoder(settings(name.format(module)))
    assert "\n" not in str(caught.value)
