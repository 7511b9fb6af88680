"""Zonotopes: what they say of a network's values holds, and changes no margin but its price."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.tree_util import Partial

from robust_jax.certify import crown, crown_margins, smallest_margin, zonotope
from robust_jax.certify.intervals import Bounds
from robust_jax.certify.local import Local, applied
from robust_jax.certify.network import Input, forward
from robust_jax.certify.relaxation import Relaxed
from robust_jax.certify.rows import Ball
from robust_jax.models import CNNConfig, EnsembleConfig

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride", "padding"),
    [
        ((16, 16), (4, 4), 3, 1, (1, 1)),  # by blocks of columns
        ((10, 8), (2, 3), 3, 1, (2, 0)),
        ((12, 12), (2, 4), 2, 1, (0, 1)),
        ((9, 7), (3, 5), 3, 2, (1, 1)),
        ((7, 7), (2, 3), 1, 3, (0, 0)),
    ],
)
def test_convolutions_are_jaxs(size, channels, kernel, stride, padding):
    weights, images = normal(kernel, kernel, *channels), normal(5, *size, channels[0])
    expected = lax.conv_general_dilated(
        images, weights, (stride, stride), [padding] * 2, precision="highest",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    local = Local(weights, (stride, stride), (padding[0],) * 2)
    found = applied(local, images, expected.shape[1:3])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    if stride == 1:
        reached = applied(local, images)
        first = kernel - 1 - padding[0]
        cut = reached[:, first:, first:][:, : expected.shape[1], : expected.shape[2]]
        inside = np.asarray(expected)[:, : cut.shape[1], : cut.shape[2]]
        np.testing.assert_allclose(cut, inside, atol=2e-5)


def leaky(weights, images):
    """Returns logits of a block with an average pool, a leaky rectifier and a dense layer."""
    kernels, matrix = weights
    x = nn.leaky_relu(convolved(images - 0.5, kernels[0]), 0.2)
    x = nn.relu(x + convolved(x, kernels[1]))
    x = jnp.abs(lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"))
    return x.reshape(len(x), -1) @ matrix


def residual(weights, images):
    """Returns logits of a network of two residual blocks, one of which strides."""
    first, *kernels, matrix = weights
    x = nn.relu(convolved(images, first))
    x = nn.relu(x + convolved(nn.relu(convolved(x, kernels[0])), kernels[1]))
    y = convolved(nn.relu(convolved(x, kernels[2], 2)), kernels[3])
    x = nn.relu(y + convolved(x, kernels[4], 2))
    return jnp.mean(x, axis=(1, 2)) @ matrix


def convolved(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def branching(weights, images):
    """Returns logits, rectified, of branches that are begun before any of them is rectified."""
    first, second, skip, matrix = weights
    x, y, z = (convolved(images, kernel) for kernel in (first, second, skip))
    x = nn.relu(convolved(nn.relu(x), second[..., :2, :]) + nn.relu(y) + z)
    return nn.relu(x.reshape(len(x), -1) @ matrix)


def dense(weights, images):
    """Returns logits of three dense layers."""
    x = images
    for matrix in weights[:-1]:
        x = nn.relu(x @ matrix)
    return x @ weights[-1]


# fmt: off
CASES = {
    "residual": (
        Partial(residual, (
            normal(3, 3, 2, 3), 0.3 * normal(3, 3, 3, 3), 0.3 * normal(3, 3, 3, 3),
            0.3 * normal(3, 3, 3, 4), 0.3 * normal(3, 3, 4, 4), normal(1, 1, 3, 4), normal(4, 3),
        )),
        (8, 8, 2),
    ),
    "branching": (
        Partial(branching, (
            normal(3, 3, 2, 2), normal(3, 3, 2, 3), normal(1, 1, 2, 3), normal(48, 3),
        )),
        (4, 4, 2),
    ),
    "two of them": (
        EnsembleConfig(CNNConfig(widths=(3, 4), strides=(2, 1), hidden=(8,)), 2), (8, 8, 3),
    ),
    "leaky": (Partial(leaky, ((normal(3, 3, 2, 3), normal(3, 3, 3, 3)), normal(27, 4))), (5, 6, 2)),
    "dense": (Partial(dense, (normal(6, 9), normal(9, 7), normal(7, 3))), (6,)),
}
# fmt: on


# One of the cases is quick.
MARKS = dict.fromkeys(("two of them", "leaky", "dense"), pytest.mark.nightly)
MARKS["residual"] = pytest.mark.slow


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in CASES])
def case(request, random_network):
    """A network's logits and images that it is bounded around."""
    network, shape = CASES[request.param]
    function = network if isinstance(network, Partial) else random_network(network, shape)
    images = jnp.asarray(RNG.uniform(size=(3, *shape)), jnp.float32)
    return function, images.at[0].set(jnp.round(images[0])), 0.01


