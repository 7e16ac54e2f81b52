from __future__ import annotations

import pytest
import torch

from wsipipe.config import NetworkSettings
from wsipipe.models.unet import UNet


def small(in_channels: int = 3, depth: int = 2, **settings) -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels, NetworkSettings(width=4, depth=depth, **settings))


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 23), (1, 1), (3, 40), (64, 5)])
def test_any_size_comes_back(height, width, norm):
    logits, features = small(depth=3, norm=norm)(torch.rand(1, 3, height, width))
    assert logits.shape == (1, 1, height, width)
    assert features.shape == (1, 4, height, width)


def test_logits_are_read_from_the_decoder_features():
    network = small()
    logits, features = network(torch.rand(2, 3, 16, 12))
    weight, bias = network.head.weight[0, :, 0, 0], network.head.bias
    torch.testing.assert_close(logits[:, 0], torch.einsum("c,nchw->nhw", weight, features) + bias)


def test_wide_input_is_reduced_first():
    wide, narrow = small(256), small(3)
    assert wide.encoder[0][0].in_channels == 4
    assert wide.reduce[0].weight.shape == (4, 256, 1, 1)
    assert narrow.encoder[0][0].in_channels == 3
    assert wide(torch.rand(1, 256, 8, 8))[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("width", [4, 5, 6, 9])
def test_any_width_will_do(width):
    logits, features = UNet(7, NetworkSettings(width=width, depth=1))(torch.rand(1, 7, 8, 8))
    assert features.shape == (1, width, 8, 8)
    assert logits.isfinite().all()


def test_widths_double_and_come_back():
    network = UNet(3, NetworkSettings(width=8, depth=3))
    assert [stage[0].out_channels for stage in network.encoder] == [8, 16, 32, 64]
    assert [stage.convolve[0].out_channels for stage in network.decoder] == [32, 16, 8]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_every_weight_gets_gradient(norm):
    network = small(8, norm=norm)
    logits, _ = network(torch.rand(1, 8, 13, 19))
    (logits**2).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_group_norm_does_not_depend_on_training_or_on_the_rest_of_the_batch():
    network, windows = small(), torch.rand(3, 3, 16, 16)
    together = network(windows)[0]
    torch.testing.assert_close(network.eval()(windows[1:2])[0], together[1:2])


def test_overlapping_windows_agree_at_prediction_with_batch_norm():
    network = small(depth=1, norm="batch")
    network(torch.rand(1, 3, 64, 64))  # running statistics that are not the initial ones
    network.eval()
    picture = torch.rand(1, 3, 64, 64)
    picture[..., 48:] = 40.0  # something odd, seen by the whole but not by the window
    with torch.no_grad():
        whole, part = network(picture)[0], network(picture[..., :44])[0]
    torch.testing.assert_close(part[..., :28], whole[..., :28])


def test_mirrored_input_of_even_size_gives_mirrored_output_for_mirrored_kernels():
    network = small(depth=1).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        x = torch.rand(1, 3, 8, 8)
        torch.testing.assert_close(network(x.flip(-1))[0], network(x)[0].flip(-1))


def test_dropout_acts_in_training_only():
    network = small(dropout=0.5)
    x = torch.rand(1, 3, 16, 16)
    torch.manual_seed(1)
    first, second = network(x)[0], network(x)[0]
    assert not torch.equal(first, second)
    network.eval()
    torch.testing.assert_close(network(x)[0], network(x)[0], rtol=0, atol=0)


def test_encoder_and_decoder_by_themselves_are_the_whole():
    network, x = small(), torch.rand(2, 3, 17, 23)
    for whole, part in zip(network(x), network.decode(network.encode(x), (17, 23)), strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=0)


def test_a_second_branch_has_the_form_but_not_the_weights_of_the_first():
    network, x = small(norm="batch"), torch.rand(2, 3, 17, 23)
    branch, stages = network.new_branch(), network.encode(x)
    assert {name: value.shape for name, value in branch.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items() if name.startswith(("decoder", "head"))
    }
    logits, _ = branch(stages, (17, 23))
    assert logits.shape == (2, 1, 17, 23)
    assert not torch.allclose(logits, network.decode(stages, (17, 23))[0])
    branch.load_state_dict({name: network.state_dict()[name] for name in branch.state_dict()})
    torch.testing.assert_close(branch(stages, (17, 23))[0], network.decode(stages, (17, 23))[0])
