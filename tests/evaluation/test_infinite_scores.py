"""Scores that are infinite, as those of masked classes, or no number hide nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.analysis import layer_votes
from robust_jax.data import from_arrays
from robust_jax.evaluation import Model
from robust_jax.evaluation.sanity.probes import difference

IMAGES = np.asarray(jax.random.uniform(jax.random.key(0), (6, 4, 4, 1)))
SPLIT = from_arrays(IMAGES, np.arange(6) % 3, num_classes=3, name="test")


@pytest.mark.parametrize("value", [-jnp.inf, jnp.inf, jnp.nan])
def test_functions_are_told_apart(value):
    def answers(sign, value=value):
        def scores(images):
            mean = sign * jnp.mean(images, axis=(1, 2, 3))
            return jnp.stack([mean, -mean, jnp.full_like(mean, value)], axis=1)

        return Model.of(scores, num_classes=3)._answers(SPLIT)

    assert answers(1) == answers(1)
    assert len({answers(1), answers(-1), answers(0), answers(1, value=0.0)}) == 4


def test_scores_differ():
    scores = np.asarray([1.0, -np.inf, np.nan])
    assert difference(scores, scores) == 0
    assert difference(scores, np.asarray([1.5, -np.inf, np.nan])) == 0.5
    for other in ([1.0, np.inf, np.nan], [1.0, 0.0, np.nan], [1.0, -np.inf, 0.0]):
        assert difference(scores, np.asarray(other)) == np.inf


def test_layers_without_numbers_are_right_nowhere():
    scores = jnp.full((4, 2, 3), jnp.nan).at[:, 1].set(jnp.asarray([2.0, 1.0, 0.0]))
    for right in layer_votes(scores, jnp.zeros(2, jnp.int32), signs="both"):
        np.testing.assert_array_equal(right, [[False, True], [False, True]])
