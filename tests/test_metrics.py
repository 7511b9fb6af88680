"""Intervals, accuracy and ranks on numbers worked out elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import metrics


def test_accuracy_counts_largest_scores():
    scores = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    assert float(metrics.accuracy(scores, jnp.array([1, 1, 0]))) == pytest.approx(2 / 3)


def test_top_classes_break_ties_downwards():
    found = metrics.top_classes(jnp.array([[1.0, 3.0, 3.0, 2.0]]), 3)
    np.testing.assert_array_equal(found, [[1, 2, 3]])
    assert metrics.top_classes(jnp.zeros((2, 3)), 5).shape == (2, 3)


def test_wilson_interval_by_its_formula():
    z, n, p = 1.959963984540054, 50, 0.8
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert metrics.interval(40, 50) == pytest.approx((centre - half, centre + half))
    assert metrics.interval(0, 10)[0] == 0
    with pytest.raises(ValueError, match="Expected num_trials=0 >= 1"):
        metrics.interval(0, 0)


def test_interrater_agreement():
    # l = (2, 1, 0, 1) of 2 classifiers: disagreement (0 + 1 + 0 + 1) / 4, p = 1 / 2.
    correct = jnp.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool)
    assert float(metrics.interrater_agreement(correct)) == pytest.approx(1 - 0.5 / (2 * 0.25))
    same = jnp.array([[1, 0, 1, 1]] * 3, bool)
    assert float(metrics.interrater_agreement(same)) == pytest.approx(1)
    independent = jax.random.bernoulli(jax.random.key(0), 0.7, (5, 20_000))
    assert abs(float(metrics.interrater_agreement(independent))) < 0.02
    with pytest.raises(ValueError, match=r"Expected classifiers=1 >= 2\."):
        metrics.interrater_agreement(same[:1])
