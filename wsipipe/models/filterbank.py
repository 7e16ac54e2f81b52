"""A dense encoder without weights: stains, texture and surroundings of every cell, from fixed filters.

For slides with a few points and no network: each number can be named, nothing is downloaded, and the maps of tiles
with their halo equal those of one undivided pass.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsipipe.errors import ConfigError, NumericsError

# Optical densities of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
# Share of a cell that is glass, not pale, dark, haematoxylin: (channel of H, E, L; threshold; softness, < 0: below it).
FRACTIONS = ((2, 0.12, -0.03), (2, 0.45, 0.06), (2, 0.75, 0.08), (0, 0.5, 0.08))
NUCLEI = 3  # index of haematoxylin in FRACTIONS
TEXTURED = (0, 2)  # channels whose texture is measured: H and L
SCALES = (1, 2, 4)  # standard deviations of the Gaussians, in cells
TRUNCATE = 3  # Gaussians reach this many standard deviations
RING = 3  # radius of the ring round a cell, in standard deviations
DIRECTIONS = 8
RAYS = (8, 16, 32)  # how far a cell looks for nuclei in every direction, in cells
RAY_STEP = 2
FLOOR = 1e-4  # added to variances, so that rounding does not show in their roots
VERSION = 1


class FilterBank(nn.Module):
    """Fixed filters as a dense encoder; see `wsipipe.models.encoders.Encoder`.

    Every cell of `stride_px` squared px is described by its mean haematoxylin, eosin and luminance (in optical
    density), their spread and gradient, and the share of glass, tissue, dark and haematoxylin pixels. These are then
    smoothed with Gaussians of 1, 2 and 4 cells; at each scale come local spread, edge strength, the two Hessian
    curvatures, and least, greatest and least opposed value on the ring round the cell. Last, how far a cell is enclosed
    by nuclei: the greatest density of nuclei along each of eight rays, its minimum and median over the rays.

    Parameters
    ----------
    stride_px : int
        Side of a cell in target px, 2 to 64. Filters are measured in cells: 4 px at 1 um per px suit cells and glands.

    Raises
    ------
    ConfigError
        A stride outside 2 to 64.
    """

    name = "filterbank"
    kind = "dense"
    window_px = 0

    def __init__(self, stride_px: int = 4) -> None:
        super().__init__()
        if not 2 <= stride_px <= 64:
            raise ConfigError(f"the filter bank has strides of 2 to 64 px, got {stride_px}", remedy="use --stride 4")
        self.stride_px = stride_px
        self.halo_px = stride_px * reach_cells()
        self.dim = len(feature_names())
        self.weights_digest = _digest()

    @torch.inference_mode()
    def encode(self, batch: Tensor) -> Tensor:
        """Features of images, (n, h, w, 3) uint8 -> (n, dim, h / stride, w / stride) float32, on the batch's device.

        Raises
        ------
        NumericsError
            The batch is not (n, h, w, 3) uint8, or its sides are no multiples of the stride.
        """
        self._check(batch)
        return torch.cat([self._encode_one(batch[index : index + 1]) for index in range(len(batch))])

    def forward(self, batch: Tensor) -> Tensor:
        """Encode, for those who call the module."""
        return self.encode(batch)

    def _encode_one(self, image: Tensor) -> Tensor:
        cells, squares = _cell_statistics(_densities(image), self.stride_px)
        parts = [part for scale in SCALES for part in _at_scale(cells, squares, scale)]
        nuclei = cells[:, -len(FRACTIONS) + NUCLEI :][:, :1]
        return torch.cat([*parts, _enclosure(_smooth(nuclei, 1))], dim=1)

    def _check(self, batch: Tensor) -> None:
        if batch.ndim != 4 or batch.shape[3] != 3 or batch.dtype != torch.uint8:
            raise NumericsError(f"a batch is (n, h, w, 3) uint8, got {tuple(batch.shape)} {batch.dtype}")
        height, width = batch.shape[1:3]
        if height % self.stride_px or width % self.stride_px or not (height and width):
            raise NumericsError(f"image sides are multiples of the stride {self.stride_px}, got {height} x {width} px")


def feature_names() -> tuple[str, ...]:
    """Names of the features in their order, such as "ring max L, scale 2"."""
    textured = ["HEL"[channel] for channel in TEXTURED]
    smooth = [f"mean {c}" for c in "HEL"] + [f"{kind} {c}" for kind in ("spread", "gradient") for c in textured]
    smooth += [f"share {kind}" for kind in ("glass", "tissue", "dark", "nuclei")]
    local = ("spread around", "edge", "curvature max", "curvature min", "ring min", "ring max", "ring opposed")
    scaled = smooth + [f"{kind} {c}" for kind in local for c in textured]
    return tuple(f"{name}, scale {scale}" for scale in SCALES for name in scaled) + tuple(
        f"nuclei {kind}, within {ray}" for ray in RAYS for kind in ("all round", "half round")
    )


def reach_cells() -> int:
    """How many cells away pixels can change a cell: one for gradients, a Gaussian, and the longest way on from it."""
    ringed = max(SCALES) * (TRUNCATE + max(RING, 2))
    return 1 + max(ringed, TRUNCATE + max(RAYS))


def _digest() -> str:
    definition = (VERSION, STAINS, FRACTIONS, TEXTURED, SCALES, TRUNCATE, RING, DIRECTIONS, RAYS, RAY_STEP, FLOOR)
    return hashlib.sha256(repr(definition).encode()).hexdigest()[:16]


def _densities(image: Tensor) -> Tensor:
    """Haematoxylin, eosin and mean optical density: (n, h, w, 3) uint8 -> (n, 3, h, w)."""
    density = -torch.log((image.movedim(3, 1).float() + 1) / 256)
    stains = torch.tensor(STAINS, dtype=torch.float64)
    unmix = torch.linalg.inv(stains / stains.norm(dim=1, keepdim=True))
    unmix[:, 2] = 1 / 3
    return torch.einsum("nchw,cd->ndhw", density, unmix.to(density))


def _cell_statistics(pixels: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Statistics of the pixels of each cell, (n, 11, rows, cols); and mean squares of the textured channels."""
    textured = pixels[:, TEXTURED]
    mean = functional.avg_pool2d(pixels, stride)
    squares = functional.avg_pool2d(textured.square(), stride)
    dy, dx = _gradient(textured)
    gradient = functional.avg_pool2d((dy.square_() + dx.square_()).sqrt_(), stride)
    shares = [functional.avg_pool2d(_share(pixels, *rule), stride) for rule in FRACTIONS]
    spread = _spread(squares, mean[:, TEXTURED])
    return torch.cat([mean, spread, gradient, *shares], dim=1), squares