def ranges(function, images, eps, monkeypatch):
    """Returns the values at points of boxes, and what zonotopes say of them before any row."""
    monkeypatch.setattr(zonotope, "PATIENCE", 0.0)
    monkeypatch.setattr(zonotope, "AT_ONCE", 32)
    network = crown.prepared(function, (1, *images.shape[1:]))
    box = Bounds(*(jnp.clip(images + side * eps, 0, 1)[:, None] for side in (-1, 1)))
    said, tightened = {}, zonotope.Zonotope.tightened

    def told(self, number, node):
        said[number] = tightened(self, number, node)
        return said[number]

    monkeypatch.setattr(zonotope.Zonotope, "tightened", told)
    crown.relax(Relaxed.of(network, box), 64)
    points = jnp.asarray(RNG.uniform(size=(64, *box.lower.shape)), jnp.float32)
    points = jnp.where(points < 0.25, 0, jnp.where(points > 0.75, 1, points))
    points = box.lower[None] + points * (box.upper - box.lower)[None]
    values = {0: points}
    for number, node in network.nodes.items():
        if not isinstance(node, Input):
            above = [values[parent] for parent in network.parents[number]]
            of_one = jax.vmap(jax.vmap(lambda *each, node=node: forward(node, each)))
            values[number] = of_one(*above)
    return said, values


@pytest.mark.slow
def test_no_value_is_outside(case, monkeypatch):
    said, values = ranges(*case, monkeypatch)
    assert said
    for number, bounds in said.items():
        size = 1e-5 * (1 + jnp.max(jnp.abs(values[number])))
        assert np.all(values[number] >= bounds.lower[None] - size)
        assert np.all(values[number] <= bounds.upper[None] + size)


@pytest.mark.slow
def test_no_margin_changes(case, monkeypatch):
    function, images, eps = case
    labels = jnp.argmax(function(images), axis=-1)
    asked = []
    rows = crown.lower_bounds

    def counted(relaxed, number, functions, *others):
        asked.append(len(functions.image))
        return rows(relaxed, number, functions, *others)

    monkeypatch.setattr(crown, "lower_bounds", counted)
    monkeypatch.setattr(zonotope, "PATIENCE", np.inf)
    expected = crown_margins(function, images, labels, eps)
    without, asked[:] = sum(asked), []
    monkeypatch.setattr(zonotope, "PATIENCE", 0.0)
    found = crown_margins(function, images, labels, eps)
    assert sum(asked) <= without
    # Now and then a range decides what no row does.
    assert np.all(found >= expected - 1e-5 * (1 + np.abs(expected)))
    alone = [
        crown_margins(function, images[i : i + 1], labels[i : i + 1], eps)[0]
        for i in range(len(images))
    ]
    np.testing.assert_allclose(np.stack(alone), found, rtol=1e-5, atol=1e-5)


# Many more values than its images have.
DEEP = Partial(residual, (
    normal(3, 3, 1, 8), 0.2 * normal(3, 3, 8, 8), 0.2 * normal(3, 3, 8, 8),
    0.2 * normal(3, 3, 8, 8), 0.2 * normal(3, 3, 8, 8), normal(1, 1, 8, 8), normal(8, 3),
))  # fmt: skip


@pytest.mark.slow
def test_they_begin_where_rows_are_dear(monkeypatch):
    images = jnp.asarray(RNG.uniform(size=(2, 6, 6, 1)), jnp.float32)
    labels = jnp.argmax(DEEP(images), axis=-1)
    begun, begin = [], zonotope.Zonotope._begin
    monkeypatch.setattr(zonotope.Zonotope, "_begin", lambda z: (begun.append(z), begin(z)))
    crown_margins(DEEP, images, labels, 0.0)
    assert begun == []  # nothing is open
    margins = crown_margins(DEEP, images, labels, 0.01)
    assert len(begun) == 1
    assert not begun[0]._loose
    assert np.all(np.isfinite(margins))
    begun.clear()
    crown_margins(DEEP, images, labels, 0.5)
    assert len(begun) == 1  # nearly all is open: given up, and for good
    assert begun[0]._loose
    assert not begun[0]._parts
    monkeypatch.setattr(zonotope, "MOST_BYTES", 1000)
    begun.clear()
    without = crown_margins(DEEP, images, labels, 0.01)
    assert begun == []
    np.testing.assert_allclose(smallest_margin(without, labels), smallest_margin(margins, labels),
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_balls_in_l2_and_smooth_networks_have_none():
    network = crown.prepared(DEEP, (1, 6, 6, 1))
    box = Bounds(jnp.zeros((1, 1, 6, 6, 1)), jnp.ones((1, 1, 6, 6, 1)))
    ball = Ball(box.lower, jnp.float32(1))
    assert zonotope.Zonotope(Relaxed.of(network, box, ball))._last == -1
    smooth = crown.prepared(Partial(lambda x: jnp.tanh(x.reshape(1, -1))), (1, 6, 6, 1))
    assert zonotope.Zonotope(Relaxed.of(smooth, box))._last == -1
    assert zonotope.Zonotope(Relaxed.of(network, box))._last > 0
