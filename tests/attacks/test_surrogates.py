"""Views with the gradient of another: what they give, to the last bit, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import attacks
from robust_jax.attacks import losses

KEY = jax.random.key(2)
WEIGHTS = jax.random.normal(jax.random.key(5), (4, 3))
THREAT = attacks.ThreatModel("linf", 0.14)
QUICK = attacks.PGD(THREAT, num_steps=3)


def test_straight_through_has_one_views_logits_and_anothers_gradient():
    def stairs(images, *, key):
        del key
        return jnp.round(10 * images @ WEIGHTS) / 10

    def smooth(images, *, key):
        del key
        return images @ WEIGHTS

    images = jax.random.uniform(jax.random.key(6), (5, 4))
    labels = jnp.asarray([0, 1, 2, 0, 1])
    both = attacks.straight_through(stairs, smooth)
    np.testing.assert_array_equal(both(images, key=KEY), stairs(images, key=None))
    slope, _, _ = losses.gradient(losses.margin, both, images, labels, key=KEY)
    expected, _, _ = losses.gradient(losses.margin, smooth, images, labels, key=KEY)
    np.testing.assert_allclose(slope, expected, atol=1e-6)
    assert float(jnp.abs(expected).max()) > 0


def test_no_surrogate_decides_ties_however_large_or_broken_its_logits_are():
    images = jax.random.uniform(jax.random.key(6), (50, 4))

    def counted(images):  # on the host, without a derivative
        def count(images):
            return np.repeat(np.asarray(images).round(1).sum(1, keepdims=True), 2, axis=1) / 3

        shape = jax.ShapeDtypeStruct((len(images), 2), jnp.float32)
        return jax.pure_callback(count, shape, images, vmap_method="sequential")

    forward = attacks.as_view(counted)
    for size in (9.0, 3e4, jnp.inf):
        backward = attacks.as_view(lambda x, size=size: size * x[:, :2])
        both = attacks.straight_through(forward, backward)
        assert both(images, key=KEY).argmax(1).tolist() == [0] * 50
    backward = attacks.as_view(lambda x: 3e4 * x[:, :2])
    both = attacks.straight_through(forward, backward)
    slope = jax.grad(lambda x: both(x, key=KEY)[:, 1].sum())(images)
    np.testing.assert_array_equal(slope, np.tile([0, 3e4, 0, 0], (50, 1)))
    other = attacks.straight_through(forward, attacks.as_view(lambda x: x))
    with pytest.raises(ValueError, match=r"logits \(50, 2\) and \(50, 4\) of one shape"):
        jax.grad(lambda x: other(x, key=KEY).sum())(images)


@pytest.mark.slow
def test_a_surrogate_costs_where_its_gradient_is_asked():
    """Square asks none: it costs what it costs on the forward view alone."""
    images, labels = jax.random.uniform(KEY, (2, 2, 2, 1)), jnp.asarray([0, 1])
    forward = attacks.as_view(lambda x: jnp.round(9 * x.reshape(len(x), -1))[:, :2])
    backward = attacks.as_view(lambda x: 9 * x.reshape(len(x), -1)[:, :2])
    both, square = (
        attacks.straight_through(forward, backward),
        attacks.Square(THREAT, num_queries=5),
    )
    alone, found = (square.counted(view, images, labels, key=KEY)[1] for view in (forward, both))
    jax.tree.map(np.testing.assert_array_equal, found, alone)
    found = QUICK.counted(both, images, labels, key=KEY)[1]
    # Three steps ask both views, the last judgement the forward one.
    assert (found.forward.tolist(), found.backward.tolist()) == ([7, 7], [3, 3])
