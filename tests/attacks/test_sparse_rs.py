"""Sparse-RS: its schedule, the pixels that it changes, and that it reads scores alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import SparseRS, ThreatModel
from robust_jax.attacks.threat import size

KEY = jax.random.key(23)


def test_the_schedule():
    attack = SparseRS(ThreatModel("l0", 150.0))
    queries = (0, 1, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    # .3 * 150 over 1, 2, 4, 5, 6, 8, 10, 12, 15, 20
    expected = [45, 22, 11, 9, 7, 5, 4, 3, 3, 2]
    assert [attack.num_exchanged(query, 1024) for query in queries] == expected
    short = SparseRS(ThreatModel("l0", 150.0), num_queries=100)
    assert [short.num_exchanged(query, 1024) for query in (0, 1, 90)] == [45, 11, 2]
    # Of all pixels, which leave none to be exchanged for, one has another colour.
    few = SparseRS(ThreatModel("l0", 3.0))
    assert {few.num_exchanged(9000, places) for places in (64, 4, 3)} == {1}


@pytest.mark.parametrize("norm", ["l0", pytest.param("l0_values", marks=pytest.mark.slow)])
def test_it_finds_the_one_pixel_that_counts(norm):
    """Corners of the box at so many places at most, and by scores without a gradient."""

    def votes(images, *, key):
        del key
        score = jnp.where(images[:, 2, 3, 1] > 0.9, 1.0, 0.0)  # one value decides
        near = jnp.max(images[:, 2, :, 1], axis=1) * 0.1  # and its row leads there
        return jnp.stack([0.5 + 0 * score, score + near], axis=1)

    images = jax.random.uniform(jax.random.key(1), (5, 6, 6, 3), maxval=0.8)
    attack = SparseRS(ThreatModel(norm, 3.0), num_queries=400)
    labels = jnp.zeros(5, int)
    found = attack(votes, images, labels, key=KEY)
    assert bool(jnp.all(jnp.argmax(votes(found, key=None), axis=1) == 1))
    assert float(size(norm, found - images).max()) <= 3
    changed = np.asarray(found != images)
    assert set(np.unique(np.asarray(found)[changed])) <= {0.0, 1.0}


@pytest.mark.slow
def test_all_pixels_and_none(digits):
    for eps, expected in ((64.0, {0.0, 1.0}), (0.0, set(np.unique(digits.images)))):
        attack = SparseRS(ThreatModel("l0", eps), num_queries=3)
        assert set(np.unique(attack(*digits, key=KEY))) == expected


def test_rejects():
    with pytest.raises(ValueError, match="Expected num_queries=0 >= 1"):
        SparseRS(ThreatModel("l0", 3.0), num_queries=0)
    with pytest.raises(ValueError, match=r"Expected initial_share=0.0 in \(0, 1\]"):
        SparseRS(ThreatModel("l0", 3.0), initial_share=0.0)


@pytest.mark.slow
def test_all_pixels_have_other_colours_in_turn():
    """Where every pixel may change none is there to be exchanged for: colours are."""

    def view(images, *, key):
        del key
        score = jnp.sum(images[..., 0] * jnp.asarray([[[1.0, -1.0], [1.0, -1.0]]]), axis=(1, 2))
        return jnp.stack([jnp.full_like(score, 1.5), score], axis=1)  # at one of 16 corners

    images, labels = jnp.full((8, 2, 2, 1), 0.5), jnp.zeros(8, int)
    attack = SparseRS(ThreatModel("l0", 4.0), num_queries=100)
    found = attack(view, images, labels, key=jax.random.key(0))
    assert jnp.argmax(view(found, key=None), axis=1).tolist() == [1] * 8
