"""Functions that bend: their curvature, lines that hold and are the best, and who is recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import special

from robust_jax.certify import activations, interval_bounds
from robust_jax.certify.activations import Clip
from robust_jax.certify.bending import leaves_open, lines_of
from robust_jax.certify.interpreter import trace


def sigmoid(x):
    return special.expit(x)


def tanh_gelu(x):
    return x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


# Each kind with its function in double precision.
KINDS = {
    "sigmoid": (activations.SIGMOID, sigmoid),
    "tanh": (activations.TANH, np.tanh),
    "softplus": (activations.SOFTPLUS, lambda x: np.logaddexp(x, 0)),
    "elu": (activations.ELU, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "silu": (activations.SILU, lambda x: x * sigmoid(x)),
    "gelu": (activations.GELU, lambda x: x * special.ndtr(x)),
    "tanh gelu": (activations.TANH_GELU, tanh_gelu),
    "clip": (Clip(-0.5, 1.5), lambda x: np.clip(x, -0.5, 1.5)),
}
# Each has a sibling that is of its shape, and programs of its own.
VARIANTS = ("tanh", "elu", "softplus", "silu", "gelu", "tanh gelu")
CASES = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in KINDS]
lines = jax.jit(lines_of, static_argnums=0)
open_of = jax.jit(leaves_open, static_argnums=0)


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("name", [name for name in KINDS if name != "clip"])
def test_curves_are_what_they_say(name):
    """Value, slope, where the curvature turns, and the least value."""
    curve, exact = KINDS[name]
    x, step = np.linspace(-30, 30, 60_001), 1e-3
    value = exact(x)
    slope = (exact(x + step) - exact(x - step)) / (2 * step)
    found, found_slope = (np.asarray(f(jnp.float32(x))) for f in (curve.value, curve.slope))
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    # Of the kink in the second derivative of elu half a step is left.
    np.testing.assert_allclose(found_slope, slope, rtol=1e-4, atol=1e-4 if name != "elu" else 1e-3)
    near = np.abs(x) < 8
    curvature = (exact(x + step) - 2 * value + exact(x - step))[near]
    convex = np.asarray([curve.is_convex == (np.sum(t > curve.bends) % 2 == 0) for t in x[near]])
    # Not beside a bend, where it is as good as straight.
    is_clear = np.abs(curvature) > 1e-13
    np.testing.assert_array_equal((curvature > 0)[is_clear], convex[is_clear])
    falls = np.diff(value) < -1e-14
    if curve.least is None:
        assert not falls.any()
    else:
        place, least = curve.least
        assert abs(x[np.argmin(value)] - place) <= step
        assert value.min() - 1e-6 < least <= value.min()
        assert np.float32(least) <= value.min()
        # Not beside its place, where it is as good as level.
        is_clear = (np.abs(x[1:]) < 5) & (np.abs(x[1:] - place) > 0.01)
        np.testing.assert_array_equal(falls[is_clear], (x[1:] < place)[is_clear])


def boxes():
    """Returns boxes of every width about everywhere, none of them crossed."""
    rng = np.random.default_rng(0)
    middle, width = rng.normal(size=1000) * 4, 10 ** rng.uniform(-6, 2, 1000)
    special = [(-3, -3), (0, 0), (2.5, 2.5), (-1e4, 1e4), (-1e4, 0), (0, 1e4), (-1e30, 1e30)]
    special += [(-0.5, 1.5), (-0.5, -0.5), (1.5, 1.5), (-30, -20), (20, 30), (-1e4, -9e3)]
    ends = np.concatenate([np.stack([middle - width, middle + width], 1), special])
    return ends.astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_lines_hold_and_are_the_best(name):
    """At 200 places of each box, in double precision; the best are found by trying slopes."""
    kind, exact = KINDS[name]
    lower, upper = jnp.asarray(boxes()).T
    found = lines(kind, lower, upper)
    least, most = map(np.asarray, jax.jit(kind.interval)(lower, upper))
    share = np.linspace(0, 1, 201)[:, None]
    l64, u64 = boxes().astype(np.float64).T
    x = l64 * (1 - share) + u64 * share
    value = exact(x)
    slopes = [np.asarray(each, np.float64) for each in found]
    below, above = slopes[0] * x + slopes[3], slopes[1] * x + slopes[2]
    # Bounds and lines hold, but for the rounding of one evaluation and one sum.
    rounding = 1e-6 * np.maximum(1e-3, np.abs(value))
    sums = [2e-7 * (np.abs(slopes[k] * x) + np.abs(slopes[o])) for k, o in ((0, 3), (1, 2))]
    assert np.all(below <= value + rounding + sums[0])
    assert np.all(value <= above + rounding + sums[1])
    assert np.all((least <= value + rounding) & (value <= most + rounding))
    # The best line touches the function's hull at the middle: no slope leaves a lower one there.
    ordinary = (u64 - l64 < 20) & (np.abs(l64) < 50) & (u64 > l64)
    x, value, size = x[:, ordinary], value[:, ordinary], 1 + np.abs(value).max(0)[ordinary]
    steepness = np.diff(value, axis=0) / np.diff(x, axis=0)
    for line, side in ((above, 1), (-below, -1)):
        tops = [np.max(side * value - k * (x - x[100]), axis=0) for k in side * steepness]
        # Between two places, a tenth apart at most, the function bends less than that.
        between = 0.03 if name == "clip" else 1e-3
        assert np.all(line[100, ordinary] <= np.min(tops, axis=0) + between * size)


@pytest.mark.slow
def test_no_bounds_leave_constants():
    """And whatever is not finite is never said to be."""
    lower, upper = jnp.asarray([-jnp.inf, -jnp.inf, -1]), jnp.asarray([jnp.inf, 1, jnp.inf])
    for kind in (activations.SIGMOID, activations.SILU, Clip(0.0, 6.0)):
        found = lines(kind, lower, upper)
        assert found.lower_slope.tolist() == found.upper_slope.tolist() == [0, 0, 0]
    np.testing.assert_allclose(lines(activations.SIGMOID, lower, upper).upper_offset[0], 1)
    above = lines(activations.SILU, lower, upper).upper_offset
    assert not jnp.any(jnp.isfinite(above[jnp.asarray([0, 2])]))


def test_no_gap_asks_for_no_bounds():
    lower, upper = jnp.asarray([-3.0, -3, 20, -0.01]), jnp.asarray([-3.0, 3, 21, 0.01])
    for kind, expected in (
        (activations.TANH, [False, True, False, False]),
        (Clip(0.0, 6.0), [False, True, False, True]),
    ):
        assert open_of(kind, lower, upper).tolist() == expected


SHAPE = (2, 3)
FORMS = {
    "relu6": (nn.relu6, [Clip(0.0, 6.0)]),
    "clip": (lambda x: jnp.clip(x, -0.5, 1.5), [Clip(-0.5, 1.5)]),
    "clamp": (lambda x: jax.lax.clamp(-0.5, x, 1.5), [Clip(-0.5, 1.5)]),
    "clip, the other way": (
        lambda x: jnp.maximum(jnp.minimum(1.5, x), -0.5), [Clip(-0.5, 1.5)],
    ),
    "hard sigmoid": (nn.hard_sigmoid, [Clip(0.0, 6.0)]),
    "hard tanh": (lambda x: jnp.clip(x, -1), [0.0]),
    "one side": (lambda x: jnp.minimum(x, 0.5), [0.0]),
    "ends by column": (lambda x: jnp.clip(x, jnp.asarray([[0.0, 0.1, 0.2]]), 0.5), [0.0, 0.0]),
    "abs": (jnp.abs, [-1.0]),
    "abs by hand": (lambda x: jnp.maximum(x, -x), [-1.0]),
    "below zero": (lambda x: jnp.where(x <= 0, 0.1 * x, x), [np.float32(0.1)]),
    "stop gradient": (lambda x: nn.relu(jax.lax.stop_gradient(x)), [0.0]),
    "checkpoint": (jax.checkpoint(lambda x: nn.relu(x * 2)), [0.0]),
    "sigmoid": (nn.sigmoid, [activations.SIGMOID]),
    "sigmoid by hand": (lambda x: 1 / (jnp.exp(-x) + 1), [activations.SIGMOID]),
    "log sigmoid": (nn.log_sigmoid, [activations.SOFTPLUS]),
    "silu": (nn.silu, [activations.SILU]),
    "silu by hand": (lambda x: nn.sigmoid(x) * x, [activations.SILU]),
    "silu in a loop": (jax.vmap(lambda row: nn.swish(2 * row)), [activations.SILU]),
    "elu": (nn.elu, [activations.ELU]),
    "gelu": (nn.gelu, [activations.TANH_GELU]),
    "exact gelu": (lambda x: nn.gelu(x, approximate=False), [activations.GELU]),
    "one behind another": (
        lambda x: nn.softplus(jnp.tanh(x)), [activations.TANH, activations.SOFTPLUS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_what_is_computed_is_recognised(name):
    function, kinds = FORMS[name]
    found = [
        getattr(node, "kind", getattr(node, "negative_slope", None))
        for node in trace(function, SHAPE).values()
    ]
    assert [kind for kind in found if kind is not None] == kinds


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: x * nn.sigmoid(2 * x), "mul"),
        (lambda x: x[:1] * nn.sigmoid(x[1:]), "mul"),
        (lambda x: 2 / (1 + jnp.exp(-x)), "exp"),
        (lambda x: nn.elu(x, 0.5), "select_n"),
        (nn.selu, "select_n"),
        (jax.nn.mish, "mul"),
        (lambda x: jnp.logaddexp(x, -x), "ne"),
        (lambda x: jnp.maximum(jnp.exp(x), 1), "exp"),
    ],
)
def test_what_is_not_known_is_named(function, operation):
    with pytest.raises(ValueError, match=f"operation '{operation}'"):
        trace(function, SHAPE)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.bool])
def test_other_dtypes_are_named(dtype):
    with pytest.raises(ValueError, match=f"to stay float32, found .* to {jnp.dtype(dtype)}"):
        trace(lambda x: x.astype(dtype).astype(jnp.float32), SHAPE)


def test_bounds_of_the_absolute_value():
    lower, upper = (np.asarray([x], np.float32) for x in ([-2, -3, 1], [1, -1, 2]))
    found = interval_bounds(jnp.abs, lower, upper)
    assert found.lower.tolist() == [[0, 1, 1]]
    assert found.upper.tolist() == [[2, 3, 2]]
