"""Networks of timm by name, vision transformers and the hub's foundation models among them.

The only module that imports timm, which is an optional extra.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wsipipe.config import EncoderSettings
from wsipipe.errors import ConfigError, WeightsError
from wsipipe.models.backbone import BackboneEncoder, InputFormat, as_encoder
from wsipipe.models.published import NOT_OF_TIMM, arguments_of, normalisation_of
from wsipipe.models.weights import fit_weights, one_line, random_weights, read_tensors, without_prefixes

if TYPE_CHECKING:
    from types import ModuleType

PREFIX = "timm:"
_HUB, _FOLDER = "hf-hub:", "local-dir:"
_PRETRAINED = ("imagenet", "hub")
# What a model's constructor says of arguments that it does not know or cannot use.
_ARGUMENT_ERRORS = (TypeError, ValueError, KeyError, AssertionError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class TimmName:
    """What follows "timm:", in parts.

    Parameters
    ----------
    model : str
        Name in timm, or "hf-hub:OWNER/NAME[@REVISION]", or "local-dir:FOLDER".
    arguments : mapping
        Of the model's constructor.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str) -> TimmName:
        """Take "timm:MODEL?key=value&key=value" apart; values are Python literals, else text.

        Raises
        ------
        ConfigError
            No model, or an argument without a value.
        """
        model, _, query = name.removeprefix(PREFIX).partition("?")
        if not model:
            raise ConfigError(f"encoder {name!r} names no model", remedy="use timm:vit_small_patch16_224, for one")
        pairs = [part.partition("=") for part in query.split("&")] if query else []
        for key, equals, _ in pairs:
            if not (key.isidentifier() and equals):
                raise ConfigError(f"encoder {name!r}: {key!r} is no argument", remedy="use timm:MODEL?key=value&...")
        return cls(model, {key: _literal(value) for key, _, value in pairs})

    @property
    def repository(self) -> str:
        """Name on the hub; empty for others."""
        return self.model.removeprefix(_HUB) if self.model.startswith(_HUB) else ""


def build_timm(settings: EncoderSettings) -> BackboneEncoder:
    """Build an encoder of timm, on the CPU.

    Parameters
    ----------
    settings : EncoderSettings
        Name "timm:MODEL?key=value..."; weights "imagenet" or "hub" (those that timm or the hub has), "none" (random,
        seeded), or a file. With a file beside a config.json, a model of the hub needs no network.

    Raises
    ------
    ConfigError
        timm is missing, has no such model, or the model cannot be what is asked for.
    WeightsError
        The weights are not at hand or do not fit.
    """
    timm = _timm()
    name = TimmName.parse(settings.name)
    net = _network(timm, name, settings.weights)
    takes = _input_format(timm, net, name)
    encoder = as_encoder(net, name=settings.name, kind=settings.kind, takes=takes, stride_px=settings.stride_px)
    encoder.weights_digest = "random-" * (settings.weights == "none") + encoder.weights_digest
    return encoder


def of_timm(net: nn.Module) -> InputFormat | None:
    """Tell what a network takes that says so as those of timm do; None for others."""
    if not isinstance(getattr(net, "pretrained_cfg", None), Mapping):
        return None
    return _input_format(_timm(), net, TimmName(""))


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"encoders of timm need timm, which is not installed ({error})", remedy="pip install 'wsipipe[timm]'"
        ) from error
    module: ModuleType = timm
    return module


def _network(timm: ModuleType, name: TimmName, weights: str) -> nn.Module:
    if weights in _PRETRAINED:
        return _create(timm, name, pretrained=True)
    if weights == "none":
        net = _create(timm, name, pretrained=False)
        _set(net, random_weights(dict(net.named_parameters())))
        return net
    return _from_file(timm, name, Path(weights))


def _from_file(timm: ModuleType, name: TimmName, file: Path) -> nn.Module:
    """Network with the weights of a file: as they are if names and shapes fit, else as timm converts them."""
    tensors = read_tensors(file)
    name = _beside(name, file)
    net = _create(timm, name, pretrained=False)
    tensors = {key: value for key, value in without_prefixes(tensors).items() if not _is_head(key, net)}
    like = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    try:
        fitted = fit_weights(tensors, like, source=file)
    except WeightsError as error:
        return _converted(timm, name, tensors, error)
    _set(net, fitted)
    return net


