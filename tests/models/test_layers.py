"""The convolution against lax's own, and the conventions of the frameworks."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import BatchNorm, Conv, Dense, convolution, default_layers
from robust_jax.models.layers import relu
from tests.convolutions import by_sums

MODE = {"train": False, "deterministic": True}


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize(
    "channels", [3, pytest.param(6, marks=pytest.mark.slow)]
)  # an image's, whose gradient has a path of its own
@pytest.mark.parametrize(
    ("size", "kernel_size", "strides", "padding", "input_dilation", "kernel_dilation"),
    [
        ((7, 6), (3, 3), (1, 1), "symmetric", (1, 1), (1, 1)),
        ((8, 7), (3, 3), (2, 2), "symmetric", (1, 1), (1, 1)),
        ((8, 8), (3, 3), (2, 2), "SAME", (1, 1), (1, 1)),
        ((9, 7), (1, 1), (2, 2), "symmetric", (1, 1), (1, 1)),
        pytest.param((8, 9), (2, 3), (1, 2), "VALID", (1, 1), (2, 1), marks=pytest.mark.slow),
        pytest.param(
            (9, 9), (3, 2), (3, 2), ((2, 0), (1, 3)), (1, 1), (2, 3), marks=pytest.mark.slow
        ),
        ((4, 5), (3, 3), (1, 2), ((1, 2), (0, 1)), (2, 3), (1, 2)),
        # Padding wider than the kernel's reach gives a negative padding in the backward pass.
        ((5, 5), (2, 2), (1, 1), ((3, 2), (-1, 4)), (1, 1), (1, 1)),
        # The last row and column are never touched: their gradient is zero.
        ((8, 6), (3, 3), (3, 4), ((0, 0), (0, 0)), (1, 1), (1, 1)),
    ],
)
def test_convolution_and_its_derivatives_are_those_of_lax(
    size, kernel_size, strides, padding, input_dilation, kernel_dilation, channels
):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (2, *size, channels))
    kernel = jax.random.normal(keys[1], (*kernel_size, channels, 4))
    directions = jax.random.normal(keys[2], x.shape), jax.random.normal(keys[3], kernel.shape)

    @functools.partial(jax.jit, static_argnames="implementation")
    def derivatives(x, kernel, directions, *, implementation):
        def value(x, kernel):
            return convolution(
                x,
                kernel,
                strides=strides,
                padding=padding,
                input_dilation=input_dilation,
                kernel_dilation=kernel_dilation,
                implementation=implementation,
            )

        def first(x, kernel):
            # Cubed, so that the cotangents depend on the output and no second derivative is zero.
            return jax.grad(lambda x, kernel: jnp.sum(value(x, kernel) ** 3), (0, 1))(x, kernel)

        def along(x, kernel):
            gradients = first(x, kernel)
            return sum(jnp.sum(g * d) for g, d in zip(gradients, directions, strict=True))

        return value(x, kernel), first(x, kernel), jax.grad(along, (0, 1))(x, kernel)

    ours = derivatives(x, kernel, directions, implementation="self_adjoint")
    theirs = derivatives(x, kernel, directions, implementation="lax")

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * float(jnp.max(jnp.abs(b))))

    jax.tree.map(close, ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1)])
def test_gradients_in_bfloat16_are_summed_in_float32(kernel_size):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 8, 8, 3), jnp.bfloat16)
    kernel = jax.random.normal(keys[1], (*kernel_size, 3, 64), jnp.bfloat16)
    cotangent = jax.random.normal(keys[2], (2, 8, 8, 64), jnp.bfloat16)

    def gradients(dtype):
        operands = x.astype(dtype), kernel.astype(dtype)
        _, pull = jax.vjp(lambda *a: convolution(*a, implementation="self_adjoint"), *operands)
        return pull(cotangent.astype(dtype))

    for found, exact in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        assert found.dtype == jnp.bfloat16
        # Rounded once, to 8 bits: each product rounded would be off two to three times as far.
        apart = np.asarray(found, np.float32) - np.asarray(exact)
        assert np.sqrt(np.mean(apart**2)) < 2.5e-3 * np.sqrt(np.mean(np.asarray(exact) ** 2))


def test_convolution_is_self_adjoint_on_the_cpu_unless_forced():
    def primitives(implementation):
        x, kernel = jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1))
        jaxpr = jax.make_jaxpr(
            lambda x, kernel: convolution(x, kernel, implementation=implementation)
        )(x, kernel)
        return {equation.primitive.name for equation in jaxpr.eqns}

    assert primitives("auto") == primitives("self_adjoint")
    assert primitives("lax") == {"conv_general_dilated"}
    assert "conv_general_dilated" not in primitives("auto")


def test_a_strided_convolutions_gradient_multiplies_no_zeros():
    """Neither of input nor of kernel: the cotangent is not dilated as an input."""

    def slopes(x, kernel):
        return jax.grad(lambda *a: jnp.sum(convolution(*a, strides=(2, 2)) ** 2), (0, 1))(x, kernel)

    x, kernel = jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 8, 4))
    text = jax.jit(slopes).lower(x, kernel).as_text()
    assert re.findall(r"lhs_dilate = (\[.*?\])", text) == 3 * ["[1, 1]"]


def test_default_layers_pass_the_implementation_on():
    conv = default_layers(implementation="lax").conv(features=2, kernel_size=(3, 3), name="conv1")
    assert conv.implementation == "lax"


@pytest.mark.quick_one_in(6)
@pytest.mark.parametrize("pads", [((3, 1), (3, 3)), ((1, 3), (0, 3)), ((3, 3), (1, 4))])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_nothing_beyond_the_input_is_read(pads, dilation):
    """Where padding is wider than the kernel's reach: XLA:CPU's own gradients are wrong there."""
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (2, 4, 7, 5)), jax.random.normal(keys[1], (3, 3, 5, 1))

    def loss(x, kernel):
        fields = {"padding": pads, "input_dilation": dilation, "implementation": "self_adjoint"}
        return jnp.sum(jnp.sin(convolution(x, kernel, **fields)))

    def summed(x, kernel):
        return jnp.sum(jnp.sin(by_sums(x, kernel, pads, dilation=dilation)))

    expected = jax.grad(summed, (0, 1))(x, kernel)
    for _ in range(4):  # what is read there differs from call to call
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            jax.grad(loss, (0, 1))(x, kernel),
            expected,
        )


@pytest.mark.parametrize("padding", ["symmetric", ((2, 2), (2, 2))])
@pytest.mark.parametrize("channels", [1, 25])
def test_no_second_gradient_leaves_the_fast_path(channels, padding):
    """XLA exchanges operands whose kernel is the larger, by a reversed window, which is slow."""

    def penalty(kernel, x):
        def output(x):
            fields = {"strides": (2, 2), "padding": padding, "implementation": "self_adjoint"}
            return jnp.sum(jnp.tanh(convolution(x, kernel, **fields)))

        return jnp.sum(jax.grad(output)(x) ** 2)

    x, kernel = jnp.ones((8, 14, 14, channels)), jnp.ones((3, 3, channels, 49))
    gradients = jax.jit(jax.grad(penalty, (0, 1))).lower(kernel, x)
    assert "rhs_reversal" not in gradients.compile().as_text()


@pytest.mark.parametrize(("framework", "rows"), [("torch", [0, 2, 4, 6]), ("keras", [1, 3, 5, 7])])
def test_strided_padding_of_each_framework(framework, rows):
    """A kernel that is one in its centre reads the pixels under it."""
    conv = Conv(features=1, kernel_size=(3, 3), strides=2, framework=framework)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1, 0, 0].set(1.0)
    x = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    output = conv.apply({"params": {"kernel": kernel}}, x, **MODE)
    np.testing.assert_array_equal(output[0, :, 0, 0], np.array(rows, np.float32))


@pytest.mark.slow
def test_initial_scales_of_both_frameworks():
    x = jnp.zeros((1, 4, 4, 64))

    def init(module, x):
        return module.init(jax.random.key(0), x, **MODE)["params"]

    torch = init(Conv(features=256, kernel_size=(3, 3), use_bias=True), x)
    np.testing.assert_allclose(np.std(torch["kernel"]), np.sqrt(2 / (9 * 256)), rtol=0.02)
    bound = 1 / np.sqrt(9 * 64)
    assert 0.9 * bound < np.max(np.abs(torch["bias"])) <= bound
    keras = init(Conv(features=256, kernel_size=(3, 3), use_bias=True, framework="keras"), x)
    np.testing.assert_allclose(np.std(keras["kernel"]), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert not np.any(keras["bias"])
    default = Conv(features=256, kernel_size=(3, 3), framework="torch_default")
    kernel = init(default, x)["kernel"]
    assert 0.99 * bound < np.max(np.abs(kernel)) <= bound
    np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.02)
    linear = init(Dense(features=100), jnp.zeros((1, 400)))
    for leaf in linear.values():
        assert 0.9 / 20 < np.max(np.abs(leaf)) <= 1 / 20
    np.testing.assert_allclose(np.std(linear["kernel"]), 1 / 20 / np.sqrt(3), rtol=0.02)
    assert not np.any(init(Dense(features=4, framework="keras"), jnp.zeros((1, 8)))["bias"])


@pytest.mark.parametrize(
    ("framework", "momentum", "epsilon"),
    [("torch", 0.9, 1e-5), ("torch_default", 0.9, 1e-5), ("keras", 0.99, 1e-3)],
)
def test_batch_norm_by_hand(framework, momentum, epsilon):
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 3, 2, 5)).astype(np.float32)
    x_device = jnp.asarray(x)
    params = {"scale": np.full(5, 2, np.float32), "bias": np.full(5, 0.5, np.float32)}
    old = {"mean": np.arange(5, dtype=np.float32), "var": np.full(5, 3, np.float32)}
    module, variables = BatchNorm(framework=framework), {"params": params, "batch_stats": old}
    output, moved = module.apply(
        variables, x_device, train=True, deterministic=True, mutable=["batch_stats"]
    )
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(
        output, (x - mean) / np.sqrt(var + epsilon) * 2 + 0.5, rtol=1e-5, atol=1e-5
    )
    for name, value in (("mean", mean), ("var", var)):
        expected = momentum * old[name] + (1 - momentum) * value
        np.testing.assert_allclose(moved["batch_stats"][name], expected, rtol=1e-5)
    output = module.apply(variables, x_device, **MODE)
    expected = (x - old["mean"]) / np.sqrt(3 + epsilon) * 2 + 0.5
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_survives_a_mean_far_beyond_the_deviation():
    x = 1000.0 + np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    params = {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}
    running = {"mean": np.full(1, 999, np.float32), "var": np.ones(1, np.float32)}
    output, _ = BatchNorm().apply(
        {"params": params, "batch_stats": running},
        jnp.asarray(x),
        train=True,
        deterministic=True,
        mutable=["batch_stats"],
    )
    np.testing.assert_allclose(output, (x - x.mean()) / x.std(), atol=2e-4)


def test_batch_norm_gradient_goes_through_the_batch_statistics():
    """The batch's mean and scale are divided out, so their directions have no gradient."""
    keys = jax.random.split(jax.random.key(0))
    x, weight = jax.random.normal(keys[0], (8, 3)), jax.random.normal(keys[1], (8, 3))
    module = BatchNorm(epsilon=0.0)
    variables = module.init(jax.random.key(1), x, train=True, deterministic=True)

    @jax.grad
    def gradient(x):
        output, _ = module.apply(
            variables, x, train=True, deterministic=True, mutable=["batch_stats"]
        )
        return jnp.sum(weight * output)

    value = gradient(x)
    assert np.max(np.abs(value)) > 0.01
    np.testing.assert_allclose(jnp.sum(value, 0), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.sum(value * x, 0), 0.0, atol=1e-5)


