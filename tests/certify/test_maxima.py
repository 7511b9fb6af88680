"""Lines around maxima: they hold, and lie half as high as the constant that they replace."""

import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.certify import crown_margins, interval_bounds, interval_margins
from robust_jax.certify.intervals import Bounds
from robust_jax.certify.network import Maximum
from robust_jax.certify.relaxation import lines

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_lines_hold(size):
    """Of 200 windows: some decided, some of one point, some beside the zeros of a padding."""
    lower = RNG.normal(size=(1, size, 200)).astype(np.float32)
    upper = lower + RNG.uniform(0, 2, lower.shape).astype(np.float32)
    upper[:, :, :40] = lower[:, :, :40]
    lower[:, 1:, 40:80] = upper[:, 1:, 40:80] = -np.inf
    lower[:, :, 80:90], upper[:, :, 90:100] = -np.inf, np.inf
    found = lines(Maximum((200,)), Bounds(jnp.asarray(lower), jnp.asarray(upper)))
    low_slope, slope, offset = (np.asarray(each) for each in found[:3])
    lower, upper = (np.clip(ends, -1e3, 1e3).astype(np.float64) for ends in (lower, upper))
    draws = RNG.uniform(size=(500, size, 200)) ** RNG.uniform(0, 3, (500, 1, 1))
    x = lower + np.round(draws, 1) * (upper - lower)
    value = np.max(x, axis=1)
    assert np.all(np.sum(low_slope * x, axis=1) <= value + 1e-5)
    assert np.all(value <= np.sum(slope * x, axis=1) + offset + 1e-5)
    # In the middle the line is half as far above what no candidate but one exceeds.
    lower, upper, top = lower[0, :, 100:], upper[0, :, 100:], np.max(upper[0, :, 100:], axis=0)
    others = np.sort(np.concatenate([np.full((1, 100), -1e3), upper]), axis=0)[-2]
    least = np.maximum(np.max(lower, axis=0), others)
    middle = np.sum(slope[0, :, 100:] * (lower + upper) / 2, axis=0) + offset[0, 100:]
    expected = np.where(least < top, (least + top) / 2, top)
    below = np.sum(low_slope[0, :, 100:] * (lower + upper) / 2, axis=0)
    expected = np.where(np.max(lower, axis=0) >= others, below, expected)
    np.testing.assert_allclose(middle, expected, atol=1e-5)


@pytest.mark.slow
def test_a_margin_that_a_constant_misses():
    """Of max(x, 1/2) - x over [.2, .8] the maximum is .3; the line's is .3, a constant's .6."""

    def logits(images):
        largest = jnp.max(jnp.stack([images[:, 0], 0.5 + 0 * images[:, 0]]), axis=0)
        return jnp.stack([images[:, 0], largest], axis=1)

    found = crown_margins(logits, np.full((1, 1), 0.5, np.float32), [0], 0.3)
    np.testing.assert_allclose(found, [[0, -0.3]], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "largest",
    [np.finfo(np.float32).max, *(pytest.param(x, marks=pytest.mark.slow) for x in (1e6, 17.0))],
)
@pytest.mark.parametrize("name", ["max", "min", "clip from below", "clip from above"])
def test_thresholds_far_away_round_nothing_away(name, largest):
    """The second class leads by .01, whatever lies far below or above both scores."""
    far = {
        "max": lambda x: jnp.maximum(x, -largest),
        "min": lambda x: jnp.minimum(x, largest),
        "clip from below": lambda x: jnp.clip(x, -largest),
        "clip from above": lambda x: jnp.clip(x, None, largest),
    }[name]
    weights, bias = jnp.asarray([[0.02, 0.0]]), jnp.asarray([[0.0, 0.02]])

    def function(x):
        return far(x @ weights + bias)

    image = np.full((1, 1), 0.5, np.float32)
    np.testing.assert_allclose(crown_margins(function, image, [0], 0.0)[0, 1], -0.01, atol=1e-6)
    bounds = interval_bounds(function, image, image)
    np.testing.assert_allclose(bounds.lower, [[0.01, 0.02]], atol=1e-6)
    margins = interval_margins(function, image, image, [0])
    np.testing.assert_allclose(margins[0, 1], -0.01, atol=1e-6)
