"""The probe's attacks on a part of the images say what those on all of them say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import ThreatModel
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation.sanity.attacked import AttackedView
from tests.evaluation.sanity.digits import network, trained

THREAT = ThreatModel("linf", 0.1)


@pytest.fixture(scope="module")
def digits():
    data = open_data(DataConfig(Digits()))
    images = jnp.asarray(data.test.arrays[0][:64] / 255, jnp.float32)
    return trained(data, eps=0.0), images, jnp.asarray(data.test.arrays[1][:64], jnp.int32)


def attacked(digits, view, *, stochastic=False):
    params, images, labels = digits
    return AttackedView(
        "deployed", view, params, images, labels, stochastic=stochastic, key=jax.random.key(0)
    )


def fixed(params, images, *, key):
    del key
    return network(params, images)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 5, 40])
@pytest.mark.parametrize("name", ["pgd", "square"])
def test_a_part_stands_as_it_does_in_the_whole(digits, name, number):
    view = attacked(digits, fixed)
    among = np.zeros(64, bool)
    among[np.random.default_rng(number).permutation(64)[:number]] = True
    part = getattr(view, name)(THREAT, among=among)
    whole = getattr(attacked(digits, fixed), name)(THREAT)
    assert 0 < whole.sum() < 64
    np.testing.assert_array_equal(part, whole & among)


def noted_in(sizes):
    """Returns the network, which notes the size of every batch that it is traced for."""

    def watched(params, images, *, key):
        sizes.append(len(images))
        return fixed(params, images, key=key)

    return watched


def test_few_images_make_a_small_batch(digits):
    sizes = []
    view = attacked(digits, noted_in(sizes))
    sizes.clear()
    view.pgd(THREAT, among=np.arange(64) < 16)
    assert set(sizes) == {16}
    sizes.clear()
    view.pgd(THREAT, start=1, among=np.arange(64) < 17)
    assert set(sizes) == {64}


@pytest.mark.slow
def test_all_images_of_a_view_that_draws_are_attacked(digits):
    def noisy(params, images, *, key):
        return network(params, images + 0.05 * jax.random.normal(key, images.shape))

    view = attacked(digits, noisy, stochastic=True)
    assert view.random
    few = view.pgd(THREAT, among=np.arange(64) < 5)
    np.testing.assert_array_equal(few, attacked(digits, noisy, stochastic=True).pgd(THREAT))
    assert few[5:].any()


def test_one_program_of_square_serves_all_radii(digits):
    traced = []
    view = attacked(digits, noted_in(traced))
    first = view.square(THREAT)
    assert traced
    traced.clear()
    second = view.square(ThreatModel("linf", 0.2))
    assert not traced
    assert second.sum() < first.sum()
