"""What the parameters of layers begin as, by PyTorch's conventions and Keras'."""

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Key


@runtime_checkable
class Initializer(Protocol):
    """Returns the array that a parameter begins as."""

    def __call__(
        self, key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike, /
    ) -> Array: ...


def uniform_fan_in(fan_in: int) -> Initializer:
    """Returns draws from uniform(+-1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


HE_NORMAL_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
HE_NORMAL_KERAS = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
