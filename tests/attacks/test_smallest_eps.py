"""The smallest ball in which PGD succeeds: exact on a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import SmallestEps


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    ("attack", "norm", "slack"),
    [
        (SmallestEps(distance_norm="l2", initial_eps=0.01, relative_step=0.5), "l2", 0.02),
        (SmallestEps(initial_eps=0.01, relative_step=0.5), "linf", 0.02),
    ],
    ids=["l2", "linf"],
)
def test_exact_distance_of_a_linear_model(attack, norm, slack, assert_exact):
    assert_exact(attack, norm, slack)


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [False, True])
def test_confident_examples_lie_further_by_what_confidence_takes(targeted):
    """Logits +-(x - .5) w: the probability of the other class is .9 at a gap of log 9 beyond 0."""
    weights = jnp.asarray([[2.0, -3.0, 1.0, 4.0]]).T

    def view(images, *, key):
        del key
        score = (images.reshape(-1, 4) - 0.5) @ weights
        return jnp.concatenate([score, -score], axis=1)

    images = jnp.full((2, 2, 2, 1), 0.5) + jnp.asarray([0.05, -0.05])[:, None, None, None]
    labels = jnp.asarray([0, 1])
    # Twice the score is the gap; a ball of eps moves the score by eps times the sum of |w|.
    expected = (0.05 * 4.0 + jnp.log(9.0) / 2) / 10.0
    attack = SmallestEps(
        distance_norm="linf", initial_eps=0.01, relative_step=0.5, targeted=targeted,
        min_probability=0.9,
    )  # fmt: skip
    goal = 1 - labels if targeted else labels
    found = attack(view, images, goal, key=jax.random.key(0))
    probability = jax.nn.softmax(view(found, key=None))[jnp.arange(2), 1 - labels]
    np.testing.assert_allclose(jnp.abs(found - images).max((1, 2, 3)), expected, rtol=5e-3)
    assert bool(jnp.all(probability >= 0.9))


def test_rejects():
    for fields, message in (
        ({"growth": 1.0}, "Expected growth=1.0 > 1"),
        ({"initial_eps": 0.0}, "Expected initial_eps=0.0 > 0"),
        ({"min_probability": 1.0}, r"Expected min_probability=1.0 in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            SmallestEps(**fields)
