"""Random networks of all operations on random boxes: no margin in a box is below its bound.

A network's number says what it is made of, its weights are arguments: boxes share its programs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.tree_util import Partial

from robust_jax.certify import TOLERANCE, SlopeAscent, crown_margins, interval_bounds, zonotope

SHAPE, NUM_CLASSES, NUM_IMAGES = (6, 6, 2), 4, 4
ACTIVATIONS = {
    "relu": nn.relu,
    "silu": nn.silu,
    "leaky relu": lambda x: nn.leaky_relu(x, 0.2),
    "tanh": jnp.tanh,
    "relu6": lambda x: nn.relu6(4 * x) / 4,
    "gelu": nn.gelu,
    "abs": jnp.abs,
    "sigmoid": lambda x: 2 * nn.sigmoid(x),
    "softplus": jax.checkpoint(nn.softplus),
    "larger of two": lambda x: jnp.maximum(x, 0.3 - x[..., ::-1]),
    "elu": nn.elu,
    "one side": lambda x: jnp.minimum(lax.stop_gradient(x), 0.4),
    "exact gelu": lambda x: nn.gelu(x, approximate=False),
    "clip": lambda x: jnp.clip(x, -0.4, 0.7),
}
POOLS = {
    "none": lambda x: x,
    "max": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    "average": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "SAME") / 4,
    "overlapping": lambda x: nn.max_pool(x, (3, 2), (2, 1), "SAME"),
}
FLATS = {
    "all": lambda x: x.reshape(len(x), -1),
    "mean": lambda x: jnp.mean(x, axis=(1, 2)),
    "max": lambda x: jnp.max(x, axis=(1, 2)),
}
HEADS = {"logits": lambda x: x, "softmax": nn.softmax, "log softmax": nn.log_softmax}


class Network:
    """A function of weights and images [b h w c], of three layers behind each other."""

    def __init__(self, number: int) -> None:
        rng, names = np.random.default_rng(number), list(ACTIVATIONS)
        # Every activation comes in turn, beside others each time around.
        places = [2 * number % len(names), (2 * number + 1) % len(names), rng.integers(len(names))]
        self.activations = [ACTIVATIONS[names[place]] for place in places]
        self.pool = list(POOLS.values())[number % len(POOLS)]
        self.flat = list(FLATS.values())[rng.integers(len(FLATS))]
        self.head = list(HEADS.values())[number // 2 % len(HEADS)]
        self.kernel, self.stride = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        self.padding = ("SAME", "VALID")[rng.integers(2)]
        self.is_residual = bool(number % 2)
        self.num_members = (1, 1, 2)[number % 3]
        self.is_mean = bool(rng.integers(2))
        features = jax.eval_shape(
            lambda x: self.features(self.kernels(np.random.default_rng(0)), x),
            jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32),
        ).shape[1]
        self.sizes = (features, 6, NUM_CLASSES)

    def kernels(self, rng):
        return [normal(rng, self.kernel, self.kernel, 2, 3), normal(rng, 3, 3, 3, 3)]

    def weights(self, rng):
        """Returns random weights of each member."""
        of_members = [
            (
                self.kernels(rng),
                [normal(rng, *self.sizes[i : i + 2]) for i in (0, 1)],
                [0.3 * normal(rng, 6), 0.3 * normal(rng, NUM_CLASSES)],
            )
            for _ in range(self.num_members)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_members)

    def features(self, kernels, x):
        x = self.activations[0](convolved(x - 0.5, kernels[0], self.stride, self.padding))
        y = convolved(self.pool(x), kernels[1], 1, "SAME")
        y = self.pool(x) + y if self.is_residual else y
        return self.flat(self.activations[1](y))

    def member(self, images, weights):
        kernels, matrices, biases = weights
        x = self.features(kernels, images) @ matrices[0] + biases[0][None]
        return self.activations[2](x) @ matrices[1] + biases[1][None]

    def __call__(self, weights, images):
        """Returns logits [b c], or of each member [b m c]."""
        if self.num_members == 1:
            return self.head(self.member(images, jax.tree.map(lambda leaf: leaf[0], weights)))
        logits = jax.vmap(functools.partial(self.member, images))(weights)
        return self.head(jnp.mean(logits, 0) if self.is_mean else jnp.moveaxis(logits, 0, 1))


def normal(rng, *shape):
    scale = np.sqrt(2 / max(1, np.prod(shape[:-1])))
    return (scale * rng.normal(size=shape)).astype(np.float32)


def convolved(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def margins_of(function, images, labels):
    logits = function(images)
    own = jnp.take_along_axis(
        logits, jnp.broadcast_to(labels[:, None, None], (len(labels), logits.shape[1], 1))
        if logits.ndim == 3 else labels[:, None], axis=-1,
    )  # fmt: skip
    return own - logits


@functools.partial(jax.jit, static_argnames=("network", "norm"))
def attacked(network, weights, images, labels, eps, draws, norm):
    """Returns the smallest margins found in a ball, the largest logits, and interval margins.

    Of uniform images, and for each margin of the corners that its gradients at the centre and at
    one of these point to.
    """
    function = Partial(network, weights)
    lower, upper = jnp.clip(images - eps, 0, 1), jnp.clip(images + eps, 0, 1)

    def inside(x):
        """Returns points of the box, in L2 those of the ball on the way to them."""
        if norm == "linf":
            return x
        change = x - images[None]
        length = jnp.sqrt(jnp.sum(jnp.square(change), axis=(2, 3, 4), keepdims=True))
        return images[None] + change * jnp.minimum(1, eps / jnp.maximum(length, 1e-12))

    near = inside(lower[None] + draws * (upper - lower)[None])
    found = jnp.min(lax.map(lambda x: margins_of(function, x, labels), near), axis=0)
    count = found[0].size

    def one(place, x):
        gradient = jax.grad(
            lambda x: jnp.sum(margins_of(function, x, labels).reshape(len(x), count)[:, place])
        )(x)
        if norm == "linf":
            return jnp.where(gradient > 0, lower, upper)
        length = jnp.sqrt(jnp.sum(jnp.square(gradient), axis=(1, 2, 3), keepdims=True))
        return jnp.clip(images - eps * gradient / jnp.maximum(length, 1e-12), 0, 1)

    x = images
    for _ in range(2):
        corners = inside(jax.vmap(one, in_axes=(0, None))(jnp.arange(count), x))
        values = lax.map(lambda x: margins_of(function, x, labels), corners)
        found = jnp.minimum(found, jnp.min(values, axis=0))
        x = near[0]
    bounds = interval_bounds(function, lower, upper)
    own = jnp.zeros_like(bounds.lower) + jnp.take_along_axis(
        bounds.lower,
        jnp.broadcast_to(
            labels.reshape(-1, *[1] * (bounds.lower.ndim - 1)), (*bounds.lower.shape[:-1], 1)
        ),
        axis=-1,
    )
    interval = jnp.where(found == 0, 0, own - bounds.upper)
    return found, jnp.max(jnp.abs(function(images))), interval


def check(number, num_weights, ascent=None, norm="linf"):
    """Compares bounds with what is found in NUM_IMAGES boxes of each of some weights."""
    network, rng = Network(number), np.random.default_rng(number)
    share = []
    for _ in range(num_weights):
        weights = network.weights(rng)
        images = rng.uniform(size=(NUM_IMAGES, *SHAPE)).astype(np.float32)
        labels = jnp.asarray(rng.integers(NUM_CLASSES, size=NUM_IMAGES), jnp.int32)
        eps = np.float32(10 ** rng.uniform(-4, -0.5))
        draws = jnp.asarray(rng.uniform(size=(32, *images.shape)), jnp.float32)
        found, size, interval = attacked(network, weights, images, labels, eps, draws, norm)
        tolerance = TOLERANCE * np.maximum(1, size)
        function = Partial(network, weights)
        margins = crown_margins(function, images, labels, eps, norm=norm, ascent=ascent)
        assert np.all(margins <= found + tolerance), (number, float(np.max(margins - found)))
        assert np.all(interval <= found + tolerance)
        assert np.all(margins >= interval - tolerance)
        widths = [np.maximum(0, np.asarray(found - each)) for each in (margins, interval)]
        share.append(np.sum(widths[0]) / np.sum(widths[1]))
    return share


@pytest.fixture(autouse=True)
def zonotopes_from_the_start(monkeypatch):
    """Networks this small would have none."""
    monkeypatch.setattr(zonotope, "PATIENCE", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_no_margin_is_below_its_bound(number):
    """Of 288 boxes; bounds are computed in float32, of logits of size one TOLERANCE may be off."""
    share = check(number, num_weights=18)
    # CROWN's distance to what is found is a part of the intervals'.
    assert np.median(share) < 0.7


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(100))
def test_no_margin_of_many_is_below_its_bound(number):
    """Of 10,000 boxes, of 1,200 with slopes that are chosen, and of 1,200 balls in L2."""
    check(number, num_weights=25)
    check(number + 100, num_weights=3, ascent=SlopeAscent(num_steps=3))
    check(number + 200, num_weights=3, norm="l2")
