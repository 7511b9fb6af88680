"""Sigma-zero: the fewest values on a linear model, other boxes and targets, what it rejects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import SigmaZero, ThreatModel
from robust_jax.attacks.threat import size

KEY = jax.random.key(5)


def fewest(linear):
    """Returns how few: values of largest effect, each moved to its bound, until the sign turns."""
    labels = linear.labels
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    towards = jnp.where(labels == 0, 1.0, -1.0)[:, None, None, None] * weights[None]
    room = jnp.where(towards > 0, 1 - linear.images, linear.images)
    effects = jnp.sort((jnp.abs(towards) * room).reshape(8, -1), axis=1)[:, ::-1]
    logits = linear.view(linear.images, key=None)
    gaps = jnp.abs(logits[:, 1] - logits[:, 0])
    return 1 + jnp.sum(jnp.cumsum(effects, axis=1) <= gaps[:, None], axis=1)


def test_few_values_on_a_linear_model(linear):
    found = SigmaZero(num_steps=100)(*linear, key=KEY)
    assert bool(jnp.all(jnp.argmax(linear.view(found, key=None), axis=1) != linear.labels))
    np.testing.assert_array_equal(size("l0_values", found - linear.images), fewest(linear))
    kept = SigmaZero(num_steps=100).within(1.0)
    assert kept.threat == ThreatModel("l0_values", 1.0)


@pytest.mark.slow
def test_another_box_and_a_target(linear):
    wide = lambda images, key: linear.view((images + 1) / 2, key=key)  # noqa: E731
    attack = SigmaZero(num_steps=100, bounds=(-1.0, 1.0), targeted=True)
    there = attack(wide, 2 * linear.images - 1, 1 - linear.labels, key=KEY)
    np.testing.assert_array_equal(
        size("l0_values", there - (2 * linear.images - 1)), fewest(linear)
    )


def test_rejects():
    for fields, message in (
        ({"num_steps": 0}, "Expected num_steps=0 >= 1"),
        ({"sigma": 0.0}, r"Expected sigma=0.0 > 0"),
        ({"threshold": -0.1}, r"Expected threshold=-0.1 >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SigmaZero(**fields)
