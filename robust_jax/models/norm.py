"""Batch normalisation, with its backward pass in closed form."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from robust_jax.runtime.compilation import computed_once

Normalised = tuple[Array, Array, Array]
"""Output, mean and variance."""
Residuals = tuple[Array, Array, Array, Array, Array]

Framework = Literal["torch", "torch_default", "torch_same", "keras"]


def accumulator_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype in which sums over many values of this dtype are made, and logits given.

    float32, or float64 for float64.
    """
    return jnp.dtype("float64" if dtype == jnp.float64 else "float32")


def _moments(
    x: Float[Array, "*b k"], centre: Float[Array, " k"]
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Returns mean and variance of each channel, from one pass over x.

    Centring on a guess of the mean first keeps E[x^2] - E[x]^2 from cancelling where the mean is
    large beside the deviation.
    """
    axes = tuple(range(x.ndim - 1))
    shifted = x.astype(centre.dtype) - _wide(centre, x)
    mean = jnp.mean(shifted, axes)
    var = jnp.maximum(jnp.mean(jnp.square(shifted), axes) - jnp.square(mean), 0.0)
    return centre + mean, var


def _wide(channels: Array, x: Array) -> Array:
    return channels[(None,) * (x.ndim - 1)]


def _scaled(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    y = x.astype(factor.dtype)
    return ((y - _wide(mean, x)) * _wide(factor, x) + _wide(bias, x)).astype(x.dtype)


def _normalised_by_itself(
    x: Array, scale: Array, bias: Array, centre: Array, epsilon: float
) -> Normalised:
    """Returns x normalised by its own moments, and the moments.

    The backward pass needs two sums over x and cotangent and one pass that applies three numbers
    of each channel; autodiff's runs through the moments apart. It is plain JAX of the residuals,
    so it has derivatives itself. Of the activations it keeps x alone, as methods that look at a
    convolution's output keep that already.
    """
    return _normalised_forward(x, scale, bias, centre, epsilon)[0]


_normalised = jax.custom_vjp(_normalised_by_itself, nondiff_argnums=(4,))


def _normalised_forward(
    x: Array, scale: Array, bias: Array, centre: Array, epsilon: float
) -> tuple[Normalised, Residuals]:
    x = computed_once(x)
    mean, var = _moments(x, centre)
    inverse = lax.rsqrt(var + epsilon)
    output = _scaled(x, mean, scale * inverse, bias)
    return (output, mean, var), (x, scale, centre, mean, inverse)


def _normalised_backward(
    epsilon: float, residuals: Residuals, cotangents: Normalised
) -> tuple[Array, Array, Array, Array]:
    del epsilon
    x, scale, centre, mean, inverse = residuals
    cotangent, mean_cotangent, var_cotangent = cotangents
    num = x.size // x.shape[-1]
    axes = tuple(range(x.ndim - 1))
    g = computed_once(cotangent.astype(mean.dtype))
    y = x.astype(mean.dtype)
    total = jnp.sum(g, axes)
    # The sum of g * (y - mean), without a pass that writes the difference: its error grows with
    # mean / deviation, by one rounding for each power of two.
    along = jnp.sum(g * y, axes) - mean * total
    factor = scale * inverse
    # d output / d x, less what the moments take back: the mean of g, and g's share along x.
    slope = (2.0 * var_cotangent - factor * jnp.square(inverse) * along) / num
    offset = (mean_cotangent - factor * total) / num
    x_gradient = g * _wide(factor, x) + (y - _wide(mean, x)) * _wide(slope, x) + _wide(offset, x)
    return x_gradient.astype(x.dtype), inverse * along, total, jnp.zeros_like(centre)


_normalised.defvjp(_normalised_forward, _normalised_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    `train=True` normalises by the batch (over every device's rows: one global mean under jit)
    and moves the running statistics in "batch_stats", which must be mutable; `train=False`
    normalises by the running ones. Statistics are computed in at least float32.

    References:
        Ioffe and Szegedy, "Batch normalization", ICML 2015.

    Example:
        >>> from robust_jax.models import BatchNorm
        >>> norm, x = BatchNorm(), jnp.array([[0.0], [2.0]])
        >>> variables = {
        ...     "params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)},
        ...     "batch_stats": {"mean": jnp.zeros(1), "var": jnp.ones(1)},
        ... }
        >>> mode = {"train": True, "deterministic": True}
        >>> y, moved = norm.apply(variables, x, **mode, mutable=["batch_stats"])
        >>> y.round(2)
        Array([[-1.],
               [ 1.]], dtype=float32)
        >>> np.asarray(moved["batch_stats"]["mean"]).round(2)  # 0.9 of the old, 0.1 of the batch's
        array([0.1], dtype=float32)
    """

    momentum: float | None = None
    """Share of the old running statistics kept (PyTorch's `momentum` is one minus this); None is
    the framework's: 0.9 or 0.99."""
    epsilon: float | None = None
    """Added to the variance; None is the framework's: 1e-5 or 1e-3."""
    framework: Framework = "torch"
    cumulative: bool = False
    """Are the running statistics means over all batches since the variable `count` was 0, in place
    of averages that forget (PyTorch's `momentum=None`)?"""
    statistics_gradient: bool = True
    """Do gradients flow through the batch's mean and variance? Without, they are constants, and an
    example's gradient is its own."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "*b k"]:
        """Returns the normalised activations, scaled and shifted per channel."""
        del deterministic
        keras = self.framework == "keras"
        default_momentum, default_epsilon = (0.99, 1e-3) if keras else (0.9, 1e-5)
        momentum = default_momentum if self.momentum is None else self.momentum
        epsilon = default_epsilon if self.epsilon is None else self.epsilon
        shape = (x.shape[-1],)
        dtype = accumulator_dtype(x.dtype)
        scale = jnp.asarray(self.param("scale", nn.initializers.ones, shape, jnp.float32), dtype)
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, shape, jnp.float32), dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            mean = jnp.asarray(running_mean.value, dtype)
            var = jnp.asarray(running_var.value, dtype)
            return _scaled(x, mean, scale * lax.rsqrt(var + epsilon), bias)
        centre = jnp.asarray(lax.stop_gradient(running_mean.value), dtype)
        if self.statistics_gradient:
            output, mean, var = _normalised(x, scale, bias, centre, epsilon)
        else:
            mean, var = lax.stop_gradient(_moments(x, centre))
            output = _scaled(x, mean, scale * lax.rsqrt(var + epsilon), bias)
        if not self.is_initializing():
            kept: float | Array = momentum
            if self.cumulative:
                count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.float32)
                kept = count.value / (count.value + 1)
                count.value = count.value + 1
            for running, value in ((running_mean, mean), (running_var, var)):
                new = value.astype(running.value.dtype)
                running.value = lax.stop_gradient(kept * running.value + (1 - kept) * new)
        return output
