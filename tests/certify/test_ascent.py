"""alpha-CROWN: sound, never looser than CROWN, and as tight as auto_LiRPA's twenty steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from robust_jax.certify import SlopeAscent, crown_margins

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.1, 0.9, (2, 8, 8, 3)).astype(np.float32)
LABELS, EPS = [1, 2], 0.05


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


KERNELS = [normal(3, 3, 3, 4) / 3, normal(3, 3, 4, 4) / 4, normal(64, 10) / 4, normal(10, 4) / 2]


def convolved(x, kernel, stride):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def residual(x):
    """Returns logits: a stride, a sum, a leaky rectifier, absolute values, a dense layer."""
    x = nn.relu(convolved(x, KERNELS[0], 2) - 0.2)
    x = nn.leaky_relu(x + convolved(x, KERNELS[1], 1), 0.3)
    x = jnp.abs(x.reshape(len(x), -1) @ KERNELS[2])
    return x @ KERNELS[3]


def pooled(x):
    """Returns logits, with a maximum behind a rectifier."""
    x = nn.relu(convolved(x, KERNELS[0], 1) - 0.2)
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(x.reshape(len(x), -1) @ KERNELS[2])
    return x @ KERNELS[3]


@pytest.mark.slow
@pytest.mark.parametrize("function", [residual, pooled])
def test_bounds_hold_and_none_is_looser(function, near):
    crown = crown_margins(function, IMAGES, LABELS, EPS)
    last = crown_margins(function, IMAGES, LABELS, EPS, ascent=SlopeAscent(5, intermediate=False))
    every = crown_margins(function, IMAGES, LABELS, EPS, ascent=SlopeAscent(5))
    assert jnp.all(last >= crown)
    assert jnp.all(every >= crown)
    is_other = jnp.arange(4)[None] != jnp.asarray(LABELS)[:, None]
    for tighter, looser in ((last, crown), (every, last)):
        gain = jnp.where(is_other, tighter - looser, 0)
        assert jnp.sum(gain) > 0.01
    samples = jnp.stack([near(image, EPS, 2000) for image in IMAGES])
    logits = jax.jit(jax.vmap(function))(samples)
    for found in (last, every):
        for margins, label, of_image in zip(found, LABELS, logits, strict=True):
            assert jnp.all(margins[None] <= of_image[:, label, None] - of_image + 1e-4)


@pytest.mark.slow
def test_a_slope_is_the_best_of_all():
    """Of one rectifier, whose lower bound is a tent in its slope."""

    def function(x):
        y = x[:, 0, 0, :1] - 0.5
        return jnp.concatenate([nn.relu(y) - 0.4 * y, 0 * y], axis=1)

    image = np.full((1, 1, 1, 1), 0.49, np.float32)
    # Over -.11 <= y <= .09 the minimum is 0; slope 0, of the smaller area, gives -.4 * .09.
    crown = crown_margins(function, image, [0], 0.1)
    found = crown_margins(function, image, [0], 0.1, ascent=SlopeAscent(30))
    np.testing.assert_allclose(crown[0, 1], -0.036, atol=1e-6)
    np.testing.assert_allclose(found[0, 1], 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 >= 1"),
        ({"step_size": float("nan")}, r"step_size=nan in \(0, 1\]"),
        ({"step_size": 1.1}, r"step_size=1.1 in \(0, 1\]"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        SlopeAscent(**fields)
