"""Balls: what they reject, projections, draws, steepest directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import rng
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.attacks.threat import size

KEY = jax.random.key(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("linf", -0.1), r"Expected eps=-0.1 >= 0"),
        (("linf", 8.0), r"Expected eps=8.0 <= 1.0, the width of bounds"),
        (("linf", float("nan")), r"Expected eps=nan >= 0"),
        (("l2", 0.1, (1.0, 0.0)), r"Expected bounds=\(1.0, 0.0\)"),
    ],
)
def test_threat_model_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(*fields)


def test_l2_radius_beyond_the_diagonal_is_an_error(digits):
    with pytest.raises(ValueError, match=r"Expected eps=9.0 <= 8, the diagonal"):
        PGD(ThreatModel("l2", 9.0))(digits.view, digits.images, digits.labels, key=KEY)


def test_norms_by_hand():
    delta = jnp.asarray([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    for norm, expected in (("linf", 4), ("l2", 5), ("l1", 7), ("l0", 2)):
        np.testing.assert_allclose(size(norm, delta), [expected, 0])


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
    linf = ThreatModel("linf", 0.2).sample(clean, keys) - clean
    np.testing.assert_allclose(jnp.std(linf), 0.2 / np.sqrt(3), rtol=0.03)
    l2 = ThreatModel("l2", 0.2).sample(clean, keys) - clean
    radius = jnp.linalg.norm(l2, axis=1)
    # Uniform in a disc: the squared radius is uniform.
    np.testing.assert_allclose(jnp.mean(radius**2), 0.2**2 / 2, rtol=0.03)


def test_l2_direction_survives_tiny_gradients():
    gradient = jnp.asarray([[3e-30, 4e-30], [0.0, 0.0]])
    np.testing.assert_allclose(
        ThreatModel("l2", 0.1).steepest(gradient), [[0.6, 0.8], [0, 0]], rtol=1e-6
    )
