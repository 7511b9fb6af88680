"""The way onto a hyperplane, by linear and quadratic programmes."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from robust_jax.attacks import ThreatModel
from robust_jax.attacks.linearised import project_on_hyperplane


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_on_a_hyperplane_is_the_shortest(norm):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(12, 6))
    normal = rng.normal(size=(12, 6)) * (rng.uniform(size=(12, 6)) > 0.2)
    offset = np.sum(normal * rng.uniform(size=(12, 6)), axis=1)
    steps = project_on_hyperplane(
        ThreatModel(norm, 0.1), *(jnp.asarray(a, jnp.float32) for a in (points, normal, offset))
    )
    moved = np.asarray(points + steps)
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6
    np.testing.assert_allclose(np.sum(normal * moved, axis=1), offset, atol=1e-5)
    for row in range(12):
        if norm == "linf":
            # Smallest t with |d| <= t, d in the box, normal . d = gap: a linear programme.
            gap = offset[row] - normal[row] @ points[row]
            within = np.concatenate([np.eye(6), -np.eye(6)])
            program = scipy.optimize.linprog(
                np.r_[np.zeros(6), 1],
                A_ub=np.c_[within, -np.ones(12)],
                b_ub=np.zeros(12),
                A_eq=np.r_[normal[row], 0][None],
                b_eq=[gap],
                bounds=[(-p, 1 - p) for p in points[row]] + [(0, None)],
            )
            shortest = program.fun
            found = np.abs(steps[row]).max()
        else:
            program = scipy.optimize.minimize(
                lambda d: d @ d,
                np.zeros(6),
                jac=lambda d: 2 * d,
                bounds=[(-p, 1 - p) for p in points[row]],
                constraints={
                    "type": "eq",
                    "fun": lambda d, r=row: normal[r] @ (points[r] + d) - offset[r],
                    "jac": lambda d, r=row: normal[r],
                },
                method="SLSQP",
                options={"ftol": 1e-12},
            )
            shortest, found = np.sqrt(program.fun), np.linalg.norm(steps[row])
        np.testing.assert_allclose(found, shortest, rtol=1e-3, atol=1e-5)


def test_an_unreachable_hyperplane_gives_the_nearest_corner():
    steps = project_on_hyperplane(
        ThreatModel("l2", 0.1),
        jnp.asarray([[0.2, 0.6]]),
        jnp.asarray([[1.0, -2.0]]),
        jnp.asarray([5.0]),
    )
    np.testing.assert_allclose(steps, [[0.8, -0.6]], atol=1e-6)
