"""The convolution that every layer calls, with a gradient that stays on XLA:CPU's fast path."""

import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robust_jax.models.norm import accumulator_dtype
from robust_jax.runtime.compilation import computed_once
from robust_jax.runtime.padding import Pads, within_reach

Implementation = Literal["auto", "self_adjoint", "lax"]
Pair = tuple[int, int]
Padding = Literal["symmetric", "SAME", "VALID"] | tuple[Pair, Pair]

_FEW = 4
"""Channels of an image, at most."""

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _general_convolution(
    x: Array,
    kernel: Array,
    strides: Pair,
    padding: Pads,
    input_dilation: Pair,
    kernel_dilation: Pair,
) -> Array:
    x, pads, dilation = within_reach(
        x,
        padding,
        kernel_size=kernel.shape[:2],
        input_dilation=input_dilation,
        kernel_dilation=kernel_dilation,
    )
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        lhs_dilation=dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=_DIMENSIONS,
    )


_self_adjoint_convolution = jax.custom_vjp(_general_convolution, nondiff_argnums=(2, 3, 4, 5))


def _forward(
    x: Array,
    kernel: Array,
    strides: Pair,
    padding: Pads,
    input_dilation: Pair,
    kernel_dilation: Pair,
) -> tuple[Array, tuple[Array, Array]]:
    x = computed_once(x)
    output = _self_adjoint_convolution(x, kernel, strides, padding, input_dilation, kernel_dilation)
    return output, (x, kernel)


def _backward(
    strides: Pair,
    padding: Pads,
    input_dilation: Pair,
    kernel_dilation: Pair,
    residuals: tuple[Array, Array],
    cotangent: Array,
) -> tuple[Array, Array]:
    """Returns both gradients, each a convolution of the same kind.

    For one dimension: n inputs, o outputs, K kernel size, s stride, a and b the dilations of
    input and kernel; input i meets kernel position u at output j where s j = a i - b u + low.
    """
    x, kernel = residuals
    input_padding = []
    for axis in range(2):
        n, o, size = x.shape[1 + axis], cotangent.shape[1 + axis], kernel.shape[axis]
        s, a, b = strides[axis], input_dilation[axis], kernel_dilation[axis]
        reach = (size - 1) * b
        input_low = reach - padding[axis][0]
        input_padding.append((input_low, (n - 1) * a - (o - 1) * s - input_low + reach))
    flipped = _flipped(kernel)
    dense = {*input_dilation, *kernel_dilation} == {1}
    if x.shape[-1] <= _FEW and dense and {*strides} == {1}:
        x_gradient = _convolution_to_few(cotangent, flipped, tuple(input_padding))
    elif dense and max(strides) > 1 and min(low for low, _ in padding) >= 0:
        x_gradient = _strided_input_gradient(x.shape, kernel, cotangent, strides, padding)
    else:
        x_gradient = _self_adjoint_convolution(
            cotangent, flipped, input_dilation, tuple(input_padding), strides, kernel_dilation
        )
    if kernel.shape[:2] == (1, 1) and dense and {*padding} == {(0, 0)}:
        return x_gradient, _pointwise_kernel_gradient(x, cotangent, strides)
    given = strides, padding, input_dilation, kernel_dilation
    return x_gradient, _kernel_gradient(kernel.shape[:2], x, cotangent, *given)


def _kernel_gradient(
    sizes: tuple[int, ...],
    x: Array,
    cotangent: Array,
    strides: Pair,
    padding: Pads,
    input_dilation: Pair,
    kernel_dilation: Pair,
) -> Array:
    """Returns the sum over images of what met at each position of the kernel.

    A convolution that has channels in the place of images, images in the place of channels, and
    the smaller of the two arrays in the place of the kernel: XLA exchanges them where the kernel
    is the larger one, by a reversed window, which is off the fast path. The
    cotangent is the smaller one but behind padding to more outputs than there are inputs, as in the
    gradient of a strided convolution's input.
    """
    (n0, n1), (o0, o1) = x.shape[1:3], cotangent.shape[1:3]
    exchanged = o0 * o1 > n0 * n1
    pads = []
    for n, o, size, s, (low, _), a, b in zip(
        (n0, n1), (o0, o1), sizes, strides, padding, input_dilation, kernel_dilation, strict=True
    ):
        reach, inputs, outputs = (size - 1) * b, (n - 1) * a, (o - 1) * s
        if exchanged:
            pads.append((reach - low, inputs + low - outputs))
        else:
            pads.append((low, reach - inputs - low + outputs))
    # Channels first in two steps, of whole rows and of a matrix: a third of the time of one.
    rows = computed_once((cotangent if exchanged else x).transpose(1, 2, 0, 3))
    window = (x if exchanged else cotangent).transpose(1, 2, 0, 3)
    dilations = (strides, input_dilation) if exchanged else (input_dilation, strides)
    found = _self_adjoint_convolution(
        rows.transpose(3, 0, 1, 2), window, kernel_dilation, tuple(pads), *dilations
    )
    if exchanged:  # [features h w channels], of which the last position comes first
        return jnp.flip(found.transpose(1, 2, 3, 0), (0, 1))
    return found.transpose(1, 2, 0, 3)


