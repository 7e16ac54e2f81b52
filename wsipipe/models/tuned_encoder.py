"""An encoder that is trained along with the segmentation network, and the same one from a checkpoint."""

from __future__ import annotations

from torch import Tensor, nn

from wsipipe.config import EncoderSettings
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.models.encoders import Encoder, Foldable, build_encoder
from wsipipe.models.segmentation import ENCODER_PREFIX, SavedModel
from wsipipe.models.weights import weights_digest


def trainable_encoder(settings: EncoderSettings, *, device: str) -> tuple[Encoder, tuple[nn.Module, ...]]:
    """Build the encoder that the settings ask for, and pick the parts to tune; only these ask for gradients.

    The encoder is in evaluation mode: dropout stays off. Batch norms are there as such, not folded into convolutions:
    a network without them loses its scale after a few steps, see `wsipipe.models.norms` for what they do in training.

    Raises
    ------
    ConfigError
        The encoder has no weights to tune, fewer stages than are to be tuned, or sees dense maps in windows.
    WeightsError
        Its weights are not at hand or do not fit.
    """
    encoder = build_encoder(settings.model_copy(update={"backend": "torch", "trainable": True}), device=device)
    if encoder.window_px:
        raise ConfigError(
            f"encoder {settings.name!r} makes dense maps in windows, which cannot be tuned", remedy="use --kind patch"
        )
    module = as_module(encoder).eval().requires_grad_(requires_grad=False)
    stages = _stages(module)
    wanted = settings.tuned_stages or len(stages)
    if wanted > len(stages):
        raise ConfigError(
            f"encoder.tuned_stages is {wanted}, {settings.name} has {len(stages)} stages", remedy="use fewer"
        )
    chosen = [module] if settings.tuned_stages is None else stages[-wanted:]
    return encoder, tuple(stage.requires_grad_() for stage in chosen)


def as_module(encoder: Encoder) -> nn.Module:
    """Give the encoder as what it is beside: a module with weights.

    Raises
    ------
    ConfigError
        It is none.
    """
    if isinstance(encoder, nn.Module) and any(True for _ in encoder.parameters()):
        return encoder
    raise ConfigError(f"encoder {encoder.name!r} has no weights to tune", remedy="use --encoder resnet34")


def _stages(module: nn.Module) -> list[nn.Module]:
    """Parts with weights of the outermost module that has several, in their order."""
    parts = [part for part in module.children() if any(True for _ in part.parameters())]
    return _stages(parts[0]) if len(parts) == 1 else parts or [module]


def encoder_digest(encoder: Encoder) -> str:
    """Name the weights that an encoder has now."""
    return "tuned-" + weights_digest(as_module(encoder).state_dict())


def encoder_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Weights of an encoder as a checkpoint holds them, beside those of the network."""
    return {ENCODER_PREFIX + name: value for name, value in as_module(encoder).state_dict().items()}


def restore_encoder(checkpoint: SavedModel, *, device: str) -> Encoder | None:
    """Build the encoder that a checkpoint holds, with the digest of its weights; None where it was not tuned.

    Batch norms, whose statistics are in the checkpoint, are folded away where the encoder can do without.

    Raises
    ------
    CheckpointError
        Tensors are missing, left over or of another shape.
    """
    tensors = {
        name.removeprefix(ENCODER_PREFIX): value
        for name, value in checkpoint.tensors.items()
        if name.startswith(ENCODER_PREFIX)
    }
    if not tensors:
        return None
    # Every weight comes from the checkpoint: those that the tuning began with need not be at hand any more.
    encoder = build_encoder(checkpoint.recipe.encoder.model_copy(update={"weights": "none"}), device=device)
    try:
        as_module(encoder).load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"its tuned weights do not fit the encoder {encoder.name}: {' '.join(str(error).split())}",
            remedy="the file is damaged or of another version; train again",
        ) from error
    encoder.weights_digest = encoder_digest(encoder)
    if isinstance(encoder, Foldable):
        encoder.fold()
    return encoder
