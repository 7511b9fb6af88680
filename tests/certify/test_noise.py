"""Rounded noise: its table to the last case, what is drawn, and what floats certify falsely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import special, stats

from robust_jax.certify import Smoothing, noise

SIGMA = 0.25


@pytest.mark.parametrize("sigma", [0.001, 0.25, 3.0])
def test_the_table_has_the_probabilities_of_the_rounded_gaussian(sigma):
    """All cases of columns and thresholds are counted, in integers."""
    table = noise.rounded_noise(sigma)
    num_columns = len(table.threshold)
    cases = np.zeros(num_columns, object)
    for column, (own, other) in enumerate(zip(table.threshold, table.other, strict=True)):
        cases[column] += int(own)
        cases[other] += 2**32 - int(own)
    assert cases.sum() == 2**32 * num_columns
    values = np.arange(num_columns) - (num_columns // 2 - 1)
    shares = np.asarray([case / (2**32 * num_columns) for case in cases])
    ends = (values[:, None] + np.asarray([-0.5, 0.5])) / (255 * sigma)
    exact = np.where(values > 0, *(special.ndtr(s * ends) @ [-s, s] for s in (-1, 1)))
    np.testing.assert_array_equal(shares[:-1], shares[-2::-1])
    distance = np.abs(shares - exact).sum() / 2
    assert distance <= noise.total_variation(sigma) < 2e-10
    assert 3 * 32 * 32 * noise.total_variation(SIGMA) < 3e-8


def test_draws():
    """Frequencies, moments, and no pixel or key like another."""
    table, levels = noise.rounded_noise(SIGMA), 255 * SIGMA
    draw = jax.jit(table.draw, static_argnums=1)
    first, again, other = (
        np.asarray(draw(key, 200_000))
        for key in (jax.random.key(7), jax.random.key(7), jax.random.key(8))
    )
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02
    edges = np.asarray([-np.inf, *np.arange(-100.5, 101, 3), np.inf])
    expected = np.diff(stats.norm.cdf(edges / levels)) * len(first)
    assert stats.chisquare(np.histogram(first, edges)[0], expected).pvalue > 1e-4
    assert abs(first.mean()) < 5 * levels / np.sqrt(len(first))
    np.testing.assert_allclose(first.var(), levels**2 + 1 / 12, rtol=5 * np.sqrt(2 / len(first)))


def test_copies_lie_on_the_grid():
    image = jnp.asarray(np.arange(24).reshape(2, 4, 3) * 10 + 5, jnp.float32) / 255
    copy = np.asarray(noise.rounded_noise(SIGMA).noisy(image, jax.random.key(7)), np.float64)
    levels = np.rint(255 * copy)
    np.testing.assert_allclose(copy, levels / 255, rtol=1e-7)
    drawn = np.asarray(noise.rounded_noise(SIGMA).draw(jax.random.key(7), image.size))
    drawn = drawn.reshape(image.shape)
    np.testing.assert_array_equal(levels, np.rint(255 * np.asarray(image)) + drawn)
    assert len(np.unique(drawn)) > 12


def reads_last_bits(images, *, key):
    """Returns scores of class 0 for images that are nothing but noise as JAX draws it in floats.

    Its normal draws are quantiles of 23 random bits, multiples of 2^-22 up to a constant: of such
    images the complex numbers below have one phase, of all others any.
    """
    del key
    uniform = lax.erf(images / jnp.float32(SIGMA * np.sqrt(2))).reshape(len(images), -1)
    angle = 2 * jnp.pi * ((2.0**22 * uniform) % 1.0)
    near = jnp.abs(uniform) < 0.2  # where float32 has the bits to tell
    num_near = jnp.sum(near, axis=1, dtype=jnp.float32)
    mean = [
        jnp.sum(jnp.where(near, part(angle), 0.0), axis=1) / num_near for part in (jnp.cos, jnp.sin)
    ]
    same = jnp.hypot(*mean) > 0.5
    return jnp.stack([same, ~same], axis=1).astype(jnp.float32)


@pytest.mark.slow
def test_what_floats_certify_falsely():
    """The last bits say which image a copy is of.

    So both are certified as their own, each in a ball that holds the other. Of rounded noise no two
    certificates contradict each other.
    """
    images = np.stack([np.zeros((12, 16, 1)), np.full((12, 16, 1), 13 / 255)]).astype(np.float32)
    distance = float(np.linalg.norm(images[1] - images[0]))
    false, true = (
        Smoothing(SIGMA, num_samples=20_000, batch_size=1000, noise=how)(
            reads_last_bits, images, key=jax.random.key(7)
        )
        for how in ("float", "rounded")
    )
    assert false.label.tolist() == [0, 1]
    assert false.radius.min() > distance
    assert not (true.label.tolist() == [0, 1] and true.radius.max() > distance)
    assert true.label[0] == true.label[1]


def test_radius_of_a_half_space_on_the_grid():
    """As of floats: the distance, less what the votes leave open."""
    weights = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
    weights /= np.linalg.norm(weights)
    image = np.rint(255 * (0.5 + 0.6 * weights)).astype(np.float32)[None] / 255
    distance = float(np.sum((image[0] - 0.5) * weights))

    def half_space(images, *, key):
        del key
        score = jnp.sum((images - 0.5) * weights[None], axis=(1, 2, 3))
        return jnp.stack([-score, score], axis=1)

    fields = {"num_samples": 20_000, "alpha": 0.01, "batch_size": 1000}
    found = Smoothing(0.5, noise="rounded", **fields)(half_space, image, key=jax.random.key(7))
    assert found.label.tolist() == [1]
    assert 0.9 * distance < found.radius[0] < distance


def test_what_rounded_noise_refuses():
    smoothing = Smoothing(SIGMA, num_samples=10, batch_size=10, noise="rounded")
    image = np.full((1, 4, 4, 1), 0.5, np.float32)
    with pytest.raises(ValueError, match=r"found a pixel 0\.5 of a level off"):
        smoothing(reads_last_bits, image, key=jax.random.key(7))
    with pytest.raises(ValueError, match="to be float32 for rounded noise"):
        smoothing(reads_last_bits, np.zeros((1, 4, 4, 1), np.float16), key=jax.random.key(7))
    with pytest.raises(ValueError, match="found a pixel nan"):
        smoothing(reads_last_bits, image * np.nan, key=jax.random.key(7))
    with pytest.raises(ValueError, match=r"sigma=17\.0 <= 16\.0 for rounded noise"):
        Smoothing(17.0, noise="rounded")
    every_level = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1) / 255
    assert smoothing(reads_last_bits, every_level, key=jax.random.key(7)).num_votes.tolist() == [10]
