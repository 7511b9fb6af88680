"""Rotations and translations, by hand and on a model that knows where a pixel is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import attacks
from robust_jax.attacks import Spatial, spatial

KEY = jax.random.key(23)


def test_a_shift_and_a_quarter_turn_by_hand():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    shifted = spatial.transform(image, jnp.asarray(0.0), jnp.asarray([1.0, 0.0]))
    np.testing.assert_allclose(shifted[0, ..., 0], [[0, 0, 0], [0, 1, 2], [3, 4, 5]], atol=1e-5)
    turned = spatial.transform(image, jnp.asarray(np.pi / 2), jnp.zeros(2))
    np.testing.assert_allclose(turned[0, ..., 0], np.rot90(image[0, ..., 0]), atol=1e-4)


def test_finds_the_shift_that_fools():
    def left_or_right(images):
        columns = images.sum(axis=(1, 3))
        return jnp.stack([columns[:, :4].sum(axis=1), columns[:, 4:].sum(axis=1)], axis=1) * 5

    images = jnp.zeros((3, 8, 8, 1)).at[0, 4, 3].set(1).at[1, 4, 0].set(1).at[2, 4, 7].set(1)
    labels = jnp.asarray([0, 0, 1])
    attack = Spatial(max_angle=0.0, num_angles=1, max_shift=2)
    view = attacks.as_view(left_or_right)
    adversarial = attack(view, images, labels, key=KEY)
    decisions = jnp.argmax(left_or_right(adversarial), axis=1)
    # Two pixels carry the first over the middle; the others are too far away and stay clean.
    np.testing.assert_array_equal(decisions != labels, [True, False, True])
    np.testing.assert_array_equal(adversarial[1], images[1])
    assert adversarial.shape == images.shape
    assert attack(view, images[:0], labels[:0], key=KEY).shape == (0, 8, 8, 1)


def test_rejects():
    with pytest.raises(ValueError, match=r"Expected max_angle=200.0 in \[0, 180\]"):
        Spatial(max_angle=200.0)
    with pytest.raises(ValueError, match="Expected num_shifts=0 >= 1"):
        Spatial(num_shifts=0)
    with pytest.raises(ValueError, match=r"Expected bounds=\(0.1, 1.0\) to hold 0"):
        Spatial(bounds=(0.1, 1.0))
