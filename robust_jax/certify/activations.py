"""Functions of each element that bend: their values, their bounds, and where their curvature turns.

They are static parts of a node: a network's layers that share one share its program.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array


@runtime_checkable
class Scalar(Protocol):
    """Returns a function of each element."""

    def __call__(self, x: Array, /) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Clip:
    """low where x is below it, high where x is above that, and x between (relu6: 0 and 6)."""

    low: float
    high: float

    def value(self, x: Array) -> Array:
        """Returns the function's value."""
        return jnp.clip(x, self.low, self.high)

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Returns the smallest and the largest value between two."""
        return self.value(lower), self.value(upper)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A smooth function that is convex and concave by turns.

    Attributes:
        value: the function.
        slope: its derivative.
        bends: where the curvature changes its sign, in order.
        is_convex: is it convex in front of the first of these?
        least: where it is least, falling in front of it and rising behind it, and the value there,
            rounded downward; None where it falls nowhere.
    """

    value: Scalar
    slope: Scalar
    bends: tuple[float, ...]
    is_convex: bool
    least: tuple[float, float] | None = None

    def interval(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Returns bounds of the value between two, up to the rounding of float32."""
        first, last = self.value(lower), self.value(upper)
        if self.least is None:
            return first, last
        place, value = self.least
        is_inside = (lower <= place) & (place <= upper)
        return jnp.where(is_inside, value, jnp.minimum(first, last)), jnp.maximum(first, last)


Kind = Clip | Curve


def _sigmoid_slope(x: Array) -> Array:
    return jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)


def _tanh_slope(x: Array) -> Array:
    return 4 * _sigmoid_slope(2 * x)


def _silu_slope(x: Array) -> Array:
    return jax.nn.sigmoid(x) * (1 + x * jax.nn.sigmoid(-x))


def _elu_slope(x: Array) -> Array:
    return jnp.exp(jnp.minimum(x, 0))


def gelu(x: Array) -> Array:
    """Returns x times the share of a standard Gaussian below x."""
    return jax.nn.gelu(x, approximate=False)


def _gelu_slope(x: Array) -> Array:
    density = jnp.exp(-x * x / 2) / np.float32(math.sqrt(2 * math.pi))
    return erfc(-x / np.float32(math.sqrt(2))) / 2 + x * density


def _tanh_gelu_inside(x: Array) -> Array:
    return np.float32(2 * math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)


def tanh_gelu(x: Array) -> Array:
    """Returns its usual approximation by tanh of a polynomial, with all digits below zero."""
    return x * jax.nn.sigmoid(_tanh_gelu_inside(x))


def _tanh_gelu_slope(x: Array) -> Array:
    inside = _tanh_gelu_inside(x)
    slope = np.float32(2 * math.sqrt(2 / math.pi)) * (1 + np.float32(3 * 0.044715) * x * x)
    return jax.nn.sigmoid(inside) * (1 + x * slope * jax.nn.sigmoid(-inside))


SIGMOID = Curve(jax.nn.sigmoid, _sigmoid_slope, (0.0,), True)
TANH = Curve(jnp.tanh, _tanh_slope, (0.0,), True)
SOFTPLUS = Curve(jax.nn.softplus, jax.nn.sigmoid, (), True)
ELU = Curve(jax.nn.elu, _elu_slope, (), True)
# Where x tanh(x / 2) = 2; least at -1 - W(1 / e).
SILU = Curve(
    jax.nn.silu, _silu_slope, (-2.399357280515, 2.399357280515), False,
    least=(-1.278464542761, -0.2784646),
)  # fmt: skip
GELU = Curve(
    gelu, _gelu_slope, (-math.sqrt(2), math.sqrt(2)), False, least=(-0.751791524694, -0.1699713)
)
# By bisection of its derivatives in float64, as the test repeats.
TANH_GELU = Curve(
    tanh_gelu, _tanh_gelu_slope, (-1.418503977128, 1.418503977128), False,
    least=(-0.752461404409, -0.1700408),
)  # fmt: skip
