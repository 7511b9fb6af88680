"""Batch normalisation."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Framework = Literal["torch", "keras"]


def accumulator_dtype(dtype: Any) -> Any:
    """Returns the dtype in which sums over many values of this dtype are made, and logits given.

    float32, or float64 for float64.
    """
    return jnp.dtype("float64" if dtype == jnp.float64 else "float32")


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    `train=True` normalises by the batch (over every device's rows: one global mean under jit)
    and moves the running statistics in "batch_stats", which must be mutable; `train=False`
    normalises by the running ones. Statistics are computed in at least float32.
    """

    momentum: float | None = None
    """Share of the old running statistics kept (PyTorch's `momentum` is one minus this); None is
    the framework's: 0.9 or 0.99."""
    epsilon: float | None = None
    """Added to the variance; None is the framework's: 1e-5 or 1e-3."""
    framework: Framework = "torch"
    statistics_gradient: bool = True
    """Do gradients flow through the batch's mean and variance? Without, they are constants, and an
    example's gradient is its own."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "*b k"]:
        """Returns the normalised activations, scaled and shifted per channel."""
        del deterministic
        default_momentum, default_epsilon = {"torch": (0.9, 1e-5), "keras": (0.99, 1e-3)}[
            self.framework
        ]
        momentum = default_momentum if self.momentum is None else self.momentum
        epsilon = default_epsilon if self.epsilon is None else self.epsilon
        shape = (x.shape[-1],)
        dtype = accumulator_dtype(x.dtype)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32).astype(dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        wide = (None,) * (x.ndim - 1)
        y = x.astype(dtype)
        if train:
            # One pass over x; centring on the running mean first keeps E[y^2] - E[y]^2 from
            # cancelling where the mean is large beside the deviation.
            centre = lax.stop_gradient(running_mean.value).astype(dtype)
            axes = tuple(range(x.ndim - 1))
            shifted = y - centre[wide]
            shifted_mean = jnp.mean(shifted, axes)
            var = jnp.maximum(jnp.mean(jnp.square(shifted), axes) - jnp.square(shifted_mean), 0.0)
            mean = centre + shifted_mean
            if not self.is_initializing():
                for running, value in ((running_mean, mean), (running_var, var)):
                    moved = momentum * running.value + (1 - momentum) * value.astype(
                        running.value.dtype
                    )
                    running.value = lax.stop_gradient(moved)
            if not self.statistics_gradient:
                mean, var = lax.stop_gradient((mean, var))
        else:
            mean, var = running_mean.value.astype(dtype), running_var.value.astype(dtype)
        factor = scale * lax.rsqrt(var + epsilon)
        return ((y - mean[wide]) * factor[wide] + bias[wide]).astype(x.dtype)
