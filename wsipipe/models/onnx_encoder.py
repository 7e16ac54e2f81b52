"""ResNet encoders run by ONNX Runtime: on a CPU faster than torch, the same up to rounding."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim

from wsipipe.errors import ConfigError
from wsipipe.models.stem import Stem

if TYPE_CHECKING:
    from wsipipe.models.resnet import ResNetEncoder

NEEDED = ("onnx", "onnxruntime", "onnxscript")


class OnnxEncoder:
    """A ResNet encoder behind the interface of `wsipipe.models.encoders.Encoder`, run by ONNX Runtime.

    Parameters
    ----------
    encoder : ResNetEncoder
        On the CPU; exported once, here, for tiles of any size.

    Notes
    -----
    Features differ from torch's by at most 1e-5 of the largest one (float32 sums in another order), a hundredth of
    what float16 keeps of it; so maps of both are the same work. As many threads as torch has.
    """

    window_px = 0

    def __init__(self, encoder: ResNetEncoder) -> None:
        import onnxruntime

        self.name, self.kind, self.dim = encoder.name, encoder.kind, encoder.dim
        self.stride_px, self.halo_px = encoder.stride_px, encoder.halo_px
        self.weights_digest = encoder.weights_digest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait in a loop would take the time of those that read.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(_exported(encoder), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def encode(self, batch: Tensor) -> Tensor:
        """Features of a batch; see `wsipipe.models.encoders.Encoder`."""
        (features,) = self._session.run(None, {self._input: batch.cpu().contiguous().numpy()})
        return torch.from_numpy(features)


def is_installed() -> bool:
    """Whether all is there that this module needs."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def check_installed() -> None:
    """Raise a ConfigError where something is missing."""
    if not is_installed():
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        raise ConfigError(
            f"backend 'onnx' needs {', '.join(missing)}", remedy="pip install 'wsipipe[onnx]', or use --backend torch"
        )


class _Undivided(nn.Module):
    """The encoder without the bands of its stem, whose number depends on the tile."""

    def __init__(self, stem: Stem, rest: nn.Module) -> None:
        super().__init__()
        self.stem, self.rest = stem, rest

    def forward(self, pixels: Tensor) -> Tensor:
        stem = self.stem
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) * stem.gain + stem.shift
        features: Tensor = self.rest(stem.maxpool(torch.relu(stem.bn1(stem.conv1(x)))))
        return features


def _exported(encoder: ResNetEncoder) -> bytes:
    stem, *rest = encoder.body.children()
    assert isinstance(stem, Stem)
    side = 4 * (encoder.stride_px or 16)
    example = torch.zeros((2, side, 2 * side, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        _Undivided(stem, nn.Sequential(*rest)).eval(),
        (example,),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC},),
    )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
