"""Balls: what they reject, projections, draws, steepest directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import rng
from robust_jax.attacks import MIM, PGD, AutoAttack, SparseRS, ThreatModel
from robust_jax.attacks.threat import size

KEY = jax.random.key(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("linf", -0.1), r"Expected eps=-0.1 >= 0"),
        (("linf", 8.0), r"Expected eps=8.0 <= 1.0, the width of bounds"),
        (("linf", float("nan")), r"Expected eps=nan >= 0"),
        (("l0", 1.5), "Expected eps=1.5 to be a whole number of places"),
        (("l2", 0.1, (1.0, 0.0)), r"Expected bounds=\(1.0, 0.0\)"),
    ],
)
def test_threat_model_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(*fields)


def test_a_radius_beyond_the_box_is_an_error(digits):
    for attack, message in (
        (PGD(ThreatModel("l2", 9.0)), r"Expected eps=9.0 <= 8, the diagonal"),
        (PGD(ThreatModel("l1", 65.0)), r"Expected eps=65.0 <= 64, the sum of all widths"),
        (SparseRS(ThreatModel("l0", 65.0)), r"Expected eps=65.0 <= 64, the pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(digits.view, digits.images, digits.labels, key=KEY)


def test_an_attack_refuses_balls_that_it_does_not_know():
    l1, l0 = ThreatModel("l1", 1.0), ThreatModel("l0", 4.0)
    for attack, threat in ((MIM, l1), (PGD, l0), (AutoAttack, l0), (SparseRS, l1)):
        with pytest.raises(ValueError, match=f"Expected norm='{threat.norm}' to be one of"):
            attack(threat)


def test_norms_by_hand():
    delta = jnp.asarray([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    for norm, expected in (("linf", 4), ("l2", 5), ("l1", 7), ("l0", 2)):
        np.testing.assert_allclose(size(norm, delta), [expected, 0])
    images = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0, :2].set(0.1).at[0, 1, 1, 2].set(1e-30)
    assert [float(size(norm, images)[0]) for norm in ("l0", "l0_values")] == [2, 3]


def test_few_changes_are_kept_where_they_keep_most():
    clean = jnp.full((1, 2, 2, 2), 0.5)
    far = clean + jnp.asarray([[0.3, 0.3], [0.4, 0.0], [9.0, 0.0], [1e-30, 0.0]]).reshape(
        1, 2, 2, 2
    )
    # By 2 * .3^2, .4^2, 9^2 less the 8.5^2 that the box takes; the last by less than float32 has.
    for eps, kept in ((1.0, [2]), (2.0, [0, 2]), (3.0, [0, 1, 2]), (0.0, [])):
        found = ThreatModel("l0", eps).project(far, clean).reshape(4, 2)
        expected = jnp.where(jnp.isin(jnp.arange(4), jnp.asarray(kept, int))[:, None],
                             jnp.clip(far, 0, 1).reshape(4, 2), 0.5)  # fmt: skip
        np.testing.assert_array_equal(found, expected)
    one = ThreatModel("l0_values", 1.0).project(far, clean)
    assert float(size("l0_values", one - clean)[0]) == 1


def test_projection_by_hand():
    clean = jnp.asarray([[0.5, 0.9], [0.5, 0.5]])
    far = jnp.asarray([[0.0, 1.5], [0.8, 0.9]])
    np.testing.assert_allclose(
        ThreatModel("linf", 0.2).project(far, clean), [[0.3, 1.0], [0.7, 0.7]], atol=1e-7
    )
    np.testing.assert_allclose(
        ThreatModel("l2", 0.05).project(far, clean)[1], [0.53, 0.54], atol=1e-6
    )
    np.testing.assert_allclose(
        ThreatModel("linf", 0.2).project(far, clean, eps=jnp.asarray([0.0, 0.1])),
        [[0.5, 0.9], [0.6, 0.6]],
        atol=1e-7,
    )


@pytest.mark.slow
def test_samples_fill_the_ball():
    clean = jnp.full((4000, 2), 0.5)
    keys = rng.per_example(KEY, jnp.arange(4000))

    def drawn(norm, eps):
        return jax.jit(ThreatModel(norm, eps).sample)(clean, keys)

    np.testing.assert_allclose(jnp.std(drawn("linf", 0.2) - clean), 0.2 / np.sqrt(3), rtol=0.03)
    radius = jnp.linalg.norm(drawn("l2", 0.2) - clean, axis=1)
    # Uniform in a disc: the squared radius is uniform; so it is in the rhombus of L1.
    np.testing.assert_allclose(jnp.mean(radius**2), 0.2**2 / 2, rtol=0.03)
    radius = size("l1", drawn("l1", 0.2) - clean)
    np.testing.assert_allclose(jnp.mean(radius**2), 0.2**2 / 2, rtol=0.03)
    changed = drawn("l0", 1.0) != clean
    np.testing.assert_array_equal(jnp.sum(changed, axis=1), 1)
    np.testing.assert_allclose(jnp.mean(changed, axis=0), 0.5, atol=0.03)


def test_l2_direction_survives_tiny_gradients():
    gradient = jnp.asarray([[3e-30, 4e-30], [0.0, 0.0]])
    np.testing.assert_allclose(
        ThreatModel("l2", 0.1).steepest(gradient), [[0.6, 0.8], [0, 0]], rtol=1e-6
    )
