from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from wsipipe.config import EncoderSettings, NetworkSettings, Recipe
from wsipipe.errors import CheckpointError
from wsipipe.models.segmentation import SegmentationModel, build_model, check_fits, restore_model

RECIPE = Recipe(network=NetworkSettings(width=4, depth=1))
IMAGES = RECIPE.model_copy(update={"encoder": EncoderSettings(name="none")})


@dataclass(frozen=True)
class Saved:
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    recipe: Recipe = RECIPE
    provenance: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    encoder: str = "resnet34"
    weights_digest: str = "abc"
    kind: str = "dense"
    mpp: float | None = 0.5
    stride_px: int = 16
    dim: int = 256
    stain: str | None = None


def provenance(facts: Facts) -> dict[str, object]:
    return {
        "encoder": facts.encoder,
        "weights_digest": facts.weights_digest,
        "kind": facts.kind,
        "mpp": facts.mpp,
        "stride_px": facts.stride_px,
        "in_channels": facts.dim,
        **({} if facts.stain is None else {"stain": facts.stain}),
    }


def test_input_is_standardised_inside():
    torch.manual_seed(0)
    model = build_model(3, IMAGES).eval()
    x = torch.rand(1, 3, 8, 8)
    plain = model(x)[0]
    model.set_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0]))
    scale, shift = torch.tensor([2.0, 4.0, 8.0])[:, None, None], torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(model(x * scale + shift)[0], plain)


def test_constant_channels_are_not_blown_up():
    model = build_model(3, IMAGES)
    model.set_statistics(torch.zeros(3), torch.tensor([0.0, 2.0, 1e-9]))
    assert model.std.tolist() == [1.0, 2.0, 1.0]


def test_cells_never_computed_count_as_the_mean_on_maps_but_not_in_images():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 8) + 1.0
    mean, std = torch.tensor([1.0, 1.5, 2.0]), torch.ones(3)
    empty, average = x.clone(), x.clone()
    empty[..., 2:5, 3:] = 0.0
    average[..., 2:5, 3:] = mean[:, None, None]
    for recipe, same in ((RECIPE, True), (IMAGES, False)):
        model = build_model(3, recipe).eval()
        model.set_statistics(mean, std)
        assert torch.allclose(model(empty)[0], model(average)[0]) is same


def test_restored_model_predicts_the_same():
    torch.manual_seed(0)
    model = build_model(5, RECIPE)
    model.set_statistics(torch.arange(5.0), torch.arange(1.0, 6.0))
    model(torch.rand(1, 5, 16, 16))
    model.eval()
    again = restore_model(Saved(tensors=model.state_dict(), provenance={"in_channels": 5}), device="cpu")
    x = torch.rand(1, 5, 9, 7)
    assert not again.training
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [None, 0, "many"])
def test_checkpoint_without_channels_is_refused(channels):
    with pytest.raises(CheckpointError, match=f"in_channels = {channels!r}"):
        restore_model(Saved(provenance={"in_channels": channels}), device="cpu")


def test_weights_of_another_network_are_refused():
    tensors = build_model(5, RECIPE).state_dict()
    with pytest.raises(CheckpointError, match="do not fit the network") as caught:
        restore_model(Saved(tensors=tensors, provenance={"in_channels": 6}), device="cpu")
    assert "\n" not in str(caught.value)


def test_features_of_the_same_kind_fit():
    check_fits(Saved(provenance=provenance(Facts())), Facts(mpp=0.5 + 1e-9))
    check_fits(Saved(provenance=provenance(Facts(mpp=None))), Facts(mpp=None))
    check_fits(Saved(provenance=provenance(Facts(stain="reinhard (2b)"))), Facts(stain="reinhard (2b)"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoder": "filterbank"}, "encoder resnet34, these have encoder filterbank"),
        ({"weights_digest": "xyz"}, "weights_digest abc, these have weights_digest xyz"),
        ({"kind": "patch"}, "kind dense, these have kind patch"),
        ({"mpp": 1.0}, "mpp 0.5 um/px, these have mpp 1.0 um/px"),
        ({"mpp": None}, "mpp 0.5 um/px, these have mpp None"),
        ({"stride_px": 32}, "stride 16 px, these have stride 32 px"),
        ({"stain": "macenko (1a)"}, "stain None, these have stain macenko (1a)"),
        ({"dim": 512}, "dim 256 channels, these have dim 512 channels"),
    ],
)
def test_other_features_are_refused_naming_both_values(change, told):
    with pytest.raises(CheckpointError) as caught:
        check_fits(Saved(provenance=provenance(Facts())), replace(Facts(), **change))
    assert told in str(caught.value)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_prediction_by_rows_is_that_of_the_whole_window(norm):
    settings = NetworkSettings(width=8, depth=2, norm=norm)
    model = SegmentationModel(64, settings, empty_cells=True).eval()
    x = torch.randn(2, 64, 75, 41, generator=torch.Generator().manual_seed(0))
    x[:, :, 20:30] = 0
    whole = model(x)
    with torch.no_grad():
        by_rows = model(x)
    for ours, expected in zip(by_rows, whole, strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-6)
