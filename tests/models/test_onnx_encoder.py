"""ONNX Runtime gives torch's features, for tiles of any size; what it cannot run is refused or left to torch."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from wsipipe.config import EncoderSettings, Recipe, updated
from wsipipe.errors import ConfigError
from wsipipe.models import onnx_encoder
from wsipipe.models.encoders import build_encoder
from wsipipe.models.resnet import ResNetEncoder
from wsipipe.models.tuned_encoder import trainable_encoder

here = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in onnx_encoder.NEEDED), reason="ONNX Runtime is not installed"
)


def settings(**more):
    return EncoderSettings(**({"name": "resnet18", "weights": "none", "backend": "onnx"} | more))


@here
@pytest.mark.parametrize(("kind", "stride"), [("patch", 16), ("dense", 32)])
def test_features_are_those_of_torch(kind, stride):
    fast = build_encoder(settings(kind=kind, stride_px=stride))
    plain = build_encoder(settings(kind=kind, stride_px=stride, backend="torch"))
    assert isinstance(fast, onnx_encoder.OnnxEncoder)
    for name in ("name", "kind", "dim", "stride_px", "halo_px", "window_px", "weights_digest"):
        assert getattr(fast, name) == getattr(plain, name)
    torch.manual_seed(0)
    for shape in ((1, 96, 160, 3), (3, 64, 64, 3), (2, 256, 192, 3)):  # none is the size it was exported with
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        expected, got = plain.encode(pixels), fast.encode(pixels)
        assert (got.shape, got.dtype) == (expected.shape, torch.float32)
        assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@here
def test_auto_takes_it_where_it_can(monkeypatch):
    monkeypatch.setattr(onnx_encoder, "OnnxEncoder", lambda encoder: ("onnx", encoder.name))  # an export takes seconds
    assert build_encoder(settings(backend="auto")) == ("onnx", "resnet18")


def test_auto_is_torch_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(onnx_encoder, "NEEDED", ("no_such_module",))
    assert isinstance(build_encoder(settings(backend="auto")), ResNetEncoder)
    with pytest.raises(ConfigError, match=r"needs no_such_module .*wsipipe\[onnx\]"):
        build_encoder(settings())


def test_other_encoders_are_refused_or_left_alone():
    with pytest.raises(ConfigError, match="runs resnets, not 'filterbank'"):
        build_encoder(settings(name="filterbank", kind="dense", stride_px=4))
    assert build_encoder(settings(name="filterbank", kind="dense", stride_px=4, backend="auto")).name == "filterbank"


def test_a_tuned_encoder_is_torchs():
    encoder, parameters = trainable_encoder(settings(), device="cpu")
    assert isinstance(encoder, ResNetEncoder)
    assert parameters


def test_the_backend_is_no_other_work_and_outlives_changes():
    recipe = updated(Recipe(), {"encoder": {"backend": "onnx"}})
    assert recipe.digest() == Recipe().digest()
    assert "backend" not in recipe.model_dump()["encoder"]
    assert updated(recipe, {"encoder": {"weights": "none"}}).encoder.backend == "onnx"
