"""The way onto a hyperplane, by linear and quadratic programmes; which boundary is nearest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from robust_jax.attacks import APGD, APGDT, ThreatModel, passes
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


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_malt_orders_classes_by_gap_over_gradient(digits, norm):
    attack = APGDT(ThreatModel(norm, 0.1), num_targets=4, target_order="malt", num_steps=1)
    view, images, labels = digits
    given = attack.prepared(view, images, labels, key=jax.random.key(0))
    count = jax.jit(passes.counted(attack.targets, images))
    found, cost = count(given._replace(view=passes.marked(view)))
    assert (cost.forward[0], cost.backward[0]) == (1, 9)

    def row_of_jacobian(image, number):
        return jax.grad(lambda x: view(x[None], key=None)[0, number])(image)

    jacobian = np.asarray(
        jax.jit(jax.vmap(jax.vmap(row_of_jacobian, (None, 0)), (0, None)))(images, jnp.arange(10))
    ).reshape(16, 10, -1)
    logits = np.asarray(view(images, key=None))
    for i, label in enumerate(np.asarray(labels)):
        scores = {}
        for other in set(range(10)) - {label}:
            slope = jacobian[i, label] - jacobian[i, other]
            size = np.abs(slope).sum() if norm == "linf" else np.sqrt((slope**2).sum())
            scores[other] = (logits[i, label] - logits[i, other]) / size
        assert found[i].tolist() == sorted(scores, key=scores.get)[:4]
    by_logits = dataclasses.replace(attack, target_order="logits").targets(given)
    assert np.any(np.asarray(found) != np.asarray(by_logits))
    with pytest.raises(ValueError, match="target_order='malt' with num_targets=0"):
        APGD(attack.threat, target_order="malt")
