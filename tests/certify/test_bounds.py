"""Both kinds of bounds hold for every kind of layer, and each names what it does not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from robust_jax.certify import crown_margins, interval_bounds
from robust_jax.methods import KernelPool
from robust_jax.models import BatchNorm, CNNConfig, Conv, Dense, EnsembleConfig
from robust_jax.models.layers import relu
from robust_jax.runtime.compilation import computed_once

SHAPE = (6, 6, 4)
EPS = 0.05


def normal(shape):
    """Returns fixed weights of both signs."""
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def from_module(module):
    """Returns a layer's function with random parameters of both signs."""

    def apply(x):
        mode = {"train": False, "deterministic": True}
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **mode))
        variables = jax.tree.map(lambda a: normal(a.shape), shapes)
        if "batch_stats" in variables:
            variables["batch_stats"]["var"] = jnp.square(variables["batch_stats"]["var"])
        return module.apply(variables, x, **mode)

    return apply


def by_hand(x):
    """Returns the sum of a ReLU and a leaky ReLU."""
    return jnp.where(x > 0, x, 0.0) + jnp.maximum(0.2 * x, x)


def residual(x):
    """Returns a block whose shortcut is not rectified."""
    return x + 0.05 * from_module(Conv(4, (3, 3)))(nn.relu(x))


LAYERS = {
    "conv": from_module(Conv(3, (3, 3), strides=2, use_bias=True)),
    "grouped conv": lambda x: jax.lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2),
        jnp.linspace(-1, 1, 6 * 2 * 9).reshape(6, 2, 3, 3),
        (1, 2),
        "SAME",
        feature_group_count=2,
    ),
    "dense": lambda x: from_module(Dense(5))(x.reshape(len(x), -1)),
    "batch norm": from_module(BatchNorm()),
    "relu": lambda x: nn.relu(x - 0.5),
    "relu of the networks, kept": lambda x: computed_once(relu(x - 0.5)),
    "leaky relu": lambda x: nn.leaky_relu(x - 0.5, 0.2),
    "rectifiers by hand": lambda x: by_hand(x - 0.5),
    "max pool": lambda x: jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        window_dimensions=(1, 2, 3, 1),
        window_strides=(1, 1, 2, 1),
        padding=((0, 0), (0, 1), (1, 1), (0, 0)),
        window_dilation=(1, 2, 1, 1),
    ),
    "min pool": lambda x: jax.lax.reduce_window(
        x, jnp.inf, jax.lax.min, (1, 2, 2, 1), (1, 2, 1, 1), "SAME"
    ),
    "average pool": lambda x: jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
    ),
    "global max": lambda x: jnp.max(x, axis=(1, 2)),
    "larger of two": lambda x: jnp.maximum(x, 1 - x[:, ::-1]),
    "clipped from below": lambda x: jnp.maximum(0.5, x),
    "kernel pool": KernelPool(kernel_size=2),
    "kernel max pool": KernelPool(kind="max", kernel_size=2),
    "sums": lambda x: x + x + (2 - x[:, :, ::-1]) / 4 - jnp.sum(x, axis=3, keepdims=True),
    "shapes": lambda x: jnp.concatenate(
        [jnp.pad(x[:, ::2, 1:], ((0, 0), (1, 2), (0, 0), (0, 0))), jnp.flip(x, 1)[:, :, :5]], 1
    ).transpose(0, 2, 3, 1),
    "tiles": lambda x: jnp.tile(x, (1, 2, 1, 1))[:, 1:] - 2 * jnp.tile(x[:, :1], (1, 11, 1, 1)),
    "places beyond": lambda x: x.at[:, jnp.asarray([0, 9, 2])].get(mode="fill", fill_value=0.7),
    "parts": lambda x: jnp.where(
        jnp.arange(6)[None, :, None, None] % 2 == 0,
        jnp.split(x[..., jnp.asarray([2, 0, 3, 3])], 2, axis=3)[1],
        -x[..., :2],
    ),
    "loop": lambda x: jax.lax.scan(
        lambda carry, w: (nn.relu(carry * w[None, None, None]), carry - w[None, None, None]),
        x,
        jnp.linspace(-1, 1, 12).reshape(3, 4),
        reverse=True,
    )[1][1],
    # The sum in front of the second rectifier is used again behind it.
    "activation first": lambda x: residual(residual(from_module(Conv(4, (3, 3)))(x))),
    "batched loop": lambda x: jax.vmap(lambda row: nn.relu(row - 0.5) @ jnp.ones((4, 2)))(x),
}


def head(values):
    """Returns logits of a layer's rectified values."""
    values = values.reshape(len(values), -1)
    values = nn.relu(values - jnp.mean(values, axis=1, keepdims=True))
    return values @ normal((values.shape[1], 4))


# Each has a sibling above made of the same parts, and a program of its own.
VARIANTS = (
    "grouped conv",
    "rectifiers by hand",
    "global max",
    "larger of two",
    "clipped from below",
    "kernel max pool",
    "shapes",
    "parts",
    "activation first",
    "batched loop",
)


@pytest.mark.quick_one_in(9)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in VARIANTS else n for n in LAYERS]
)
def test_bounds_hold(name, near):
    """On ten thousand images of a ball, half of them its corners."""
    layer = LAYERS[name]
    image = np.random.default_rng(2).uniform(EPS, 1 - EPS, SHAPE).astype(np.float32)

    @jax.jit
    def run(image, samples):
        values = layer(samples)
        return interval_bounds(layer, image - EPS, image + EPS), values, head(values)

    (lower, upper), values, logits = run(image[None], near(image, EPS, 10_000))
    margins = crown_margins(lambda x: head(layer(x)), image[None], [1], EPS)
    # Up to the rounding of sums of some hundred values of size one.
    assert jnp.all((lower - 1e-4 <= values) & (values <= upper + 1e-4))
    assert jnp.all(margins <= logits[:, 1:2] - logits + 1e-4)
    assert margins[0, 1] == 0
    # Nor are the bounds far from what the samples reach.
    width = jnp.max(upper - lower)
    assert 0 < width < 4 * jnp.max(jnp.max(values, axis=0) - jnp.min(values, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_margins_of_ensembles_hold(strategy, random_network, near):
    """Of the mean of members that run one after another, or at once."""
    network = EnsembleConfig(CNNConfig((4, 4), (1, 2), max_pool_after=(1,)), 2, strategy)
    shape, eps = (8, 8, 3), 0.01
    logits_fn = random_network(network, shape)
    image = np.random.default_rng(2).uniform(eps, 1 - eps, shape).astype(np.float32)
    logits = jax.jit(logits_fn)(near(image, eps, 1000))
    margins = crown_margins(logits_fn, image[None], [1], eps)
    assert jnp.all(margins <= logits[:, 1:2] - logits + 1e-4)
    assert margins[0, 1] == 0


def test_what_terms_share_is_moved_once():
    """Of forty squares there are 2^40 ways to the images; they are refused at once."""

    def squares(images):
        y = jnp.sin(images)
        for _ in range(40):
            y = y * y + y
        return y.reshape(len(images), -1)

    with pytest.raises(ValueError, match="Expected the operation 'sin'"):
        interval_bounds(squares, jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1)))