def test_batch_norm_with_constant_statistics_keeps_examples_apart():
    x = jax.random.normal(jax.random.key(0), (5, 3)) * 2 + 1
    module = BatchNorm(epsilon=0.0, statistics_gradient=False)
    variables = module.init(jax.random.key(1), x, train=True, deterministic=True)

    def total(x, module):
        output, moved = module.apply(
            variables, x, train=True, deterministic=True, mutable=["batch_stats"]
        )
        return jnp.sum(output), (output, moved)

    slope, found = jax.grad(total, has_aux=True)(x, module)
    np.testing.assert_allclose(slope, jnp.broadcast_to(1 / x.std(0), x.shape), rtol=1e-5)
    coupled, expected = jax.grad(total, has_aux=True)(x, BatchNorm(epsilon=0.0))
    # The batch sum of what the batch normalises is a constant.
    np.testing.assert_allclose(coupled, 0.0, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_relu_is_that_of_jax_in_both_modes():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf, -jnp.inf, jnp.nan])
    tangent = jnp.arange(1.0, 9.0)

    def differentiated(f):
        def run(x, tangent):
            pulled = jax.vjp(f, x)[1](tangent)
            curved = jax.hessian(lambda x: jnp.sum(f(x) ** 3))(x[:5])
            return jax.jvp(f, (x,), (tangent,)), pulled, curved

        return jax.jit(run)(x, tangent)

    jax.tree.map(np.testing.assert_array_equal, differentiated(relu), differentiated(nn.relu))


def test_silu_is_x_times_its_sigmoid():
    x = np.linspace(-20, 20, 41, dtype=np.float32)
    act = default_layers().act(kind="silu", negative_slope=0.1)
    found = jax.jit(lambda x: act.apply({}, x, train=False, deterministic=True))(x)
    np.testing.assert_allclose(found, x / (1 + np.exp(-x.astype(np.float64))), rtol=1e-5)


def test_layers_compute_in_the_dtype_of_their_input_with_float32_parameters():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers, mode = default_layers(), {"train": True, "deterministic": True}
            x = layers.conv(features=4, kernel_size=(3, 3), use_bias=True, name="conv1")(x, **mode)
            x = layers.norm(name="norm1")(x, **mode)
            x = layers.act(kind="leaky_relu", negative_slope=0.1)(x, **mode)
            return layers.dense(features=3)(x[:, 0, 0, :], **mode)

    x = jnp.ones((2, 4, 4, 3), jnp.bfloat16)
    variables = jax.eval_shape(Stack().init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    output, moved = jax.eval_shape(
        lambda variables: Stack().apply(variables, x, mutable=["batch_stats"]), variables
    )
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype("float32")}
