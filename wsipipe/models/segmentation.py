"""The segmentation model: standardised input and the U-Net; building it again from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from wsipipe.config import NetworkSettings, Recipe
from wsipipe.errors import CheckpointError
from wsipipe.models.pooled_prior import PooledPrior, prior_of
from wsipipe.models.unet import UNet

# Tensors of a checkpoint that begin so are those of a tuned encoder.
ENCODER_PREFIX = "encoder."
# Rows of a window whose channels are all in use at once, without gradients.
_ROWS = 32


class SavedModel(Protocol):
    """What a checkpoint offers; `store.checkpoint.Checkpoint` does."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Weights by name."""
        ...

    @property
    def recipe(self) -> Recipe:
        """Settings the model was trained with."""
        ...

    @property
    def provenance(self) -> Mapping[str, object]:
        """Where it comes from: at least `in_channels` and the facts of `FeatureFacts`."""
        ...


class FeatureFacts(Protocol):
    """What must agree between training and prediction; `store.feature_map.FeatureMapInfo` has it."""

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        ...

    @property
    def weights_digest(self) -> str:
        """Hash of the encoder's weights."""
        ...

    @property
    def kind(self) -> str:
        """Either "patch" or "dense"."""
        ...

    @property
    def mpp(self) -> float | None:
        """Resolution of the encoder's input, um per px."""
        ...

    @property
    def stain(self) -> str | None:
        """Stain normalisation of the encoder's input; None for none."""
        ...

    @property
    def stride_px(self) -> int:
        """Step between cells in target px."""
        ...

    @property
    def dim(self) -> int:
        """Channels of the map."""
        ...


class SegmentationModel(nn.Module):
    """Standardise the input with the training set's mean and deviation, then segment it.

    Parameters
    ----------
    in_channels : int
        Channels of the feature map, or 3 for RGB in [0, 1].
    settings : NetworkSettings
        Of the U-Net.
    empty_cells : bool
        Whether all-zero vectors are cells that were never computed (glass on a feature map); they are set to the
        mean, so that the network sees nothing there. In an image a black pixel is a pixel.
    logits : int
        1, of being in target; or one for each of several classes, to be taken through a softmax.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int, settings: NetworkSettings, *, empty_cells: bool, logits: int = 1) -> None:
        super().__init__()
        self.empty_cells = empty_cells
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("std", torch.ones(in_channels))
        self.unet = UNet(in_channels, settings, logits=logits)
        self.prior: PooledPrior | None = None

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and deviation (c,) of the valid cells of the training set; constant channels are only centred."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Segment; in evaluation mode, the network's logits are joined by those of a `prior`.

        Parameters
        ----------
        x : (n, c, h, w) float tensor
            Features or RGB in [0, 1], not standardised; any h and w.

        Returns
        -------
        logits : (n, 1, h, w) tensor
            Logits of being in target; (n, K, h, w) of K classes.
        features : (n, width, h, w) tensor
            Last decoder feature map.
        """
        logits, features = self.decode(self.encode(x), x.shape[-2:])
        if self.prior is not None and not self.training:
            logits = self.prior.join(logits, x)
        return logits, features

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights, and the prior where there is one.

        Raises
        ------
        RuntimeError
            Tensors are missing, left over or of another shape.
        """
        prior = prior_of(tensors, "prior.")
        self.prior = None if prior is None else prior.to(self.mean.device)
        self.load_state_dict(dict(tensors))

    def standardised(self, x: Tensor) -> Tensor:
        """Input (n, c, h, w) in deviations from the mean of the training set; 0 on cells without content."""
        # In place: a window of a map of 256 channels takes 67 MB, and so would each step.
        standard = (x - self.mean[:, None, None]).div_(self.std[:, None, None])
        return standard.mul_((x != 0).any(dim=1, keepdim=True)) if self.empty_cells else standard

    def encode(self, x: Tensor) -> list[Tensor]:
        """Encode x (n, c, h, w): maps for `decode`, and for a second decoder (`UNet.new_branch`), finest first."""
        if torch.is_grad_enabled():
            return self.unet.encode(self.standardised(x))
        # By rows: what is computed of all channels of a window would take several times the window.
        narrow = [self.unet.narrow(self.standardised(rows)) for rows in torch.split(x, _ROWS, dim=2)]
        return self.unet.encode_narrow(torch.cat(narrow, dim=2))

    def decode(self, stages: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Segment what `encode` gave of an input of this size (h, w); see `forward`."""
        return self.unet.decode(stages, size)


def build_model(in_channels: int, recipe: Recipe) -> SegmentationModel:
    """Untrained model of a recipe; weights come from torch's random numbers."""
    plain = recipe.encoder.uses_images
    return SegmentationModel(in_channels, recipe.network, empty_cells=not plain, logits=recipe.training.logits)


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities from logits: (n, 1, h, w) of being in target, or (n, K, h, w) of each of K classes."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)


def restore_model(checkpoint: SavedModel, *, device: str) -> SegmentationModel:
    """Build the trained model of a checkpoint, ready to predict.

    Parameters
    ----------
    checkpoint : SavedModel
        As `store.checkpoint.load_checkpoint` gives it.
    device : str
        Where the model goes ("cpu", "cuda", "cuda:1").

    Raises
    ------
    CheckpointError
        The provenance names no channels, or tensors are missing, left over or of another shape.
    """
    channels = checkpoint.provenance.get("in_channels")
    if not isinstance(channels, int) or channels < 1:
        raise CheckpointError(
            f"says in_channels = {channels!r}, a segmentation model needs a positive whole number",
            remedy="use a checkpoint written by wsipipe train",
        )
    model = build_model(channels, checkpoint.recipe)
    try:
        model.load({name: value for name, value in checkpoint.tensors.items() if not name.startswith(ENCODER_PREFIX)})
    except RuntimeError as error:
        raise CheckpointError(
            f"weights do not fit the network of their recipe: {' '.join(str(error).split())}",
            remedy="the file is damaged or of another version; train again",
        ) from error
    return model.to(device).eval()


def check_fits(checkpoint: SavedModel, info: FeatureFacts) -> None:
    """See that a feature map is of the kind the model was trained on.

    Parameters
    ----------
    checkpoint : SavedModel
        The trained model.
    info : FeatureFacts
        Facts of the map (`FeatureMapInfo`).

    Raises
    ------
    CheckpointError
        Encoder, weights, kind, resolution, stride, channels or stain differ; both values are named.
    """
    trained = checkpoint.provenance
    for fact, key in _FACTS:
        here, there = getattr(info, fact), trained.get(key)
        if not _same(here, there):
            raise CheckpointError(
                f"was trained on features with {_told(fact, there)}, these have {_told(fact, here)}",
                remedy="extract the features again with the model's recipe, or train on these",
            )


_FACTS = (
    ("encoder", "encoder"),
    ("kind", "kind"),
    ("dim", "in_channels"),
    ("mpp", "mpp"),
    ("stride_px", "stride_px"),
    ("weights_digest", "weights_digest"),
    ("stain", "stain"),
)


def _same(here: object, there: object) -> bool:
    if isinstance(here, float) and isinstance(there, int | float):
        return math.isclose(here, there, rel_tol=1e-6)
    return here == there


def _told(fact: str, value: object) -> str:
    unit = {"mpp": " um/px", "stride_px": " px", "dim": " channels"}.get(fact, "")
    return f"{fact.removesuffix('_px')} {value}{unit if value is not None else ''}"
