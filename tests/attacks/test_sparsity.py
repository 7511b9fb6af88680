"""Budgets spent without sorting: by sorting, by linear programmes, by bisection in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from robust_jax.attacks import ThreatModel
from robust_jax.attacks.linearised import project_on_hyperplane
from robust_jax.attacks.sparsity import at_least_the_largest, ranked, share_spent
from robust_jax.attacks.threat import size


def nearest(point, clean, radius):
    """Returns the point of ball and box that is nearest, with a shrinkage found in float64."""
    delta = point.astype(np.float64) - clean
    room = np.where(delta > 0, 1 - clean, clean).astype(np.float64)
    low, high = 0.0, np.abs(delta).max()
    for _ in range(100):
        middle = (low + high) / 2
        inside = np.clip(np.abs(delta) - middle, 0, room).sum() <= radius
        low, high = (low, middle) if inside else (middle, high)
    return clean + np.sign(delta) * np.clip(np.abs(delta) - high, 0, room)


def test_the_l1_projection_is_the_nearest_point_of_ball_and_box():
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(6, 300)).astype(np.float32)
    clean[:, :50], clean[:, 50:100] = 0, 1  # on the border of the box
    for noise, eps in ((0.01, 0.5), (0.3, 12.0), (2.0, 0.05), (0.001, 3.0)):
        points = (clean + noise * rng.normal(size=clean.shape)).astype(np.float32)
        project = jax.jit(ThreatModel("l1", eps).project)
        found = project(points, clean)
        expected = np.stack([nearest(*pair, eps) for pair in zip(points, clean, strict=True)])
        np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=3e-7)
        assert float(size("l1", found - clean).max()) <= eps + 1e-5 * max(1, eps)
        np.testing.assert_allclose(project(found, clean), found, atol=1e-7)
        np.testing.assert_array_equal(project(clean, clean), clean)
    nothing = ThreatModel("l1", 0.0).project(jnp.asarray(points), jnp.asarray(clean))
    np.testing.assert_array_equal(nothing, clean)


def test_a_solver_finds_no_nearer_point():
    rng = np.random.default_rng(1)
    clean = rng.uniform(size=(3, 5)).astype(np.float32)
    points = (clean + rng.normal(size=clean.shape)).astype(np.float32)
    found = np.asarray(ThreatModel("l1", 0.4).project(jnp.asarray(points), jnp.asarray(clean)))
    for row in range(3):
        x, y = clean[row].astype(np.float64), points[row].astype(np.float64)
        # Of the parts of a difference up and down, each at least 0.
        solved = scipy.optimize.minimize(
            lambda parts, x=x, y=y: np.sum((x + parts[:5] - parts[5:] - y) ** 2),
            np.zeros(10),
            bounds=[(0, 1 - value) for value in x] + [(0, value) for value in x],
            constraints={"type": "ineq", "fun": lambda parts: 0.4 - parts.sum()},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        np.testing.assert_allclose(np.sum((found[row] - y) ** 2), solved.fun, rtol=1e-5)


def test_steps_and_ways_in_l1_are_those_of_linear_programmes():
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(8, 6)).astype(np.float32)
    normal = rng.normal(size=(8, 6)) * (rng.uniform(size=(8, 6)) > 0.2)
    normal[:, 1] = normal[:, 0]  # of equal slopes any part of either will do
    offset = np.sum(normal * rng.uniform(size=(8, 6)), axis=1)
    threat = ThreatModel("l1", 0.7)
    normal, offset = jnp.asarray(normal, jnp.float32), jnp.asarray(offset, jnp.float32)
    steps = project_on_hyperplane(threat, jnp.asarray(points), normal, offset)
    np.testing.assert_allclose(jnp.sum(normal * (points + steps), axis=1), offset, atol=1e-5)
    moved = threat.ascend(jnp.asarray(points), normal, 0.7)
    for found in (points + steps, moved):
        assert float(found.min()) >= -1e-6
        assert float(found.max()) <= 1 + 1e-6
    assert float(size("l1", moved - points).max()) <= 0.7 + 1e-6
    for row in range(8):
        slope, x = np.asarray(normal[row], np.float64), points[row]
        parts = [(0, 1 - value) for value in x] + [(0, value) for value in x]
        ways, gap = np.r_[slope, -slope], float(offset[row]) - slope @ x
        way = scipy.optimize.linprog(np.ones(12), A_eq=ways[None], b_eq=[gap], bounds=parts)
        np.testing.assert_allclose(np.abs(steps[row]).sum(), way.fun, rtol=1e-4, atol=1e-5)
        step = scipy.optimize.linprog(-ways, A_ub=np.ones((1, 12)), b_ub=[0.7], bounds=parts)
        np.testing.assert_allclose(slope @ (moved[row] - x), -step.fun, rtol=1e-5)


def test_shares_and_places_are_those_of_sorting():
    rng = np.random.default_rng(2)
    values = jnp.asarray(rng.integers(0, 9, size=(5, 40)) / 8, jnp.float32)
    number = jnp.asarray([1, 2, 17, 39, 40], jnp.int32)
    expected = [row >= np.sort(row)[-n] for row, n in zip(np.asarray(values), number, strict=True)]
    np.testing.assert_array_equal(at_least_the_largest(values, number), expected)
    np.testing.assert_array_equal(
        ranked(values)[0], np.argsort(np.argsort(-values[0], stable=True))
    )
    cost, budget = jnp.ones_like(values), jnp.asarray([0.0, 0.5, 7.0, 40.0, 90.0])
    share = share_spent(values, cost, budget)
    np.testing.assert_allclose(jnp.sum(share, axis=1), jnp.minimum(budget, 40), rtol=1e-6)
    lowest_bought = jnp.min(jnp.where(share > 0, values, 9), axis=1)
    highest_left = jnp.max(jnp.where(share < 1, values, -1), axis=1)
    assert bool(jnp.all(lowest_bought >= highest_left))
