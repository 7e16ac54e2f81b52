"""Encoders that users bring: an object of their own module, by its dotted path."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from wsipipe.config import USER_CODE, EncoderSettings
from wsipipe.errors import ConfigError
from wsipipe.models.backbone import InputFormat, as_encoder
from wsipipe.models.timm_models import of_timm
from wsipipe.models.weights import fit_weights, one_line, read_tensors

if TYPE_CHECKING:
    from wsipipe.models.encoders import Encoder

_OWN = ("imagenet", "hub", "none")
_PROMISED = ("kind", "dim", "stride_px", "halo_px", "window_px", "weights_digest", "encode")


def build_user_encoder(settings: EncoderSettings) -> Encoder:
    """Build the encoder that "python:package.module.name" names.

    The name is a network (torch Module), an object with everything of `wsipipe.models.encoders.Encoder`, or a
    function that gives one; a function with a parameter gets the settings. A network may say what it takes:
    `pretrained_cfg` as in timm, or `side_px`, `mean`, `std`; else it gets 224 px and ImageNet's mean and deviation.

    Parameters
    ----------
    settings : EncoderSettings
        `weights` is a file that is loaded into the network, or says nothing: the network comes with its own.

    Raises
    ------
    ConfigError
        There is no such module or name, it fails, or it is no encoder of the kind and stride asked for.
    WeightsError
        The file does not fit the network.
    """
    found = _called(_find(settings.name), settings)
    if not isinstance(found, nn.Module) or hasattr(found, "encode"):
        return _checked(found, settings)
    if settings.weights not in _OWN:
        file = Path(settings.weights)
        like = {key: value for key, value in found.state_dict().items() if not key.endswith("num_batches_tracked")}
        found.load_state_dict(fit_weights(read_tensors(file), like, source=file), strict=False)
    takes = of_timm(found) or _input_format(found)
    return as_encoder(found, name=settings.name, kind=settings.kind, takes=takes, stride_px=settings.stride_px)


def _find(name: str) -> Any:  # noqa: ANN401
    module, _, attribute = name.removeprefix(USER_CODE).rpartition(".")
    if not (module and attribute):
        raise ConfigError(f"encoder {name!r} is no dotted path", remedy="use python:package.module.function")
    try:
        with _working_folder_too():
            return getattr(importlib.import_module(module), attribute)
    except (ImportError, SyntaxError, ValueError, TypeError, NameError, KeyError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"encoder {name!r}: cannot import {module!r}: {one_line(error)}",
            remedy=f"install it, or run in its folder, or name that in PYTHONPATH; looked from {Path.cwd()}",
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"encoder {name!r}: {one_line(error)}", remedy="use python:package.module.function"
        ) from error


@contextmanager
def _working_folder_too() -> Iterator[None]:
    """Find modules of the working folder, as `python -m` does and an installed command does not."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _called(named: Any, settings: EncoderSettings) -> object:  # noqa: ANN401
    """Give the named object itself, or what it returns where it is a function or class."""
    if not (inspect.isroutine(named) or inspect.isclass(named)):
        return cast("object", named)
    make = cast("Callable[..., object]", named)
    try:
        return make(settings) if inspect.signature(make).parameters else make()
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, OSError, ImportError) as error:
        raise ConfigError(
            f"encoder {settings.name!r} fails: {type(error).__name__}: {one_line(error)}",
            remedy="it is called without arguments, or with the encoder settings where it takes one",
        ) from error


def _checked(found: object, settings: EncoderSettings) -> Encoder:
    """See that an object has what an encoder has, and is what the settings ask for."""
    if lacking := [name for name in _PROMISED if not hasattr(found, name)]:
        raise ConfigError(
            f"encoder {settings.name!r} is {type(found).__name__} and lacks {', '.join(lacking)}",
            remedy="give a torch Module, or an object with everything of wsipipe.models.encoders.Encoder",
        )
    encoder = cast("Encoder", found)
    wanted = (settings.kind, settings.stride_px if settings.kind == "dense" else encoder.stride_px)
    if (encoder.kind, encoder.stride_px) != wanted:
        raise ConfigError(
            f"encoder {settings.name!r} makes {encoder.kind} features with a stride of {encoder.stride_px} px, "
            f"asked for were {wanted[0]} and {wanted[1]}",
            remedy=f"use --kind {encoder.kind}" + (f" --stride {encoder.stride_px}" if encoder.stride_px else ""),
        )
    return encoder


def _input_format(net: nn.Module) -> InputFormat:
    said = {name: getattr(net, name) for name in ("side_px", "mean", "std") if hasattr(net, name)}
    for name in ("mean", "std"):
        if name in said:
            said[name] = tuple(float(value) for value in said[name])
    return InputFormat(**said, any_size="side_px" not in said)
