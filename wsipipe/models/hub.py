"""What can go wrong with a model hub, told in one line with the way out."""

from __future__ import annotations

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from wsipipe.errors import WeightsError
from wsipipe.models.published import NOT_OF_TIMM
from wsipipe.models.weights import one_line

# Of these kinds is everything that a hub, a mirror or a connection says; OSError holds those of sockets and urllib.
HUB_ERRORS = (EntryNotFoundError, HfHubHTTPError, OSError)
_TOKEN = "with a token: `hf auth login`, or HF_TOKEN=..."


def hub_problem(error: BaseException, model: str, repository: str) -> WeightsError:
    """Say what the hub's refusal of a model means.

    Parameters
    ----------
    error : exception
        One of `HUB_ERRORS`.
    model : str
        As the user named it.
    repository : str
        Where the hub has it, "owner/name[@revision]"; empty where it has not.

    Returns
    -------
    WeightsError
        To be raised from `error`.
    """
    page = f"https://huggingface.co/{repository.partition('@')[0]}"
    by_hand = f"without a network: {_files_of(model, page)}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return WeightsError(
            f"the hub gives {model} only to those who have agreed to its licence",
            remedy=f"agree on {page} and run again {_TOKEN}; {by_hand}",
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError) or status == 401:
        return WeightsError(
            f"the hub has no {model}, or does not show it to you",
            remedy=f"check the name; if the model is private or gated, ask for access on {page} and run again {_TOKEN}",
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return WeightsError(f"the hub's {model} lacks a file that timm needs: {one_line(error)}", remedy=NOT_OF_TIMM)
    return WeightsError(f"{model} is not on this machine and cannot be downloaded ({one_line(error)})", remedy=by_hand)


def _files_of(model: str, page: str) -> str:
    if model.startswith("hf-hub:"):
        return f"put config.json and model.safetensors of {page} into one folder, --weights FOLDER/model.safetensors"
    return f"get model.safetensors of {page} elsewhere, --weights FILE"
