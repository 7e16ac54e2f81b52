"""The two-phase energy of the contrast-based variational model, term by term, in float64: the referee of all solvers.

E(u, c1, c2) = sum g |grad u| + lambda sum [(z - c1)^2 u + (z - c2)^2 (1 - u)],   0 <= u <= 1

The paper prints eq. 6 with ((z - c1)^2 - (z - c2)^2) u as its second term. For fixed c1 and c2 the two differ by the
constant lambda sum (z - c2)^2, so they have the same minimisers u. But as a function of c2 the printed term,
-lambda sum (z - c2)^2 u, is concave: it has no minimum, and the closed form that the paper gives for c2 (the mean of z
under 1 - u) is no stationary point of it. The closed forms of section 4.3.2 are exactly the minimisers of E above,
hence alternating descends on E, and E is what is minimised and reported here.

Lengths come in two discretisations: `isotropic_length`, the usual forward differences, and `crofton_length`, eight
neighbours weighted after Cauchy-Crofton. Cells that are not valid count nowhere, and nor do pairs with one of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers.differences import (
    Neighbourhood,
    adjoint,
    crofton_weights,
    differences,
    pairs_exist,
)

Map = NDArray[np.floating]
Valid = NDArray[np.bool_]


def isotropic_length(u: Map, g: Map, valid: Valid | None = None) -> float:
    """First term of eq. 6, sum g |grad u|, with forward differences.

    Parameters
    ----------
    u, g : (rows, cols) float arrays
        Segmentation in [0, 1] and edge detector.
    valid : (rows, cols) bool array, optional
        Cells that count; all by default.
    """
    steps = np.where(pairs_exist(_all(u, valid), "isotropic"), differences(_double(u), "isotropic"), 0)
    return float(np.sum(_double(g) * np.sqrt(np.sum(steps**2, axis=0))))


def crofton_length(u: Map, g: Map, valid: Valid | None = None) -> float:
    """First term of eq. 6 with eight neighbours: sum over pairs of weight x mean g x |difference of u|.

    By the Cauchy-Crofton formula, for a binary u and g = 1 this is the length of the contour within 5.3%, whatever its
    direction (Boykov and Kolmogorov, ICCV 2003). Parameters as for `isotropic_length`.
    """
    weights = crofton_weights(_double(g), _all(u, valid))
    return float(np.sum(weights * np.abs(differences(_double(u), "crofton"))))


def length(u: Map, g: Map, *, neighbourhood: Neighbourhood, valid: Valid | None = None) -> float:
    """First term of eq. 6 in the neighbourhood named."""
    return (crofton_length if neighbourhood == "crofton" else isotropic_length)(u, g, valid)


def fitting(z: Map, u: Map, c1: float, c2: float, valid: Valid | None = None) -> float:
    """Second term, without lambda: sum (z - c1)^2 u + (z - c2)^2 (1 - u); see the module for the (1 - u)."""
    z64, u64 = _double(z), _double(u)
    return float(np.sum(((z64 - c1) ** 2 * u64 + (z64 - c2) ** 2 * (1 - u64))[_all(u, valid)]))


def energy(
    z: Map,
    u: Map,
    g: Map,
    *,
    c1: float,
    c2: float,
    lam: float,
    neighbourhood: Neighbourhood = "crofton",
    valid: Valid | None = None,
    extra: Map | None = None,
) -> float:
    """E(u, c1, c2), eq. 6 with (1 - u), and sum extra u where there is an extra force.

    Parameters
    ----------
    z, u, g : (rows, cols) float arrays
        Contrast map, segmentation in [0, 1], edge detector (`wsipipe.numerics.edges.edge_weights`).
    c1, c2 : float
        Mean of z inside and outside.
    lam : float
        Weight of the fitting term.
    neighbourhood : {"crofton", "isotropic"}
        How lengths are measured.
    valid : (rows, cols) bool array, optional
        Cells that count; all by default.
    extra : (rows, cols) float array, optional
        Further force; theta times a distance makes the model selective (`wsipipe.numerics.distances`).
    """
    added = 0.0 if extra is None else selective(u, extra, valid)
    return length(u, g, neighbourhood=neighbourhood, valid=valid) + lam * fitting(z, u, c1, c2, valid) + added


def selective(u: Map, extra: Map, valid: Valid | None = None) -> float:
    """Compute the selective term of section 3, sum extra u; extra is theta times a distance to the in-target points."""
    return float(np.sum((_double(extra) * _double(u))[_all(u, valid)]))


def region_means(z: Map, u: Map, valid: Valid | None = None) -> tuple[float, float]:
    """Compute c1 and c2 in closed form (section 4.3.2): means of z under u and 1 - u; NaN where there is no weight."""
    inside = np.where(_all(u, valid), _double(u), 0)
    outside = np.where(_all(u, valid), 1 - _double(u), 0)
    return _mean(_double(z), inside), _mean(_double(z), outside)


def force(
    z: Map, *, c1: float, c2: float, lam: float, valid: Valid | None = None, extra: Map | None = None
) -> NDArray[np.float64]:
    """Differentiate all terms but the length by u: lambda ((z - c1)^2 - (z - c2)^2) + extra; 0 where nothing counts."""
    slope = lam * ((_double(z) - c1) ** 2 - (_double(z) - c2) ** 2)
    if extra is not None:
        slope = slope + _double(extra)
    return np.where(_all(z, valid), slope, 0)


def primal_value(u: Map, g: Map, f: Map, *, neighbourhood: Neighbourhood, valid: Valid | None = None) -> float:
    """Length plus sum f u: E for fixed c1 and c2, less the constant lambda sum (z - c2)^2."""
    return length(u, g, neighbourhood=neighbourhood, valid=valid) + float(np.sum(_double(f) * _double(u)))


def dual_value(p: Map, f: Map, *, neighbourhood: Neighbourhood) -> float:
    """Lower bound sum min(0, f - div p) of `primal_value` over all u, for any feasible p.

    Parameters
    ----------
    p : (k, rows, cols) float array
        Dual variable, |p| <= g per cell (isotropic) or |p| <= weight per pair (Crofton); see `feasible`.
    f : (rows, cols) float array
        Force.
    neighbourhood : {"crofton", "isotropic"}
        That of p.
    """
    return float(np.sum(np.minimum(0, _double(f) + adjoint(_double(p), neighbourhood))))


def feasible(p: Map, g: Map, *, neighbourhood: Neighbourhood, valid: Valid | None = None) -> NDArray[np.float64]:
    """Nearest dual variable to p that bounds the energy from below, (k, rows, cols)."""
    p64, g64 = _double(p), _double(g)
    if neighbourhood == "crofton":
        weights = crofton_weights(g64, _all(g, valid))
        return np.clip(p64, -weights, weights)
    p64 = np.where(pairs_exist(_all(g, valid), "isotropic"), p64, 0)
    norm = np.sqrt(np.sum(p64**2, axis=0))
    shrunk: NDArray[np.float64] = p64 * np.minimum(1, g64 / np.maximum(norm, np.finfo(np.float64).tiny))
    return shrunk


def relative_gap(primal: float, dual: float, f: Map) -> float:
    """Duality gap (primal - dual) / sum |f|: u is within this share of sum |f| of the global optimum.

    The optimal energy itself is no yardstick: it goes to 0 on maps that are nearly empty.
    """
    scale = float(np.sum(np.abs(_double(f))))
    return (primal - dual) / scale if scale > 0 else 0.0


def _all(like: Map, valid: Valid | None) -> Valid:
    return np.ones(like.shape, np.bool_) if valid is None else valid


def _double(values: Map) -> NDArray[np.float64]:
    return values.astype(np.float64, copy=False)


def _mean(z: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    mass = float(np.sum(weight))
    return float(np.sum(weight * np.where(weight > 0, z, 0))) / mass if mass > 0 else float("nan")
