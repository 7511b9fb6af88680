"""Bounds behind a softmax: derived once more by sampling, and the functions that are one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

from robust_jax.certify import crown_margins, interval_bounds, interval_margins
from robust_jax.certify.graph import Last
from robust_jax.certify.heads import interval_behind, margins_behind
from robust_jax.certify.interpreter import trace

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(6, 4)).astype(np.float32)


def exponentials(x):
    values = jnp.exp(x)
    return values / jnp.sum(values, axis=-1, keepdims=True)


def test_margins_of_probabilities():
    """No difference of probabilities is below its bound, and some reach it."""
    least = RNG.normal(size=(200, 1, 4)) * RNG.uniform(0.1, 4, (200, 1, 1))
    least[..., 0] = 0
    # A quarter of what lies above is nothing, a quarter as good as infinite.
    above = RNG.uniform(0, 3, (200, 2000, 4)) * RNG.choice([0, 1, 1, 20], (200, 2000, 4))
    differences = least + above
    differences[..., 0] = 0
    values = special.softmax(-differences, axis=-1)
    margins = values[..., :1] - values
    found = np.asarray(margins_behind("softmax", jnp.asarray(least[:, 0], jnp.float32)))
    assert np.all(found[:, None] <= margins + 1e-6)
    # A difference that is negative reaches it where the other classes are out of the way.
    assert np.all((np.min(margins, axis=1) - found)[..., 1:] < 0.25)
    assert np.mean((np.min(margins, axis=1) - found)[..., 1:] < 0.02) > 0.8


def shifted(z):
    return exponentials(z - jnp.max(z, axis=-1, keepdims=True))


@pytest.mark.parametrize("head", ["softmax", "log_softmax"])
def test_intervals_are_reached(head):
    """By the one score at one of its ends and all others at the other."""
    lower = RNG.normal(size=(20, 4)) * 50
    upper = lower + RNG.uniform(0, 40, lower.shape)
    function = getattr(special, head)
    found = interval_behind(head, jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))
    for own, others, bound in ((lower, upper, found[0]), (upper, lower, found[1])):
        for place in range(4):
            scores = np.where(np.arange(4) == place, own, others)
            expected = function(scores, axis=-1)[:, place]
            np.testing.assert_allclose(bound[:, place], expected, rtol=1e-4, atol=1e-6)


HEADS = {
    "softmax": lambda x: nn.softmax(x @ WEIGHTS),
    "of half of it": lambda x: nn.softmax(x @ WEIGHTS / 2),
    "by hand": lambda x: shifted(x @ WEIGHTS),
    "row by row": jax.vmap(lambda row: nn.softmax(row @ WEIGHTS)),
    "members": lambda x: nn.softmax(jnp.stack([x @ WEIGHTS, x @ -WEIGHTS], axis=1)),
    "log softmax": lambda x: nn.log_softmax(x @ WEIGHTS),
}


@pytest.mark.parametrize("name", HEADS)
def test_it_is_recognised(name):
    *_, last = trace(HEADS[name], (1, 6)).values()
    assert isinstance(last, Last)
    assert last.head == ("log_softmax" if name.startswith("log") else "softmax")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (nn.softmax(x @ WEIGHTS) + nn.softmax(x @ -WEIGHTS)) / 2,
        lambda x: nn.softmax(x @ WEIGHTS, axis=0),
        lambda x: exponentials(x @ WEIGHTS),  # no number above 88
        lambda x: jnp.log(nn.softmax(x @ WEIGHTS)),  # -inf below -103
        lambda x: jnp.exp(x @ WEIGHTS) / jnp.sum(jnp.exp(x @ -WEIGHTS), axis=-1, keepdims=True),
        lambda x: nn.softmax(x @ WEIGHTS) @ WEIGHTS.T,
    ],
)
def test_nothing_else_is(function):
    with pytest.raises(ValueError, match="operation 'exp'"):
        trace(function, (2, 6))


@pytest.mark.slow
def test_margins_behind_a_head():
    images = RNG.uniform(0.2, 0.8, (5, 6)).astype(np.float32)
    labels = np.asarray([0, 1, 2, 3, 0])
    scores = crown_margins(lambda x: x @ WEIGHTS, images, labels, 0.1)
    logarithms = crown_margins(HEADS["log softmax"], images, labels, 0.1)
    np.testing.assert_allclose(logarithms, scores, atol=1e-5)
    probabilities = crown_margins(HEADS["softmax"], images, labels, 0.1)
    lower, upper = interval_bounds(HEADS["softmax"], images - 0.1, images + 0.1)
    own = np.arange(4)[None] == labels[:, None]
    interval = np.where(own, 0, np.take_along_axis(np.asarray(lower), labels[:, None], 1) - upper)
    elided = interval_margins(HEADS["softmax"], images - 0.1, images + 0.1, labels)
    # Of a linear function the differences of the scores are exact by intervals too.
    np.testing.assert_allclose(elided, probabilities, atol=1e-6)
    expected = np.maximum(margins_behind("softmax", scores), interval)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert np.any(expected > interval + 0.01)
    # Of no ball both are exact.
    values = special.softmax(images.astype(np.float64) @ WEIGHTS, axis=-1)
    found = crown_margins(HEADS["softmax"], images, labels, 0.0)
    expected = np.take_along_axis(values, labels[:, None], axis=1) - values
    np.testing.assert_allclose(found, expected, atol=1e-6)
