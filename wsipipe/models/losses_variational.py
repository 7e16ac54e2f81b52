"""The energy of eq. 1 as a loss: edge-weighted length and two-phase fitting (Bresson et al., JMIV 2007)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# |grad u| as sqrt(|grad u|^2 + SMOOTH^2) - SMOOTH, which can be differentiated where u is flat.
SMOOTH = 1e-3


def variational_energy(
    probability: Tensor, image: Tensor, valid: Tensor, *, lam: float | None, lam_rel: float, beta: float
) -> Tensor:
    """Energy of eq. 1 per cell, u being the network's output and f an image, averaged over a batch.

        sum g(|grad f|) |grad u| + lambda sum [(f - c1)^2 u + (f - c2)^2 (1 - u)]

    With (1 - u), as everywhere here (see `wsipipe.numerics.energy`); for given means the gradient by u is that of the
    printed form. Squares of an image of several channels are means over them (Chan, Sandberg and Vese, JVCIR 2000).

    Parameters
    ----------
    probability : (n, h, w) float tensor
        u in [0, 1].
    image : (n, c, h, w) float tensor
        f; no gradient goes into it.
    valid : (n, h, w) bool tensor
        Cells that count; pairs with others have no length.
    lam : float or None
        lambda; None: lam_rel / variance of f in each image. (c1 - c2)^2 as the scale, as the solvers have it, would
        make the loss boundless where an untrained network gives both regions the same mean.
    lam_rel : float
        See `lam`.
    beta : float
        Of the edge detector.

    Returns
    -------
    scalar tensor
        Mean over the images with valid cells of energy / number of valid cells; zero where there are none.
    """
    # Mixed precision would take the means in half precision.
    with torch.autocast(probability.device.type, enabled=False):
        u = probability.to(torch.promote_types(probability.dtype, torch.float32))
        f, count = image.detach().to(u.dtype), valid.sum(dim=(1, 2))
        length = edge_detector(f, valid, beta=beta) * slope(u, valid)
        inside, outside = region_distances(u.detach(), f, valid)
        weight = lam_rel / _variance(f, valid)[:, None, None] if lam is None else lam
        fitting = weight * (inside * u + outside * (1.0 - u))
        energy = torch.where(valid, length + fitting, 0.0).sum(dim=(1, 2)) / count.clamp(min=1)
        return energy.sum() / (count > 0).sum().clamp(min=1)


def slope(u: Tensor, valid: Tensor) -> Tensor:
    """|grad u| (n, h, w) by forward differences between valid cells, smoothed at 0."""
    down = F.pad(torch.where(valid[:, 1:] & valid[:, :-1], u.diff(dim=1), 0.0), (0, 0, 0, 1))
    right = F.pad(torch.where(valid[:, :, 1:] & valid[:, :, :-1], u.diff(dim=2), 0.0), (0, 1))
    return torch.sqrt(down**2 + right**2 + SMOOTH**2) - SMOOTH


def edge_detector(image: Tensor, valid: Tensor, *, beta: float) -> Tensor:
    """Edge weights g = 1 / (1 + beta |grad f|^2), (n, h, w), squares averaged over channels; see `numerics.edges`."""
    squared = sum(_central(image, valid, dim) ** 2 for dim in (2, 3))
    g: Tensor = 1.0 / (1.0 + beta * torch.as_tensor(squared).mean(dim=1))
    return torch.where(valid, g, 1.0)


def region_means(u: Tensor, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """c1 and c2 (n, c): means of the image under u and under 1 - u."""
    weights = torch.where(valid, u, 0.0), torch.where(valid, 1.0 - u, 0.0)
    c1, c2 = (
        torch.einsum("nhw,nchw->nc", weight, image) / weight.sum(dim=(1, 2)).clamp(min=1e-6)[:, None]
        for weight in weights
    )
    return c1, c2


def region_distances(u: Tensor, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """(f - c1)^2 and (f - c2)^2 (n, h, w), means over channels."""
    c1, c2 = ((image - c[:, :, None, None]).square().mean(dim=1) for c in region_means(u, image, valid))
    return c1, c2


def _variance(image: Tensor, valid: Tensor) -> Tensor:
    """Mean over channels of the variance over valid cells (n,); never 0, so that a constant image counts nothing."""
    everywhere = torch.ones_like(image[:, 0])
    mean, _ = region_means(everywhere, image, valid)
    squares = torch.where(valid, (image - mean[:, :, None, None]).square().mean(dim=1), 0.0).sum(dim=(1, 2))
    return (squares / valid.sum(dim=(1, 2)).clamp(min=1)).clamp(min=1e-8)


def _central(image: Tensor, valid: Tensor, dim: int) -> Tensor:
    """Central difference along an axis; a neighbour that is missing or not valid takes the cell's own value."""
    half: Tensor = 0.5 * (_neighbour(image, valid, dim, 1) - _neighbour(image, valid, dim, -1))
    return half


def _neighbour(image: Tensor, valid: Tensor, dim: int, step: int) -> Tensor:
    last = image.shape[dim] - 1
    index = (torch.arange(last + 1, device=image.device) + step).clamp(0, last)
    there = valid[:, None].index_select(dim, index)
    return torch.where(there, image.index_select(dim, index), image)