def _beside(name: TimmName, file: Path) -> TimmName:
    """Take the configuration of a model of the hub from the folder of its weights, where it lies there."""
    if not (name.repository and (file.parent / "config.json").is_file()):
        return name
    return TimmName(f"{_FOLDER}{file.parent}", {**arguments_of(name.repository), **name.arguments})


def _converted(timm: ModuleType, name: TimmName, tensors: dict[str, Tensor], misfit: WeightsError) -> nn.Module:
    """Network whose weights come in another project's names or grid of positions, through timm's own converter."""
    overlay = {"state_dict": tensors, "source": "", "num_classes": 0}
    try:
        net = _create(timm, name, pretrained=True, pretrained_cfg_overlay=overlay)
    except ConfigError:
        raise misfit from None  # what does not fit in the file's own names says more than what timm made of them
    _config(net).pop("state_dict", None)
    return net


def _is_head(key: str, net: nn.Module) -> bool:
    names = _config(net).get("classifier") or ()
    heads = (names,) if isinstance(names, str) else names
    return key.rpartition(".")[0] in heads


def _config(net: nn.Module) -> dict[str, Any]:
    config: Any = net.pretrained_cfg
    return cast("dict[str, Any]", config)


def _set(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    net.load_state_dict(dict(tensors), strict=False)


def _create(timm: ModuleType, name: TimmName, *, pretrained: bool, **options: Any) -> nn.Module:  # noqa: ANN401
    """Call timm's own loader without a classifier; what it raises becomes one line."""
    from wsipipe.models.hub import HUB_ERRORS, hub_problem

    _check_known(timm, name.model)
    arguments = {**arguments_of(name.repository), **name.arguments}
    arguments = {key: _layer(timm, key, value) for key, value in arguments.items()}
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what timm says to programmers
            net: nn.Module = timm.create_model(name.model, pretrained=pretrained, num_classes=0, **arguments, **options)
    except FileNotFoundError as error:
        if name.model.startswith(_FOLDER):
            raise WeightsError(one_line(error), remedy="the folder holds a model's config.json and weights") from error
        raise hub_problem(error, name.model, _repository(timm, name)) from error
    except HUB_ERRORS as error:
        raise hub_problem(error, name.model, _repository(timm, name)) from error
    except _ARGUMENT_ERRORS as error:
        raise ConfigError(f"timm cannot build {name.model!r}: {one_line(error)}", remedy=_remedy(name)) from error
    return net


def _remedy(name: TimmName) -> str:
    if name.repository:
        return NOT_OF_TIMM
    return "see timm's documentation of the model" if name.arguments else "use --weights FILE, or --weights none"


def _repository(timm: ModuleType, name: TimmName) -> str:
    """Where the hub has a model's weights."""
    if name.repository:
        return name.repository
    config = timm.models.get_pretrained_cfg(name.model)
    return str(config.hf_hub_id or "") if config else ""


def _check_known(timm: ModuleType, model: str) -> None:
    """Refuse names that timm does not have, with those that are near."""
    if model.startswith((_HUB, _FOLDER)):
        return
    plain = model.partition(".")[0]
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), n=3)
        told = f"did you mean {', '.join(near)}?" if near else "python -c 'import timm; print(timm.list_models())'"
        hint = f"; models of the hub are timm:{_HUB}{model}" if "/" in model else ""
        raise ConfigError(f"timm {timm.__version__} has no model {model!r}", remedy=told + hint)


def _layer(timm: ModuleType, key: str, value: Any) -> Any:  # noqa: ANN401
    """Layers are given by name: those of timm.layers become the class, the rest is left to the model."""
    found = getattr(timm.layers, value, None) if key.endswith("_layer") and isinstance(value, str) else None
    return value if found is None else found


def _input_format(timm: ModuleType, net: nn.Module, name: TimmName) -> InputFormat:
    config = {**timm.data.resolve_model_data_config(net), **normalisation_of(name.repository)}
    size: Any = getattr(getattr(net, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    if size[0] != size[1]:
        raise ConfigError(f"{name.model} takes images of {size[1]} x {size[0]} px", remedy="use one for square images")
    return InputFormat(
        side_px=int(size[0]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        any_size=not _config(net).get("fixed_input_size", False),
    )


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
