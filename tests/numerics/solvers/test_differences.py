from __future__ import annotations

import numpy as np
import pytest

from wsipipe.numerics.solvers.differences import OFFSETS, adjoint, differences, pairs_exist
from wsipipe.numerics.solvers.reference import STEPS


@pytest.mark.parametrize("kind", list(OFFSETS))
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 8)])
def test_adjoint_is_the_transpose(kind, shape):
    rng = np.random.default_rng(0)
    u, p = rng.normal(size=shape), rng.normal(size=(len(OFFSETS[kind]), *shape))
    assert np.sum(differences(u, kind) * p) == pytest.approx(np.sum(u * adjoint(p, kind)), abs=1e-12)


@pytest.mark.parametrize("kind", list(OFFSETS))
def test_each_pair_is_met_once(kind):
    exist = pairs_exist(np.ones((4, 5), bool), kind)
    expected = 4 * 4 + 3 * 5 + (2 * 3 * 4 if kind == "crofton" else 0)
    assert exist.sum() == expected


@pytest.mark.parametrize("kind", list(OFFSETS))
def test_steps_keep_the_iteration_stable(kind):
    """Tau sigma |grad|^2 <= 1, with the norm of grad from power iteration on a map large enough to show it."""
    u = np.random.default_rng(0).normal(size=(40, 40))
    for _ in range(300):
        u = adjoint(differences(u, kind), kind)
        norm = np.linalg.norm(u)
        u /= norm
    tau, sigma = STEPS[kind]
    assert 0.95 < tau * sigma * norm <= 1.0
