"""Rows as windows of images: what is recognised as a convolution, and the bounds of whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from robust_jax.certify import crown_margins, rows
from robust_jax.certify.local import Local, applied, recognise, transposed
from robust_jax.certify.network import Affine, prepare
from robust_jax.models import CNNConfig, EnsembleConfig, ResNetConfig
from tests.convolutions import by_sums

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def convolution(kernel, stride, padding):
    """Returns a convolution of NHWC images."""

    def function(x):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [padding] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )  # fmt: skip

    return function


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride", "padding"),
    [
        ((32, 32), (4, 4), 3, 1, (1, 1)),  # by blocks of columns
        pytest.param((16, 16), (8, 3), 3, 1, (1, 1), marks=pytest.mark.slow),
        pytest.param((8, 8), (16, 16), 3, 1, (1, 1), marks=pytest.mark.slow),
        ((10, 8), (2, 3), 3, 1, (2, 0)),
        ((12, 12), (2, 4), 2, 1, (0, 1)),
        ((32, 32), (3, 8), 3, 2, (1, 1)),
        pytest.param((16, 16), (4, 8), 1, 2, (0, 0), marks=pytest.mark.slow),
        ((9, 7), (3, 5), 3, 2, (1, 1)),
        ((10, 12), (2, 3), 5, 3, (2, 1)),
        pytest.param((10, 12), (2, 3), 4, 2, (0, 0), marks=pytest.mark.slow),
        ((7, 7), (2, 3), 1, 3, (0, 0)),
    ],
)
def test_transposed_convolutions_are_jaxs(size, channels, kernel, stride, padding):
    function = convolution(normal(kernel, kernel, *channels), stride, padding)
    image = jax.ShapeDtypeStruct((1, *size, channels[0]), jnp.float32)
    found = recognise(jax.make_jaxpr(function)(image), 0)
    assert (found.strides, found.padding) == ((stride, stride), (padding[0],) * 2)
    value = jax.eval_shape(function, image)
    coefficients = normal(5, *value.shape[1:])
    (expected,) = jax.vmap(jax.linear_transpose(lambda x: function(x), image))(
        coefficients[:, None]
    )
    expected = np.asarray(expected[:, 0])
    np.testing.assert_allclose(transposed(found, coefficients, size), expected, atol=2e-5)
    # Everything that the whole value's window reaches, cut to the image.
    reached = np.pad(transposed(found, coefficients), ((0, 0), (0, 9), (0, 9), (0, 0)))
    cut = reached[:, padding[0] :, padding[0] :][:, : size[0], : size[1]]
    np.testing.assert_allclose(cut, expected, atol=2e-5)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    ("padding", "size"), [((5, 2), (9, 12)), ((5, 4), (8, 9)), ((-1, 1), (3, 9)), ((0, 0), (7, 10))]
)
def test_convolutions_read_nothing_beyond_their_rows(padding, size):
    """XLA:CPU does, of a padding that is negative on one side alone."""
    kernel, images, rows = normal(3, 3, 3, 4), normal(2, 6, 8, 3), normal(2, *size, 4)
    local = Local(kernel, padding=padding)
    value = jax.jit(lambda images: applied(local, images, size))
    transpose = jax.jit(lambda rows: transposed(local, rows, (6, 8)))

    pads = [(low, n + 2 - low - there) for low, n, there in zip(padding, size, (6, 8), strict=True)]
    expected, pull = jax.vjp(lambda images: by_sums(images, kernel, pads), images)
    for _ in range(4):  # what lies beyond differs from call to call
        np.testing.assert_allclose(value(images), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(transpose(rows), *pull(rows), rtol=1e-4, atol=1e-5)


KERNEL = normal(3, 3, 2, 2)


@pytest.mark.parametrize(
    ("function", "is_local"),
    [
        (lambda x: x, True),
        (lambda x: -2 * x, True),
        (lambda x: x * jnp.asarray([2.0, -1.0])[None, None, None], True),
        (lambda x: 3 * convolution(KERNEL, 2, (1, 1))(x / 2), True),
        (lambda x: x - convolution(KERNEL, 1, (1, 1))(x), False),  # two convolutions of one value
        (lambda x: convolution(KERNEL, 1, (1, 1))(convolution(KERNEL, 1, (1, 1))(x)), False),
        (lambda x: x * normal(1, 6, 6, 1), False),
        (lambda x: jnp.flip(x, 1), False),
        (lambda x: jnp.transpose(x, (0, 2, 1, 3)), False),
        (lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))), False),
        (lambda x: x[:, ::2, ::2], False),
        (lambda x: jnp.sum(x, axis=(1, 2)), False),
    ],
)
def test_a_convolution_is_recognised_and_nothing_else(function, is_local):
    image = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
    found = recognise(jax.make_jaxpr(function)(image), 0)
    assert (found is not None) == is_local
    if found is not None:
        coefficients = normal(3, *jax.eval_shape(function, image).shape[1:])
        (expected,) = jax.vmap(jax.linear_transpose(lambda x: function(x), image))(
            coefficients[:, None]
        )
        again = transposed(found, coefficients, (6, 6))
        np.testing.assert_allclose(again, expected[:, 0], atol=1e-5)


def test_a_convolution_of_two_values_is_recognised_of_each():
    image = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
    closed = jax.make_jaxpr(lambda x, y: x - convolution(KERNEL, 1, (1, 1))(y))(image, image)
    first, second = (recognise(closed, number) for number in (0, 1))
    assert first == Local(None)
    np.testing.assert_allclose(second.kernel, -KERNEL, atol=1e-6)


@pytest.mark.slow
def test_all_layers_of_the_networks_are_convolutions(random_network):
    function = random_network(ResNetConfig(depth=18, width_multiplier=1 / 16), (32, 32, 3))
    nodes = prepare(function, (1, 32, 32, 3)).nodes.values()
    of_images = [node for node in nodes if isinstance(node, Affine) and len(node.shape) == 4]
    assert len(of_images) == 17
    assert all(local is not None for node in of_images for local in node.local)


def activation_first(x):
    """Returns logits of a block whose sum is used before and behind its rectifier."""
    x = convolution(KERNELS[0], 1, (1, 1))(x)
    y = convolution(KERNELS[1], 2, (1, 1))(nn.relu(x - 0.1))
    x = convolution(KERNELS[2], 2, (0, 0))(x) + convolution(KERNELS[3], 1, (1, 1))(nn.relu(y))
    x = nn.relu(x + convolution(KERNELS[3], 1, (2, 0))(nn.relu(x)))
    return x.reshape(len(x), -1) @ KERNELS[4]


KERNELS = [
    normal(3, 3, 3, 4) / 3, normal(3, 3, 4, 4) / 4, normal(1, 1, 4, 4) / 2, normal(3, 3, 4, 4) / 6,
    normal(144, 4) / 12,
]  # fmt: skip


@pytest.mark.parametrize(
    "network",
    [
        pytest.param("activation first", marks=pytest.mark.nightly),
        pytest.param(CNNConfig((4, 8, 8), (1, 2, 1), max_pool_after=(1,)), marks=pytest.mark.slow),
        pytest.param(
            EnsembleConfig(ResNetConfig(blocks=(1, 1), widths=(4, 8)), 2), marks=pytest.mark.nightly
        ),
    ],
)
def test_windows_change_no_bound(network, random_network, monkeypatch):
    function = activation_first
    if network != "activation first":
        function = random_network(network, (12, 12, 3), num_classes=4)
    images = RNG.uniform(0.1, 0.9, (3, 12, 12, 3)).astype(np.float32)
    widths = []

    def watched(self, shape):
        widths.append(self.size)
        return fits(self, shape)

    fits = rows.Window.fits
    monkeypatch.setattr(rows.Window, "fits", watched)
    found = crown_margins(function, images, [0, 1, 2], 0.01)
    assert max(widths)[0] >= 3
    monkeypatch.setattr(rows.Window, "fits", lambda self, shape: False)
    jax.clear_caches()
    whole = crown_margins(function, images, [0, 1, 2], 0.01)
    # The same sums in another order, of coefficients of size one.
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)
    assert jnp.any(whole != 0)
