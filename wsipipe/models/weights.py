"""Where encoder weights come from: torchvision's own, none (random, the same everywhere), or a file."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsipipe.errors import WeightsError

ALTERNATIVES = "or use --weights none, --weights FILE or --encoder filterbank"
# As torchvision's IMAGENET1K_V1 are called.
_IMAGENET_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
}
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.", "backbone.", "encoder.")
_LOAD_ERRORS = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError)


def read_weights(source: str, *, encoder: str, like: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Tensors for an encoder.

    Parameters
    ----------
    source : str
        "imagenet" (torchvision's, downloaded once), "none" (random), or a .pt, .pth or .safetensors file.
    encoder : str
        Name in torchvision ("resnet34").
    like : mapping of str to Tensor
        Names and shapes that the encoder needs; nothing else is returned.
    seed : int
        Of the random weights.

    Returns
    -------
    dict of str to Tensor
        float32, on the CPU, named and shaped as `like`.

    Raises
    ------
    WeightsError
        The weights are not at hand, cannot be read, or are those of another network.
    """
    if source == "none":
        return random_weights(like, seed=seed)
    if source == "imagenet":
        return fit_weights(_read_imagenet(encoder), like, source=imagenet_file(encoder))
    return fit_weights(read_tensors(Path(source)), like, source=Path(source))


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and values in the order of names; first 16 hexadecimal digits."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().numpy()
        state.update(f"{name} {values.shape} {values.dtype}".encode())
        state.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return state.hexdigest()[:16]


def random_weights(like: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, Tensor]:
    """Seeded random weights of a network, the same bits on every machine and with every version of torch.

    Convolutions are uniform in +-sqrt(6 / fan_in), which keeps the variance through a ReLU (He et al. 2015, eq. 10);
    batch norms are the identity, but for the last of each residual branch of a ResNet, which halves it: features of
    sixteen blocks then stay within a few units instead of growing by sqrt(2) at every block. Other matrices are
    uniform in +-sqrt(3 / fan_in), which keeps the variance; positions and class tokens have a deviation of 0.02.

    Notes
    -----
    torch's own normal_ differs in the last bit between instruction sets. The raw stream of PCG64 is guaranteed, and
    scaling 24-bit integers is exact up to one rounding.
    """
    stream = np.random.PCG64(seed)
    ends = {name for name in like if _ends_branch(name, like)}
    return {
        name: _random_tensor(name, tuple(tensor.shape), stream, scale=0.5 if name in ends else 1.0)
        for name, tensor in sorted(like.items())
    }


def _random_tensor(name: str, shape: tuple[int, ...], stream: np.random.PCG64, *, scale: float) -> Tensor:
    if len(shape) > 1:
        gain = 6 if len(shape) == 4 else 3
        bound = np.float32(np.sqrt(gain / np.prod(shape[1:])) if name.endswith("weight") else np.sqrt(3) * 0.02)
        return torch.from_numpy(bound * _uniform(stream, int(np.prod(shape))).reshape(shape))
    return torch.zeros(shape) if name.endswith(("bias", "running_mean")) else torch.full(shape, scale)


def _ends_branch(name: str, names: Collection[str]) -> bool:
    """Whether this batch-norm weight scales the output of a residual branch: bn3, or bn2 where there is no bn3."""
    block, _, last = name.rpartition(".bn")
    return bool(block) and (last == "3.weight" or (last == "2.weight" and f"{block}.bn3.weight" not in names))


def _uniform(stream: np.random.PCG64, count: int) -> NDArray[np.float32]:
    """`count` float32 in [-1, 1), multiples of 2**-23."""
    bits = np.asarray(stream.random_raw(count)) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def imagenet_file(encoder: str) -> Path:
    """Where torch keeps torchvision's ImageNet weights of an encoder, or would after a download."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _IMAGENET_FILES[encoder]


def _read_imagenet(encoder: str) -> dict[str, Tensor]:
    place = imagenet_file(encoder)
    if place.is_file():
        return read_tensors(place)
    # Imported here: it takes a second and 160 MB, and only a download needs it.
    from torchvision.models import get_model_weights

    weights = get_model_weights(encoder).IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the ImageNet weights of {encoder} are not on this machine and cannot be downloaded ({one_line(error)})",
            remedy=f"put {weights.url} at {place}, {ALTERNATIVES}",
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a .pt, .pth or .safetensors file, or of a training checkpoint; runs no code from it.

    Raises
    ------
    WeightsError
        The file is missing or cut off, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(
            "no such weights file", path=path, remedy="use imagenet, none, or a .pt or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        raise WeightsError(
            f"cannot be read as weights: {one_line(error)}",
            path=path,
            remedy="give a state dict saved by torch.save, or a .safetensors file; a download cut off must be deleted",
        ) from error
    return _tensors_of(loaded, path)


def _tensors_of(loaded: object, path: Path) -> dict[str, Tensor]:
    """Find the tensors in a state dict or in a training checkpoint that holds one."""
    if isinstance(loaded, Mapping):
        for key in _CONTAINERS:
            if isinstance(loaded.get(key), Mapping):
                return _tensors_of(loaded[key], path)
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise WeightsError(f"holds no state dict but {type(loaded).__name__}", path=path)


def fit_weights(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], *, source: Path) -> dict[str, Tensor]:
    """Match tensors to the names and shapes of an encoder.

    Common prefixes ("module.", "model.") are taken off; the classifier ("fc.") and batch counters are left out.

    Raises
    ------
    WeightsError
        Tensors are missing, left over, or of another shape; the message names some.
    """
    found = {name: value for name, value in without_prefixes(tensors).items() if _is_feature(name)}
    missing, unknown = sorted(like.keys() - found.keys()), sorted(found.keys() - like.keys())
    if missing or unknown:
        raise WeightsError(_misfit(missing, unknown), path=source, remedy="give the weights of this very encoder")
    for name, tensor in like.items():
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"{name} has shape {tuple(found[name].shape)}, the encoder needs {tuple(tensor.shape)}", path=source
            )
    return {name: found[name].to(torch.float32) for name in like}


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that wrappers give to all names ("module.", "model.")."""
    names = dict(tensors)
    while prefix := next((p for p in _PREFIXES if names and all(name.startswith(p) for name in names)), None):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _is_feature(name: str) -> bool:
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")


def _misfit(missing: list[str], unknown: list[str]) -> str:
    parts = [(len(names), kind, names) for kind, names in (("missing", missing), ("unknown", unknown)) if names]
    told = "; ".join(f"{count} {kind} ({', '.join(names[:3])}{', ...' * (count > 3)})" for count, kind, names in parts)
    return f"tensors do not fit the encoder: {told}"


def one_line(error: BaseException) -> str:
    """First 200 characters of what an error says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
