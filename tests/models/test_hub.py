"""What the hub refuses is told in one line with the way out; its own exceptions stand in for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import errors
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from wsipipe.config import EncoderSettings
from wsipipe.errors import WeightsError
from wsipipe.models.timm_models import build_timm


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """An error of the hub as it comes with a response; the HTTP library is the one the hub uses."""
    http = __import__(errors.Response.__module__.partition(".")[0])  # type: ignore[attr-defined]
    response = http.Response(status, request=http.Request("GET", "https://huggingface.co/x"))
    return kind(f"{status} Client Error.\n\nCannot access.", response=response)


def raising(error: Exception) -> Callable[..., Any]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    return refuse


CASES = [
    (answer(errors.GatedRepoError, 403), r"agreed to its licence.*on https://huggingface\.co/A/B .*hf auth login"),
    (answer(errors.HfHubHTTPError, 403), r"only to those who have agreed"),
    (answer(errors.RepositoryNotFoundError, 401), r"the hub has no hf-hub:A/B@v1, or does not show it.*HF_TOKEN"),
    (answer(errors.RevisionNotFoundError, 404), r"the hub has no hf-hub:A/B@v1"),
    (answer(errors.HfHubHTTPError, 401), r"the hub has no hf-hub:A/B@v1, or does not show it"),
    (answer(errors.RemoteEntryNotFoundError, 404), r"lacks a file that timm needs.*--encoder python:"),
    (answer(errors.HfHubHTTPError, 503), r"cannot be downloaded \(503 .*put config\.json and model\.safetensors of"),
    (LocalEntryNotFoundError("no connection"), r"not on this machine and cannot be downloaded.*--weights FOLDER/model"),
    (OfflineModeIsEnabled("HF_HUB_OFFLINE=1"), r"not on this machine.*without a network: put config\.json"),
    (ConnectionError("no route"), r"not on this machine and cannot be downloaded \(no route\)"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "told"), CASES, ids=[type(error).__name__ for error, _ in CASES])
def test_refusals_are_told(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._hub.hf_hub_download", raising(error))
    with pytest.raises(WeightsError, match=told) as caught:
        build_timm(EncoderSettings(name="timm:hf-hub:A/B@v1", weights="hub"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", ["hub", "imagenet"])
def test_weights_of_timms_own_models_name_their_file(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._hub.hf_hub_download", raising(LocalEntryNotFoundError("no connection")))
    told = r"get model\.safetensors of https://huggingface\.co/timm/test_vit\.r160_in1k elsewhere, --weights FILE"
    with pytest.raises(WeightsError, match=told):
        build_timm(EncoderSettings(name="timm:test_vit", weights=weights))


def test_a_model_of_another_library_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The configuration of a network of the library transformers, as Phikon has it."""
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["ViTModel"], "hidden_size": 768}')
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *args, **kwargs: str(config))
    with pytest.raises(Exception, match=r"cannot build 'hf-hub:owkin/phikon'.*python:module\.function"):
        build_timm(EncoderSettings(name="timm:hf-hub:owkin/phikon", weights="hub"))
