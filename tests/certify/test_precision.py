"""Bounds and votes are computed in float32 on every device, with room for what that rounds."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from robust_jax.certify import (
    TOLERANCE,
    Margins,
    certified,
    crown_margins,
    interval_bounds,
    noise,
    votes,
)
from robust_jax.models import Conv
from robust_jax.runtime.compilation import Jitted
from tests.jaxprs import products

RNG = np.random.default_rng(0)
SIZES = (16, 32, 32, 10)
WEIGHTS = [
    (RNG.normal(size=(i, o)) * np.sqrt(2 / i)).astype(np.float32)
    for i, o in itertools.pairwise(SIZES)
]
IMAGES = jnp.asarray(RNG.uniform(size=(50, 16)), jnp.float32)


def perceptron(x, weights=WEIGHTS, precision=None):
    """Returns logits; with a precision of the caller's own where one is given."""
    for number, weight in enumerate(weights):
        x = jnp.maximum(x, 0) if number else x
        x = jnp.matmul(x, weight, precision=precision)
    return x


def convolved(x):
    """Returns logits of a convolution and a linear layer."""
    x = x.reshape(len(x), 4, 4, 1)
    module = Conv(2, (3, 3), strides=2)
    mode = {"train": False, "deterministic": True}
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **mode))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    features = nn.relu(module.apply(variables, x, **mode))
    return perceptron(features.reshape(len(x), -1), [WEIGHTS[0][:8]])


@pytest.mark.slow
@pytest.mark.parametrize("intermediate", ["crown", "interval"])
@pytest.mark.parametrize(
    "function", [perceptron, convolved, functools.partial(perceptron, precision="default")]
)
def test_bounds_take_products_in_float32(function, intermediate, monkeypatch):
    """Whatever the caller's default is, and what a function asks for itself."""
    labels, found, call = jnp.zeros(2, jnp.int32), [], Jitted.__call__

    def watched(self, *args, **kwargs):
        found.extend(products(self.trace(*args, **kwargs).jaxpr))
        return call(self, *args, **kwargs)

    def intervals(images):
        return interval_bounds(function, images - 0.1, images + 0.1)

    with jax.default_matmul_precision("bfloat16"):
        found.extend(products(jax.make_jaxpr(intervals)(IMAGES[:2])))
        assert found
        monkeypatch.setattr(Jitted, "__call__", watched)
        crown_margins(function, IMAGES[:2], labels, 0.1, intermediate=intermediate)
    assert len(found) > 4
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize("alone", [True, False])
def test_smoothing_takes_products_in_float32(alone):
    predict = jax.tree_util.Partial(lambda weights, x, *, key: perceptron(x, weights), WEIGHTS)

    def count(image, key):
        drawn = noise.FloatNoise(0.1)
        return votes._count.of_arrays(predict, image, drawn, key, 0, 2, 4, None, alone)

    with jax.default_matmul_precision("bfloat16"):
        found = products(jax.make_jaxpr(count)(IMAGES[0], jax.random.key(0)))
    assert len(found) >= 3
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_float32_adds_less_than_the_tolerance(scale):
    """Of a ball of no size the exact margin is that of float64; logits of some units and 1e6."""
    weights = [np.float32(scale) * weight for weight in WEIGHTS]
    exact = np.asarray(IMAGES, np.float64)
    for number, weight in enumerate(weights):
        exact = (np.maximum(exact, 0) if number else exact) @ weight.astype(np.float64)
    labels = np.argmax(exact, axis=1)
    exact_margins = np.take_along_axis(exact, labels[:, None], axis=1) - exact
    function = functools.partial(perceptron, weights=weights)
    margins = crown_margins(function, IMAGES, labels, 0.0)
    excess = np.max(np.asarray(margins, np.float64) - exact_margins, axis=1)
    size = np.maximum(1, np.max(np.abs(exact), axis=1))
    assert np.all(excess < TOLERANCE * size / 10)


@pytest.mark.slow
def test_a_margin_counts_above_the_tolerance_alone():
    margins = jnp.asarray([[0.0, 2 * TOLERANCE], [0.0, TOLERANCE / 2]])
    assert certified(margins, [0, 0]).tolist() == [True, False]
    assert certified(margins, [0, 0], tolerance=TOLERANCE / 4).tolist() == [True, True]
    images = jnp.full((2, 1), 0.5)

    def logits(scale, bias, x):
        return jnp.stack([scale * x[:, 0] + bias, scale * x[:, 0]], axis=1)

    # Logits of size one, and of a thousand.
    for size in (1.0, 1000.0):
        for share, holds in ((3.0, True), (0.3, False)):
            weights = (jnp.float32(2 * size), jnp.float32(share * TOLERANCE * size))
            function = functools.partial(logits, *weights)
            for bound, eps in (("crown", 1e-4), ("interval", 1e-9)):
                found = Margins(eps, bound=bound)(function, images, [0, 0])
                assert found.margin.min() > 0
                assert (found.label == 0).tolist() == [holds] * 2
    function = functools.partial(logits, jnp.float32(1), jnp.float32(5 * TOLERANCE))
    found = Margins(1e-4, tolerance=10 * TOLERANCE)(function, images, [0, 0])
    assert found.label.tolist() == [-1, -1]


def no_number(x):
    """Returns inf - inf in the first logit, behind a rectifier."""
    broken = x[:, :1] * jnp.inf - x[:, 1:2] * jnp.inf
    return jnp.concatenate([1 + 0 * x[:, :1], nn.relu(broken)], axis=1)


@pytest.mark.slow
def test_no_number_is_no_bound():
    """A NaN says nothing of a value: not that a rectifier is off, nor that a margin is none."""
    image, label = IMAGES[:1], jnp.asarray([0])

    both = [
        crown_margins(no_number, image, label, 0.0, intermediate=intermediate)
        for intermediate in ("crown", "interval")
    ]
    margins = jnp.concatenate(both)
    lower, upper = interval_bounds(no_number, image, image)
    assert lower.tolist() == [[1, -jnp.inf]]
    assert upper.tolist() == [[1, jnp.inf]]
    assert margins.tolist() == [[0, -jnp.inf]] * 2
    assert not certified(margins, [0, 0]).any()
    for bound in ("crown", "interval"):
        found = Margins(0.01, bound=bound, intermediate="interval")(no_number, image, label)
        assert found.label.tolist() == [-1]


@pytest.mark.slow
def test_bounds_are_float32_in_64_bit_mode():
    """Of a network in float32, and the same there as without it."""
    labels = jnp.argmax(perceptron(IMAGES[:4]), axis=1)
    margins = crown_margins(perceptron, IMAGES[:4], labels, 0.01, intermediate="interval")
    certificate = Margins(0.01, intermediate="interval")(perceptron, IMAGES[:4], labels)
    with jax.enable_x64(True):
        again = crown_margins(perceptron, IMAGES[:4], labels, 0.01, intermediate="interval")
        assert again.dtype == jnp.float32
        np.testing.assert_allclose(again, margins, rtol=1e-6, atol=1e-6)
        found = Margins(0.01, intermediate="interval")(perceptron, IMAGES[:4], labels)
        assert found.label.tolist() == certificate.label.tolist()
        np.testing.assert_allclose(found.margin, certificate.margin, rtol=1e-6, atol=1e-6)
