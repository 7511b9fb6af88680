"""The layers that every network is made of, and the factories by which a method replaces them.

A network calls every layer as `layer(x, train=..., deterministic=...)`: `train` moves BatchNorm
statistics, `deterministic` removes sampling. Layers compute in the dtype of their input;
parameters and running statistics are float32 (float64 when the images are).

Two conventions of initialisation, padding and BatchNorm exist, because the papers' numbers
depend on them:

=========  =====================================  ==================================
           framework="torch"                      framework="keras"
=========  =====================================  ==================================
conv       Kaiming normal, fan out (ResNets)      He normal, fan in, truncated at 2 std
conv bias  uniform(+-1/sqrt(fan in))              zeros
linear     uniform(+-1/sqrt(fan in)), bias too    He normal, zero bias
padding    (size - 1) // 2 on both sides          "SAME": the odd pixel goes to the end
BatchNorm  running = .9 old + .1 new, eps 1e-5    running = .99 old + .01 new, eps 1e-3
=========  =====================================  ==================================

BatchNorm's running variance is the biased one (divided by the number of values n, as Keras and
flax have it) in both; PyTorch's running variance is n/(n-1) times that, normalisation within a
batch is the same.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

Framework = Literal["torch", "keras"]
Implementation = Literal["auto", "self_adjoint", "lax"]
Pair = tuple[int, int]
Padding = Literal["symmetric", "SAME", "VALID"] | tuple[Pair, Pair]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _self_adjoint_convolution(x, kernel, strides, padding, input_dilation, kernel_dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=input_dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=_DIMENSIONS,
    )


def _forward(x, kernel, strides, padding, input_dilation, kernel_dilation):
    output = _self_adjoint_convolution(x, kernel, strides, padding, input_dilation, kernel_dilation)
    return output, (x, kernel)


def _backward(strides, padding, input_dilation, kernel_dilation, residuals, cotangent):
    """Returns both gradients, each a convolution of the same kind.

    For one dimension: n inputs, o outputs, K kernel size, s stride, a and b the dilations of
    input and kernel; input i meets kernel position u at output j where s j = a i - b u + low.
    """
    x, kernel = residuals
    input_padding, kernel_padding = [], []
    for axis in range(2):
        n, o, size = x.shape[1 + axis], cotangent.shape[1 + axis], kernel.shape[axis]
        s, a, b = strides[axis], input_dilation[axis], kernel_dilation[axis]
        low, _ = padding[axis]
        reach = (size - 1) * b
        input_low = reach - low
        input_padding.append((input_low, (n - 1) * a - (o - 1) * s - input_low + reach))
        kernel_padding.append((low, reach - (n - 1) * a - low + (o - 1) * s))
    x_gradient: Any = _self_adjoint_convolution(
        cotangent,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        input_dilation,
        tuple(input_padding),
        strides,
        kernel_dilation,
    )
    kernel_gradient: Any = _self_adjoint_convolution(
        x.transpose(3, 1, 2, 0),
        cotangent.transpose(1, 2, 0, 3),
        kernel_dilation,
        tuple(kernel_padding),
        input_dilation,
        strides,
    )
    return x_gradient, jnp.transpose(kernel_gradient, (1, 2, 0, 3))


_self_adjoint_convolution.defvjp(_forward, _backward)


def convolution(
    x: Float[Array, "b h w k"],
    kernel: Float[Array, "kernel_h kernel_w k features"],
    *,
    strides: Pair = (1, 1),
    padding: Padding = "symmetric",
    input_dilation: Pair = (1, 1),
    kernel_dilation: Pair = (1, 1),
    implementation: Implementation = "auto",
) -> Float[Array, "b out_h out_w features"]:
    """Returns the 2-D convolution of NHWC images with an HWIO kernel.

    XLA:CPU runs the gradients of `lax`'s own convolution on a naive path inside `fori_loop`,
    `scan` and `map`, where every attack and every ensemble lives. "self_adjoint" writes both
    gradients as forward convolutions of the same kind, closed under differentiation (a backward
    pass is made of the function itself), which keeps all of them on the fast path. "auto" takes
    it where the backend is the CPU at trace time and `lax` elsewhere.

    Args:
        x: images or activations.
        kernel: weights, of the same dtype.
        strides: step of the output, per spatial dimension.
        padding: "symmetric" ((size - 1) * dilation // 2 on both sides, PyTorch's habit), "SAME",
            "VALID", or (low, high) per spatial dimension.
        input_dilation: zeros put between inputs, plus one.
        kernel_dilation: zeros put between kernel positions, plus one.
        implementation: forces either form.

    Guarantees:
        Derivatives of every order in reverse mode equal `lax`'s. The self-adjoint form has no
        forward-mode derivative (`jax.jvp` raises); ask for "lax" there.
    """
    pads = _explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides, kernel_dilation)
    if implementation == "auto":
        implementation = "self_adjoint" if jax.default_backend() == "cpu" else "lax"
    if implementation == "self_adjoint":
        return _self_adjoint_convolution(x, kernel, strides, pads, input_dilation, kernel_dilation)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        lhs_dilation=input_dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=_DIMENSIONS,
    )


def _explicit_padding(
    padding: Padding,
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    strides: Pair,
    dilation: Pair,
) -> tuple[Pair, ...]:
    if not isinstance(padding, str):
        return tuple((int(low), int(high)) for low, high in padding)
    reach = tuple((k - 1) * d for k, d in zip(kernel_size, dilation, strict=True))
    if padding == "symmetric":
        return tuple((r // 2, r // 2) for r in reach)
    pads = lax.padtype_to_pads(size, tuple(r + 1 for r in reach), strides, padding)
    return tuple((int(low), int(high)) for low, high in pads)


def _uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


_he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_he_normal_keras = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class Conv(nn.Module):
    """2-D convolution; the parameters are `kernel` (HWIO) and `bias`.

    A method's own convolution may subclass it and call `weights` and `convolve` apart.
    """

    features: int
    kernel_size: Pair
    strides: int = 1
    padding: Padding | None = None
    """None is the framework's habit: "symmetric" or "SAME"."""
    use_bias: bool = False
    kernel_dilation: int = 1
    framework: Framework = "torch"
    implementation: Implementation = "auto"

    def weights(self, in_channels: int) -> tuple[Array, Array | None]:
        """Returns the kernel and the bias (None without one); call it from a compact method."""
        kernel_init, bias_init = (
            _he_normal_fan_out,
            _uniform_fan_in(self.kernel_size[0] * self.kernel_size[1] * in_channels),
        )
        if self.framework == "keras":
            kernel_init, bias_init = _he_normal_keras, nn.initializers.zeros
        shape = (*self.kernel_size, in_channels, self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", bias_init, (self.features,), jnp.float32)

    def convolve(
        self, x: Float[Array, "b h w k"], kernel: Array, bias: Array | None
    ) -> Float[Array, "b out_h out_w features"]:
        """Returns the convolution of x with these weights in the dtype of x."""
        padding = self.padding
        if padding is None:
            padding = "SAME" if self.framework == "keras" else "symmetric"
        output = convolution(
            x,
            kernel.astype(x.dtype),
            strides=(self.strides, self.strides),
            padding=padding,
            kernel_dilation=(self.kernel_dilation, self.kernel_dilation),
            implementation=self.implementation,
        )
        if bias is not None:
            output = output + bias.astype(x.dtype)[None, None, None, :]
        return output

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b out_h out_w features"]:
        """Returns the convolved activations."""
        del train, deterministic
        return self.convolve(x, *self.weights(x.shape[-1]))


class Dense(nn.Module):
    """Linear layer; the parameters are `kernel` (input x output) and `bias`."""

    features: int
    use_bias: bool = True
    framework: Framework = "torch"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b features"]:
        """Returns x @ kernel + bias in the dtype of x."""
        del train, deterministic
        kernel_init = bias_init = _uniform_fan_in(x.shape[-1])
        if self.framework == "keras":
            kernel_init, bias_init = _he_normal_keras, nn.initializers.zeros
        shape = (x.shape[-1], self.features)
        output = x @ self.param("kernel", kernel_init, shape, jnp.float32).astype(x.dtype)
        if self.use_bias:
            bias = self.param("bias", bias_init, (self.features,), jnp.float32)
            output = output + bias.astype(x.dtype)[None, :]
        return output


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


class Activation(nn.Module):
    """ReLU or leaky ReLU."""

    kind: Literal["relu", "leaky_relu"] = "relu"
    negative_slope: float = 0.01

    def __call__(
        self, x: Float[Array, "..."], *, train: bool, deterministic: bool
    ) -> Float[Array, "..."]:
        """Returns the activation of every element."""
        del train, deterministic
        if self.kind == "relu":
            return nn.relu(x)
        return nn.leaky_relu(x, self.negative_slope)


class Layers(NamedTuple):
    """Factories of a network's layers; a method replaces the ones that it changes.

    A network calls them by keyword and its own names are the contract ("conv1", "conv2", ... in
    order within a network or block, "shortcut", "stem_conv"), so a factory may treat layers
    apart by name. It reads channel counts from arrays: a replaced convolution may return more or
    fewer channels than `features`, as long as it does so for every layer alike.

    Attributes:
        conv: (features, kernel_size, strides, use_bias, framework, name) -> module.
        norm: (framework, name) -> module.
        act: (kind, negative_slope) -> module.
        dense: (features, framework) -> module, the classifier head.
    """

    conv: Callable[..., Any] = Conv
    norm: Callable[..., Any] = BatchNorm
    act: Callable[..., Any] = Activation
    dense: Callable[..., Any] = Dense


def default_layers(*, implementation: Implementation = "auto") -> Layers:
    """Returns the plain layers.

    Args:
        implementation: which convolution, see `convolution`.
    """
    return Layers(conv=functools.partial(Conv, implementation=implementation))
