"""Augmentation against slices, interpolation by hand, and frequencies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robust_jax.data import Augmentation, augment
from robust_jax.data.augment import _flip, _shift
from robust_jax.data.images import (
    NUM_CROP_DRAWS,
    Transform,
    center_crop,
    resize,
    resized_crop_box,
)
from robust_jax.data.order import permutation, uniforms

ALL = Augmentation(crop_padding=2, shift=0.2, flip=True, noise=0.1)


def images(num, height=6, width=7, channels=3):
    values = np.random.default_rng(0).random((num, height, width, channels))
    return jnp.asarray(values.astype(np.float32))


jitted = jax.jit(augment, static_argnums=0)


def apply(config, batch, seed=0):
    return jitted(config, batch, key=jax.random.key(seed))


def test_nothing_to_do_returns_the_images():
    batch = images(3)
    assert augment(Augmentation(), batch, key=jax.random.key(0)) is batch


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("edge", "edge")])
def test_every_crop_is_one_window_of_the_padded_image(mode, numpy_mode):
    batch = images(400)
    out = np.asarray(apply(Augmentation(crop_padding=2, crop_mode=mode), batch))
    padded = np.pad(np.asarray(batch), ((0, 0), (2, 2), (2, 2), (0, 0)), numpy_mode)
    counts = np.zeros((5, 5), int)
    for row in range(400):
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(out[row], padded[row, y : y + 6, x : x + 7])
        ]
        assert len(found) == 1
        counts[found[0]] += 1
    # 25 equally likely windows, 16 expected each, standard deviation 3.9.
    assert counts.min() > 1
    assert counts.max() < 36


@pytest.mark.parametrize("fraction", [(0.0, 0.0), (1 / 6, -2 / 7), (0.11, -0.23), (-0.3, 0.3)])
def test_shift_is_keras_shift(fraction):
    batch = images(2)
    shift = jnp.asarray(np.array([fraction, fraction], np.float32))
    out = np.asarray(jax.jit(lambda x: _shift(x, shift, 0.3))(batch))
    # ImageDataGenerator: scipy's affine transform, order 1, nearest.
    offset = (fraction[0] * 6, fraction[1] * 7)
    for row in range(2):
        for channel in range(3):
            expected = scipy.ndimage.affine_transform(
                np.asarray(batch)[row, :, :, channel], np.eye(2), offset, order=1, mode="nearest"
            )
            np.testing.assert_allclose(out[row, :, :, channel], expected, atol=1e-5)


def test_shift_draws_the_whole_range_and_stays_in_the_box():
    ramp = jnp.tile(jnp.arange(40, dtype=jnp.float32)[None, :, None, None] / 40, (500, 1, 40, 1))
    out = np.asarray(apply(Augmentation(shift=0.2), ramp))
    # The middle row of the ramp reads the offset: 20 + fraction * 40.
    fractions = out[:, 20, 20, 0] - 0.5
    assert -0.2 <= fractions.min() < -0.19
    assert 0.19 < fractions.max() <= 0.2001
    assert abs(fractions.mean()) < 4 * 0.4 / math.sqrt(12 * 500)
    assert out.min() >= 0
    assert out.max() <= 1


def test_half_are_flipped():
    batch = images(400)
    out = np.asarray(apply(Augmentation(flip=True), batch))
    flipped = (out == np.asarray(batch)[:, :, ::-1]).all((1, 2, 3))
    kept = (out == np.asarray(batch)).all((1, 2, 3))
    np.testing.assert_array_equal(flipped, ~kept)
    assert 160 < flipped.sum() < 240
    one = np.asarray(_flip(batch[:2], jnp.array([True, False])))
    np.testing.assert_array_equal(one[0], np.asarray(batch)[0, :, ::-1])
    np.testing.assert_array_equal(one[1], np.asarray(batch)[1])


def test_noise_has_its_deviation_and_is_not_clipped():
    batch = jnp.zeros((64, 16, 16, 3))
    noise = np.asarray(apply(Augmentation(noise=0.2), batch))
    assert abs(noise.std() - 0.2) < 4 * 0.2 / math.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 4 * 0.2 / math.sqrt(noise.size)
    assert noise.min() < 0
    # Independent between examples.
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 4 / math.sqrt(768)


def test_same_key_same_images_other_key_other_images():
    batch = images(8)
    first, again, other = apply(ALL, batch, 0), apply(ALL, batch, 0), apply(ALL, batch, 1)
    np.testing.assert_array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))
    assert first.dtype == batch.dtype
    assert first.shape == batch.shape


def test_one_and_four_devices_give_the_same_images():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batch = images(8)
    sharded = apply(ALL, jax.device_put(batch, sharding))
    assert sharded.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_allclose(np.asarray(sharded), np.asarray(apply(ALL, batch)), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_padding": -1}, "Expected crop_padding=-1 >= 0."),
        ({"shift": 1.0}, "Expected shift=1.0 in"),
        ({"noise": float("nan")}, "Expected noise=nan >= 0."),
        ({"scale": (0.0, 1.0)}, "Expected scale="),
        ({"ratio": (2.0, 1.0)}, "Expected ratio="),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


def test_random_crop_boxes_have_the_area_and_aspect_asked_for():
    draws = [uniforms(0, "resized crop", 0, row, NUM_CROP_DRAWS) for row in range(2000)]
    boxes = np.array(
        [resized_crop_box(300, 400, (0.08, 0.5), (3 / 4, 4 / 3), d) for d in draws], float
    )
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 400
    assert bottom.max() <= 300
    share = (right - left) * (bottom - top) / 120_000
    assert 0.078 < share.min() < 0.09
    assert 0.49 < share.max() < 0.502
    assert abs(share.mean() - 0.29) < 4 * 0.42 / math.sqrt(12 * 2000)
    log_ratio = np.log((right - left) / (bottom - top))
    assert abs(log_ratio.min() + math.log(4 / 3)) < 0.02
    assert abs(log_ratio.max() - math.log(4 / 3)) < 0.02
    assert abs(log_ratio.mean()) < 0.02


def test_crop_that_never_fits_is_the_largest_central_one():
    draws = uniforms(0, "resized crop", 0, 0, NUM_CROP_DRAWS)
    # A strip of 10 x 1000: no attempt of at least half its area fits.
    assert resized_crop_box(10, 1000, (0.5, 1.0), (3 / 4, 4 / 3), draws) == (493, 0, 506, 10)


def test_orders_are_permutations_and_pinned():
    order = permutation(0, "epoch order", 0, 1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, permutation(0, "epoch order", 1, 1000))
    assert not np.array_equal(order, permutation(1, "epoch order", 0, 1000))
    assert not np.array_equal(order, permutation(0, "validation split", 0, 1000))
    # A checkpoint's next batch depends on this order: it may not change between releases.
    np.testing.assert_array_equal(permutation(0, "epoch order", 0, 8), [1, 6, 0, 3, 7, 4, 5, 2])


@pytest.mark.parametrize("shape", [(10, 15), (15, 10), (10, 10)])
def test_the_longer_side_is_cut_off_to_whole_pixels(shape):
    """As torchvision's Resize does: of 15 / 10 * 9 = 13.5 pixels 13."""
    image = np.random.default_rng(0).integers(256, size=(*shape, 3)).astype(np.uint8)
    sides = [13 if side == 15 else 9 for side in shape]
    expected = center_crop(resize(image, *sides), 8)
    np.testing.assert_array_equal(Transform(image_size=8, resize_to=9)(image), expected)
