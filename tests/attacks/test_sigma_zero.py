"""Sigma-zero: the fewest values on a linear model, other boxes and targets, what it rejects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import SigmaZero, ThreatModel
from robust_jax.attacks.threat import size

KEY = jax.random.key(5)


def test_few_values_on_a_linear_model(linear, fewest):
    found = SigmaZero(num_steps=100)(*linear, key=KEY)
    assert bool(jnp.all(jnp.argmax(linear.view(found, key=None), axis=1) != linear.labels))
    np.testing.assert_array_equal(size("l0_values", found - linear.images), fewest)
    kept = SigmaZero(num_steps=100).within(1.0)
    assert kept.threat == ThreatModel("l0_values", 1.0)


@pytest.mark.slow
def test_another_box_and_a_target(linear, fewest):
    wide = lambda images, key: linear.view((images + 1) / 2, key=key)  # noqa: E731
    attack = SigmaZero(num_steps=100, bounds=(-1.0, 1.0), targeted=True)
    there = attack(wide, 2 * linear.images - 1, 1 - linear.labels, key=KEY)
    np.testing.assert_array_equal(size("l0_values", there - (2 * linear.images - 1)), fewest)


def test_rejects():
    for fields, message in (
        ({"num_steps": 0}, "Expected num_steps=0 >= 1"),
        ({"sigma": 0.0}, r"Expected sigma=0.0 > 0"),
        ({"threshold": -0.1}, r"Expected threshold=-0.1 >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SigmaZero(**fields)