def _share(pixels: Tensor, channel: int, threshold: float, softness: float) -> Tensor:
    return pixels[:, channel : channel + 1].sub(threshold).div_(softness).sigmoid_()


def _spread(squares: Tensor, mean: Tensor) -> Tensor:
    """Take the standard deviation from mean squares and means."""
    variance = (squares - mean.square()).clamp_min_(0)
    return (variance + FLOOR).sqrt_() - math.sqrt(FLOOR)


def _at_scale(cells: Tensor, squares: Tensor, scale: int) -> list[Tensor]:
    smooth = _smooth(cells, scale)
    base = smooth[:, TEXTURED]
    mean_squares = _smooth(cells[:, TEXTURED].square(), scale)
    return [smooth, _spread(mean_squares, base), *_curvature(base, scale), *_ring(base, RING * scale)]


def _curvature(base: Tensor, scale: int) -> list[Tensor]:
    """Edge strength and the two eigenvalues of the Hessian, normalised for scale."""
    dy, dx = _gradient(base)
    dyy, dyx = _gradient(dy)
    dxx = _gradient(dx)[1]
    trace, spread = (dxx + dyy) / 2, torch.hypot((dxx - dyy) / 2, dyx)
    return [scale * torch.hypot(dy, dx), scale**2 * (trace + spread), scale**2 * (trace - spread)]


def _ring(base: Tensor, radius: int) -> list[Tensor]:
    """Least and greatest value on a ring, and least over its diameters of the greater end."""
    around = torch.stack(list(_shifted(base, radius)))
    half = DIRECTIONS // 2
    opposed = torch.maximum(around[:half], around[half:]).amin(0)
    return [around.amin(0), around.amax(0), opposed]


def _enclosure(nuclei: Tensor) -> Tensor:
    """Greatest density of nuclei along each ray; minimum and median over the rays, for each length of ray."""
    best = torch.zeros_like(nuclei).repeat(DIRECTIONS, 1, 1, 1)[:, None]
    out = []
    for distance in range(RAY_STEP, max(RAYS) + 1, RAY_STEP):
        best = torch.maximum(best, torch.stack(list(_shifted(nuclei, distance))))
        if distance in RAYS:
            out += [best.amin(0), best.median(0).values]
    return torch.cat(out, dim=1)


def _shifted(maps: Tensor, radius: int) -> list[Tensor]:
    """See the maps `radius` cells away in each direction; past the border, its cells go on."""
    rows, cols = maps.shape[2:]
    padded = _extended(maps, radius, radius)
    angles = (2 * math.pi * step / DIRECTIONS for step in range(DIRECTIONS))
    offsets = [(radius + round(radius * math.sin(a)), radius + round(radius * math.cos(a))) for a in angles]
    return [padded[:, :, y : y + rows, x : x + cols] for y, x in offsets]


def _smooth(maps: Tensor, scale: float) -> Tensor:
    """Gaussian of `scale` cells, separable."""
    reach = round(TRUNCATE * scale)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=maps.device)
    kernel = torch.exp(-offsets.square() / (2 * scale**2))
    kernel /= kernel.sum()
    alone = maps.flatten(0, 1)[:, None]
    alone = functional.conv2d(_extended(alone, reach, 0), kernel.view(1, 1, -1, 1))
    alone = functional.conv2d(_extended(alone, 0, reach), kernel.view(1, 1, 1, -1))
    return alone.view(maps.shape)


def _gradient(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along rows and columns."""
    padded = _extended(maps, 1, 1)
    dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return dy.div_(2), dx.div_(2)


def _extended(maps: Tensor, rows: int, cols: int) -> Tensor:
    return functional.pad(maps, (cols, cols, rows, rows), mode="replicate")
