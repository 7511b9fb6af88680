"""APGD, FAB and Square: their losses, schedules and projections, by hand or by another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from robust_jax import attacks
from robust_jax.attacks import (
    APGD,
    APGDT,
    FAB,
    FABT,
    Square,
    ThreatModel,
    apgd,
    fab,
    losses,
    square,
)

KEY = jax.random.key(11)


def test_dlr_losses_by_hand():
    logits = jnp.asarray([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    labels = jnp.asarray([0, 2])
    np.testing.assert_allclose(losses.dlr(logits, labels), [(3 - 4) / (4 - 1), (4 - 3) / 3])
    # (z_t - z_y) / (z_1 - (z_3 + z_4) / 2)
    towards = losses.targeted_dlr(jnp.asarray([1, 3]))
    np.testing.assert_allclose(towards(logits, labels), [-3 / 3.5, -3 / 3.5])
    np.testing.assert_allclose(
        losses.dlr(100 * logits + 7, labels), losses.dlr(logits, labels), rtol=1e-5
    )


def test_kl_by_hand():
    reference = jnp.log(jnp.asarray([[0.5, 0.5]]))
    found = losses.kl(reference)(jnp.log(jnp.asarray([[0.25, 0.75]])), jnp.asarray([0]))
    np.testing.assert_allclose(found, [0.5 * np.log(2) + 0.5 * np.log(2 / 3)], rtol=1e-5)


def test_targets_are_the_likeliest_other_classes():
    logits = jnp.asarray([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    targets = losses.ranked_targets(logits, jnp.asarray([0, 2]), 2)
    np.testing.assert_array_equal(targets, [[2, 1], [0, 1]])


def test_too_few_classes_are_an_error(linear, digits):
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(ValueError, match="Expected num_classes=2 >= 3 for the DLR loss"):
        APGD(threat, loss="dlr")(*linear, key=KEY)
    three = lambda x, key: digits.view(x, key=key)[:, :3]  # noqa: E731
    with pytest.raises(ValueError, match="Expected num_classes=3 >= 4 for the targeted DLR loss"):
        APGDT(threat, num_targets=2)(three, digits.images, digits.labels % 3, key=KEY)
    for attack in (APGDT(threat, num_targets=10), FABT(threat, num_targets=10)):
        with pytest.raises(ValueError, match=r"Expected num_targets=10 in \[1, 9\]"):
            attack(*digits, key=KEY)


def test_reviews_come_when_the_paper_says():
    review, window = apgd.checkpoints(100)
    # Croce and Hein 2020: p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06).
    np.testing.assert_array_equal(np.flatnonzero(review) + 1, [22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(window[review], [22, 19, 16, 13, 10, 7, 6, 6])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_on_a_hyperplane_is_the_shortest(norm):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(12, 6))
    normal = rng.normal(size=(12, 6)) * (rng.uniform(size=(12, 6)) > 0.2)
    offset = np.sum(normal * rng.uniform(size=(12, 6)), axis=1)
    steps = fab.project_on_hyperplane(
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
    steps = fab.project_on_hyperplane(
        ThreatModel("l2", 0.1),
        jnp.asarray([[0.2, 0.6]]),
        jnp.asarray([[1.0, -2.0]]),
        jnp.asarray([5.0]),
    )
    np.testing.assert_allclose(steps, [[0.8, -0.6]], atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [FAB, FABT])
def test_fab_finds_the_exact_distance_of_a_linear_model(make, norm, linear):
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    gaps = jnp.abs(losses.margin(linear.view(linear.images, key=None), linear.labels))
    size = jnp.abs(weights).sum() if norm == "linf" else jnp.linalg.norm(weights)
    fields = {"num_targets": 1} if make is FABT else {}
    attack = make(ThreatModel(norm, 0.9), num_steps=30, **fields)
    adversarial = attack(*linear, key=KEY)
    found = attack.threat.distance(adversarial, linear.images)
    np.testing.assert_allclose(found, gaps / size, rtol=0.06)
    assert jnp.all(found >= gaps / size * 0.999)


def test_sides_of_squares_follow_the_schedule():
    attack = Square(ThreatModel("linf", 0.1), num_queries=5000)
    sides = [attack.side(query, 32, 32) for query in (0, 11, 51, 201, 501, 1001, 2001, 4001)]
    # sqrt(.8 / 2^i * 1024), rounded
    assert sides == [29, 20, 14, 10, 7, 5, 4, 3]
    l2 = Square(ThreatModel("l2", 0.1), num_queries=5000)
    assert [l2.side(query, 32, 32) for query in (0, 11, 51, 4001)] == [29, 21, 15, 3]
    stretched = Square(ThreatModel("linf", 0.1), num_queries=100, rescale_schedule=True)
    assert [stretched.side(query, 32, 32) for query in (0, 1, 99)] == [29, 14, 1]


def test_bumps_and_dipoles_by_hand():
    np.testing.assert_allclose(
        square.bump(3, 3), [[0.25, 0.25, 0.25], [0.25, 1.25, 0.25], [0.25, 0.25, 0.25]]
    )
    np.testing.assert_allclose(np.sum(square.dipole(6) ** 2), 1)
    np.testing.assert_allclose(np.sum(square.dipole(6)), 0, atol=1e-12)


def test_square_reads_scores_only(digits):
    def votes(images, *, key):
        del key
        return jax.nn.one_hot(jnp.argmax(digits.view(images, key=None), axis=1), 10)

    attack = Square(ThreatModel("linf", 0.3), num_queries=40)
    adversarial = attack(votes, digits.images, digits.labels, key=KEY)
    standing = jnp.argmax(digits.view(adversarial, key=None), axis=1) == digits.labels
    assert int(standing.sum()) < 12


def test_parallel_runs_change_nothing(digits):
    threat = ThreatModel("linf", 0.06)
    for make, fields in (
        (APGDT, {"num_steps": 6, "num_targets": 2}),
        (Square, {"num_queries": 20, "num_restarts": 2}),
    ):
        np.testing.assert_allclose(
            make(threat, **fields)(*digits, key=KEY),
            make(threat, parallel=True, **fields)(*digits, key=KEY),
            atol=2e-5,
        )


def test_rejects():
    threat = ThreatModel("linf", 0.1)
    for make, message in (
        (lambda: APGD(threat, rho=1.5), r"Expected rho=1.5 in \(0, 1\)"),
        (lambda: APGDT(threat, num_targets=0), "Expected num_targets=0 >= 1"),
        (lambda: FAB(threat, shrink=1.0), r"Expected shrink=1.0 in \(0, 1\)"),
        (lambda: Square(threat, num_queries=0), "Expected num_queries=0 >= 1"),
        (lambda: Square(threat, initial_share=0.0), r"Expected initial_share=0.0 in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match=r"to be \[b h w k\]"):
        Square(threat)(
            attacks.as_view(lambda x: x), jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), key=KEY
        )
