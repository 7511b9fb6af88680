"""REGroup's responses and scores, by hand and by plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods.regroup_responses import affinity, divergence, log_responses, soft_count


def test_affinity_is_a_distance_of_square_roots():
    classes, response = np.random.default_rng(0).dirichlet(np.ones(5), (2, 1, 3))
    squares = ((np.sqrt(response)[0, :, None] - np.sqrt(classes)[0, None]) ** 2).sum(-1)
    found = affinity(*(jnp.asarray(x, jnp.float32) for x in (classes, np.log(response))))
    np.testing.assert_allclose(1 - found[0], squares / 2, atol=1e-6)


@pytest.mark.slow
def test_soft_count_is_the_borda_count_when_cold():
    scores = jax.random.normal(jax.random.key(0), (3, 5, 4))
    expected = np.zeros((5, 4))
    for m, b, y, z in np.ndindex(3, 5, 4, 4):
        expected[b, y] += float(scores[m, b, y] > scores[m, b, z]) / 3
    np.testing.assert_allclose(soft_count(scores, 1e-4), expected, atol=1e-3)
    warm = soft_count(scores, 2.0)
    by_loops = np.zeros((5, 4))
    for m, b, y, z in np.ndindex(3, 5, 4, 4):
        if y != z:
            gap = (scores[m, b, y] - scores[m, b, z]) / 2.0
            by_loops[b, y] += float(jax.nn.sigmoid(gap)) / 3
    np.testing.assert_allclose(warm, by_loops, rtol=1e-5)


def test_vanishing_responses_stay_finite():
    """A channel that never answers: log(delta) by hand, KL of every class finite."""
    output = jnp.array([[[[2.0, -1.0, 0.0]]]])
    found = log_responses({"a": output}, ("a",), ("positive", "negative"), 1e-20)
    np.testing.assert_allclose(found["positive"]["a"][0, 0], [0.0, *2 * [np.log(5e-21)]], rtol=1e-5)
    np.testing.assert_allclose(found["negative"]["a"][0, 0, 1], 0.0, atol=1e-6)
    classes = jnp.array([[[0.5, 0.25, 0.25], [1.0, 1e-20, 1e-20]]])
    kl = divergence(classes, found["positive"]["a"])
    by_hand = 0.5 * np.log(0.5) + 0.5 * np.log(0.25) - 0.5 * np.log(5e-21)
    np.testing.assert_allclose(kl[0, 0], [by_hand, 0.0], rtol=1e-5, atol=1e-5)
