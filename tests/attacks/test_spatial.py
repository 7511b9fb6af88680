"""Rotations and translations, by hand and on a model that knows where a pixel is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from robust_jax import attacks, serialization
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
    attack = Spatial(max_angle=0.0, num_angles=1, max_shift=2, num_shifts=5)
    view = attacks.as_view(left_or_right)
    adversarial = attack(view, images, labels, key=KEY)
    decisions = jnp.argmax(left_or_right(adversarial), axis=1)
    # Two pixels carry the first over the middle; the others are too far away and stay clean.
    np.testing.assert_array_equal(decisions != labels, [True, False, True])
    np.testing.assert_array_equal(adversarial[1], images[1])
    assert adversarial.shape == images.shape
    assert attack(view, images[:0], labels[:0], key=KEY).shape == (0, 8, 8, 1)


def test_the_defaults_are_the_papers_grid():
    found = {tuple(row) for row in np.round(Spatial().grid() * [180 / np.pi, 1, 1], 9)}
    angles, shifts = range(-30, 31, 2), (-3, -1.5, 0, 1.5, 3)
    assert found == {(a, down, right) for a in angles for down in shifts for right in shifts}
    assert len(Spatial().grid()) == 775


def test_what_was_stored_before_is_the_same_attack():
    fields = {"max_angle": 5.0, "max_shift": 5, "num_angles": 5, "num_shifts": 5}
    stored = {"type": "Spatial", **fields, "bounds": [0.0, 1.0]}
    found = serialization.from_json(attacks.Attack, stored)
    assert found == Spatial(**fields)
    assert len(found.grid()) == 125


def test_pixels_are_interpolated_once_and_black_comes_in():
    """SciPy's interpolation of an oblong image at the paper's coordinates, no code of ours."""
    image = np.random.default_rng(0).uniform(0.5, 1, (7, 10)).astype(np.float32)
    angle, shift = np.deg2rad(28), np.array([-1.5, 3.0])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = (np.array(image.shape) - 1) / 2
    # The pixel at p comes from where turning and shifting it gives p.
    expected = ndimage.affine_transform(
        image, turn, middle - turn @ (middle + shift), order=1, mode="grid-constant"
    )
    images, at = jnp.asarray(image[None, ..., None]), (jnp.float32(angle), jnp.float32(shift))
    found = jax.jit(spatial.transform)(images, *at)
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5)
    assert 0 < np.sum(expected == 0) < 40


def test_rejects():
    with pytest.raises(ValueError, match=r"Expected max_angle=200.0 in \[0, 180\]"):
        Spatial(max_angle=200.0)
    with pytest.raises(ValueError, match="Expected num_shifts=0 >= 1"):
        Spatial(num_shifts=0)
    with pytest.raises(ValueError, match=r"Expected bounds=\(0.1, 1.0\) to hold 0"):
        Spatial(bounds=(0.1, 1.0))
