"""Examine the installation: versions, readers, solver, weights, devices, disk."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import wsipipe

_NEEDED = (
    "torch",
    "torchvision",
    "openslide",
    "openslide_bin",
    "tiffslide",
    "tifffile",
    "simplejpeg",
    "h5py",
    "numpy",
    "scipy",
    "skimage",
    "sklearn",
    "numba",
    "dask",
    "distributed",
    "rasterio",
    "shapely",
    "safetensors",
    "tensorboard",
    "typer",
)
_LOW_DISK_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the examination: `state` "ok", "note" (works, with less) or "bad" (does not work)."""

    state: Literal["ok", "note", "bad"]
    subject: str
    message: str


def examine(output: Path) -> list[Finding]:
    """Look at everything that the commands need.

    Parameters
    ----------
    output : Path
        Project folder whose disk is looked at; need not exist.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _libraries, _devices, _weights)
    return [finding for check in checks for finding in check()] + list(_disk(output))


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "wsipipe", f"{wsipipe.__version__} in {Path(wsipipe.__file__).parent}")
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")


def _libraries() -> Iterator[Finding]:
    names = importlib.metadata.packages_distributions()
    for module in _NEEDED:
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:  # OSError: a shared library that does not load
            yield Finding("bad", module, f"{error} (pip install --force-reinstall {module})")
            continue
        yield Finding("ok", module, importlib.metadata.version(names[module][0]))


def _devices() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "none found: everything runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _weights() -> Iterator[Finding]:
    from wsipipe.models.weights import imagenet_file

    path = imagenet_file("resnet34")
    if path.is_file():
        yield Finding("ok", "weights", f"ImageNet weights of resnet34 at {path}")
    else:
        yield Finding(
            "note",
            "weights",
            f"ImageNet weights of resnet34 are not at {path}: downloaded when first used; without a network use "
            "--weights FILE or --encoder filterbank",
        )


def _disk(output: Path) -> Iterator[Finding]:
    folder = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
    if not folder.is_dir():
        yield Finding("bad", "disk", f"{folder} is a file, not a folder (choose another --output)")
        return
    free_gb = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        yield Finding("bad", "disk", f"{folder} cannot be written (choose another --output)")
    elif free_gb < _LOW_DISK_GB:
        yield Finding("note", "disk", f"only {free_gb:.1f} GB free at {folder}: feature maps may not fit")
    else:
        yield Finding("ok", "disk", f"{free_gb:.0f} GB free at {folder}")