def _flipped(kernel: Array) -> Array:
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _strided_input_gradient(
    shape: tuple[int, ...], kernel: Array, cotangent: Array, strides: Pair, padding: Pads
) -> Array:
    """Returns the gradient of a strided convolution's input without a product by a zero.

    A convolution of the dilated cotangent multiplies the zeros between its values. Input i meets
    kernel position u at output j where i + low = s j + u: of one remainder r of i + low by s, only
    the positions u = s m + r count, and those inputs are a plain convolution of the cotangent. All
    remainders are features of one convolution, and are put side by side afterwards.
    """
    batch, *sizes, channels = shape
    taps, phases, counts, pads = [], [], [], []
    for n, o, size, s, (low, _) in zip(
        sizes, cotangent.shape[1:3], kernel.shape[:2], strides, padding, strict=True
    ):
        taps.append(-(-size // s))
        phases.append(min(s, size))  # of the others, nothing is read
        counts.append((n - 1 + low) // s + 1)
        pads.append((taps[-1] - 1, counts[-1] - o))
    (m0, m1), (r0, r1), (a0, a1), (s0, s1) = taps, phases, counts, strides
    zero = jnp.zeros((), kernel.dtype)
    missing = [
        (0, m * s - size, 0) for m, s, size in zip(taps, strides, kernel.shape[:2], strict=True)
    ]
    parts = lax.pad(kernel, zero, (*missing, (0, 0, 0), (0, 0, 0)))
    parts = parts.reshape(m0, s0, m1, s1, channels, -1)[:, :r0, :, :r1]
    parts = parts.transpose(0, 2, 1, 3, 4, 5).reshape(m0, m1, r0 * r1 * channels, -1)
    flipped, undilated = _flipped(parts), ((1, 1), (1, 1))
    if channels <= _FEW:
        found = _convolution_to_few(cotangent, flipped, tuple(pads))
    else:
        found = _self_adjoint_convolution(cotangent, flipped, (1, 1), tuple(pads), *undilated)
    found = found.reshape(batch, a0, a1, r0, r1, channels).transpose(0, 1, 3, 2, 4, 5)
    unread = ((0, 0, 0), (0, 0, 0), (0, s0 - r0, 0), (0, 0, 0), (0, s1 - r1, 0), (0, 0, 0))
    found = lax.pad(found, zero, unread).reshape(batch, a0 * s0, a1 * s1, channels)
    (low0, _), (low1, _) = padding
    return found[:, low0 : low0 + sizes[0], low1 : low1 + sizes[1]]


def _pointwise_kernel_gradient(x: Array, cotangent: Array, strides: Pair) -> Array:
    """Returns the kernel's gradient of a 1 x 1 convolution: one product of matrices."""
    met = x[:, :: strides[0], :: strides[1]]
    axes = (0, 1, 2)
    product = lax.dot_general(
        met,
        cotangent,
        ((axes, axes), ((), ())),
        preferred_element_type=accumulator_dtype(x.dtype),
    )
    return product.astype(x.dtype)[None, None]


def _convolution_to_few(x: Array, kernel: Array, padding: Pads) -> Array:
    """Returns the plain convolution to a few features: one product of matrices, then shifted sums.

    A convolution's own product has as many columns as there are features, and three of them (the
    gradient of an image) leave the vector registers empty; this one has a column for each feature
    of each kernel position.
    """
    height, width, channels, features = kernel.shape
    columns = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    # Summed in at least float32, as within a convolution: signs of an image's gradient matter.
    product = lax.dot_general(
        x.reshape(-1, channels),
        columns,
        (((1,), (0,)), ((), ())),
        preferred_element_type=accumulator_dtype(x.dtype),
    )
    parts = computed_once(product).reshape(*x.shape[:3], -1)
    pads = ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0))
    padded = lax.pad(parts, jnp.zeros((), parts.dtype), pads)
    out_height, out_width = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    places = itertools.product(range(height), range(width))
    starts = range(0, parts.shape[-1], features)
    shifted = [
        padded[:, u : u + out_height, v : v + out_width, start : start + features]
        for start, (u, v) in zip(starts, places, strict=True)
    ]
    return functools.reduce(jnp.add, shifted).astype(x.dtype)


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

    Example:
        >>> from robust_jax.models import convolution
        >>> image, box = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.full((3, 3, 1, 1), 1 / 9)
        >>> convolution(image, box, strides=(2, 2)).shape
        (1, 2, 2, 1)
        >>> np.asarray(convolution(image, box, padding="VALID"))[0, ..., 0].round(3)
        array([[ 5.,  6.],
               [ 9., 10.]], dtype=float32)
    """
    pads = _explicit_padding(padding, x.shape[1:3], kernel.shape[:2], strides, kernel_dilation)
    if implementation == "auto":
        implementation = "self_adjoint" if jax.default_backend() == "cpu" else "lax"
    if implementation == "self_adjoint":
        return _self_adjoint_convolution(x, kernel, strides, pads, input_dilation, kernel_dilation)
    return _general_convolution(x, kernel, strides, pads, input_dilation, kernel_dilation)


def _explicit_padding(
    padding: Padding,
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    strides: Pair,
    dilation: Pair,
) -> Pads:
    if not isinstance(padding, str):
        return tuple((int(low), int(high)) for low, high in padding)
    reach = tuple((k - 1) * d for k, d in zip(kernel_size, dilation, strict=True))
    if padding == "symmetric":
        return tuple((r // 2, r // 2) for r in reach)
    pads = lax.padtype_to_pads(size, tuple(r + 1 for r in reach), strides, padding)
    return tuple((int(low), int(high)) for low, high in pads)
