"""Derivatives of batch normalisation against autodiff of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.models import BatchNorm, norm
from robust_jax.runtime.sharding import batched, make_mesh

EPSILON = 1e-5
SHAPE = (8, 3, 2, 5)


def plain(x, scale, bias, running, *, train, statistics_gradient):
    """The formula of the docstring, for autodiff."""
    axes = tuple(range(x.ndim - 1))
    mean, var = running["mean"], running["var"]
    if train:
        mean = jnp.mean(x, axes)
        var = jnp.mean(jnp.square(x - mean[None, None, None]), axes)
    if not statistics_gradient:
        mean, var = jax.lax.stop_gradient((mean, var))
    wide = (None,) * (x.ndim - 1)
    return (x - mean[wide]) / jnp.sqrt(var + EPSILON)[wide] * scale[wide] + bias[wide]


def layer(x, scale, bias, running, *, train, statistics_gradient):
    """The layer, as a function of its arrays."""
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": running}
    module = BatchNorm(epsilon=EPSILON, statistics_gradient=statistics_gradient)
    output, _ = module.apply(variables, x, train=train, deterministic=True, mutable=["batch_stats"])
    return output


def derivatives(function, dtype):
    """Returns value, gradient, and the gradient of a cubic of the gradient in some direction."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    x, weight = 2.0 * draw(*SHAPE) + 3.0, draw(*SHAPE)
    scale, bias = 1.0 + 0.3 * draw(5), draw(5)
    running = {"mean": draw(5), "var": jnp.square(draw(5)) + 0.5}
    directions = (draw(*SHAPE), draw(5), draw(5))

    def loss(x, scale, bias):
        return jnp.sum(weight * function(x, scale, bias, running) ** 3)

    first = jax.grad(loss, (0, 1, 2))

    def along(*arguments):
        pairs = zip(first(*arguments), directions, strict=True)
        return sum(jnp.sum(g * d + jnp.square(g) * d) for g, d in pairs)

    return {
        "value": function(x, scale, bias, running),
        "first": first(x, scale, bias),
        "second": jax.grad(along, (0, 1, 2))(x, scale, bias),
    }


def compare(dtype, rtol, *, train, statistics_gradient):
    mode = {"train": train, "statistics_gradient": statistics_gradient}
    ours, theirs = (
        jax.jit(lambda: derivatives(lambda *given: function(*given, **mode), dtype))()  # noqa: B023
        for function in (layer, plain)
    )

    def close(a, b):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(b))))

    jax.tree.map(close, ours, theirs)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("train", "statistics_gradient"), [(True, True), (True, False), (False, True)]
)
def test_derivatives_are_those_of_the_plain_formula(train, statistics_gradient):
    # 2e-4 of the largest: second derivatives sum terms that cancel, of a hundred times the result.
    compare(jnp.float32, 2e-4, train=train, statistics_gradient=statistics_gradient)


@pytest.mark.slow
def test_derivatives_in_float64():
    with jax.enable_x64(True):
        for mode in ((True, True), (True, False), (False, True)):
            train, statistics_gradient = mode
            compare(jnp.float64, 1e-10, train=train, statistics_gradient=statistics_gradient)


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("train", [True, False])
def test_derivatives_are_those_of_all_devices_rows(train):
    """Eight rows on four devices give the derivatives of eight rows on one."""

    def found(mesh):
        def constrained(x, *rest):
            x = jax.lax.with_sharding_constraint(x, batched(mesh))
            return layer(x, *rest, train=train, statistics_gradient=True)

        return jax.jit(lambda: derivatives(constrained, jnp.float32))()

    # Sums over devices round in another order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.max(np.abs(b))),
        found(make_mesh(4)),
        found(make_mesh(1)),
    )


@pytest.mark.slow
def test_moments_have_gradients_of_their_own():
    """The moved statistics stop gradients, yet the rule under them is complete."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(2.0, 3.0, SHAPE), jnp.float32)
    ones, zeros = jnp.ones(5), jnp.zeros(5)
    weights = [jnp.asarray(random.normal(size=s), jnp.float32) for s in (SHAPE, (5,), (5,))]

    def total(values):
        return sum(jnp.sum(w * v) for w, v in zip(weights, values, strict=True))

    def expected(x):
        mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        wide = (None, None, None)
        return (x - mean[wide]) / jnp.sqrt(var + EPSILON)[wide], mean, var

    ours = jax.grad(lambda x: total(norm._normalised(x, ones, zeros, zeros, EPSILON)))(x)
    theirs = jax.grad(lambda x: total(expected(x)))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_survives_a_mean_far_beyond_the_deviation():
    random = np.random.default_rng(0)
    x64, weight = 1000.0 + random.normal(size=(256, 1)), random.normal(size=(256, 1))

    def slopes(x, weight, running_mean):
        running = {"mean": running_mean, "var": jnp.ones_like(running_mean)}

        def loss(x, scale):
            output = layer(
                x, scale, jnp.zeros_like(scale), running, train=True, statistics_gradient=True
            )
            return jnp.sum(weight * output)

        return jax.grad(loss, (0, 1))(x, jnp.ones_like(running_mean))

    single = [jnp.asarray(a, jnp.float32) for a in (x64, weight, np.full(1, 999.0))]
    with jax.enable_x64(True):
        expected = slopes(*(jnp.asarray(np.asarray(a), jnp.float64) for a in single))
    # float32 holds such an x to 3e-5 of its deviation, and the sum of 256 of them to ten times it.
    for ours, theirs in zip(slopes(*single), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-4 * np.max(np.abs(theirs)))
