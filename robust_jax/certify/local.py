"""Affine maps between images that are one convolution: recognised, and applied backward."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from robust_jax.certify.equations import evaluated
from robust_jax.runtime.padding import within_reach

FEW_CHANNELS = 16
"""XLA:CPU is quick at convolutions of so many channels; those of fewer are computed in blocks."""

FEW_INPUTS = 4
"""Images are given so many channels, or a multiple."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Local:
    """A convolution of images [1 h w c] to [1 h' w' d], zeros around them.

    Attributes:
        kernel: [k l c d]; None is the map that changes nothing.
        strides: along height and width.
        padding: zeros before the first row and the first column; may be negative.
    """

    kernel: PyTree
    strides: tuple[int, int] = dataclasses.field(default=(1, 1), metadata={"static": True})
    padding: tuple[int, int] = dataclasses.field(default=(0, 0), metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class _Found:
    """What an equation's value is of the images: a convolution, its axes in another order."""

    kernel: ArrayLike | None
    scale: ArrayLike | None
    order: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


class _Zero:
    """The value of what is not looked at: zero."""


_Value = _Found | _Zero | ArrayLike
_UNCHANGED = ("copy", "convert_element_type", "optimization_barrier", "sharding_constraint")


def recognise(closed: ClosedJaxpr, number: int) -> Local | None:
    """Returns a linear jaxpr as a convolution of one of its arguments, None where it is none.

    Args:
        closed: of arrays [1 h w c] to one [1 h' w' d].
        number: of the argument; the others are zero.
    """
    avals = [variable.aval for variable in (*closed.jaxpr.invars, *closed.jaxpr.outvars)]
    if any(len(aval.shape) != 4 or aval.shape[0] != 1 for aval in avals):
        return None
    given: list[_Value] = [_Zero() for _ in closed.jaxpr.invars]
    given[number] = _Found(None, None, (0, 1, 2, 3))
    values: dict[Var, _Value] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, given, strict=True))

    def read(atom: Var | Literal) -> _Value:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        value = _apply(equation, [read(atom) for atom in equation.invars])
        if value is None:
            return None
        values[equation.outvars[0]] = value
    found = read(closed.jaxpr.outvars[0])
    if not isinstance(found, _Found) or found.order != (0, 1, 2, 3):
        return None
    kernel = found.kernel
    if found.scale is not None:
        if kernel is None:
            kernel = jnp.eye(avals[-1].shape[3])[None, None]
        kernel = jnp.asarray(kernel) * _by_channel(found.scale, 3)
    kernel = None if kernel is None else jnp.asarray(kernel, jnp.float32)
    return Local(kernel, found.strides, found.padding)


def _apply(equation: JaxprEqn, operands: Sequence[_Value]) -> _Value | None:
    """Returns what an equation's value is of the images, or an array; None where it is unknown."""
    name, params = equation.primitive.name, equation.params
    if len(equation.outvars) != 1:
        return None
    if _are_arrays(operands):
        return evaluated(equation, operands)[0]
    if name in ("add", "add_any", "sub"):
        return _sum(name, *operands)
    inside = [x for x in operands if isinstance(x, (_Found, _Zero))]
    if all(isinstance(x, _Zero) for x in inside):
        return inside[0]
    found = inside[0]
    if len(inside) != 1 or isinstance(found, _Zero):
        return None
    if name in _UNCHANGED:
        return found
    if name == "neg":
        return _scaled(found, np.float32(-1))
    if name == "transpose":
        order = tuple(found.order[axis] for axis in params["permutation"])
        return dataclasses.replace(found, order=order)
    others = [x for x in operands if not isinstance(x, (_Found, _Zero))]
    if name == "mul" or (name == "div" and operands[0] is found):
        return _times(name, found, others[0])
    if name == "conv_general_dilated" and operands[0] is found:
        return _convolved(found, others[0], params)
    return None


def _are_arrays(values: Sequence[_Value]) -> TypeGuard[Sequence[ArrayLike]]:
    """Returns whether none of these is of the images."""
    return not any(isinstance(x, (_Found, _Zero)) for x in values)


def _sum(name: str, first: _Value, second: _Value) -> _Value | None:
    if _is_zero(second):
        return first
    if _is_zero(first):
        if name != "sub":
            return second
        return _scaled(second, np.float32(-1)) if isinstance(second, _Found) else None
    return None


def _is_zero(x: _Value) -> bool:
    if isinstance(x, (Tracer, _Found)):
        return False
    return isinstance(x, _Zero) or not np.any(np.asarray(x))


def _by_channel(scale: ArrayLike, axis: int) -> Array:
    return jnp.asarray(scale).reshape([-1 if i == axis else 1 for i in range(4)])


def _scaled(found: _Found, factor: ArrayLike) -> _Found:
    factor = jnp.asarray(factor).reshape(-1)
    if found.scale is not None:
        factor = jnp.asarray(found.scale) * factor
    return dataclasses.replace(found, scale=factor)


def _times(name: str, found: _Found, factor: ArrayLike) -> _Found | None:
    """Returns the product with one number for each channel, None for another product."""
    shape, channels = np.shape(factor), found.order.index(3)
    if len(shape) not in (0, 4) or any(n != 1 for i, n in enumerate(shape) if i != channels):
        return None
    return _scaled(found, 1 / jnp.asarray(factor) if name == "div" else factor)


def _convolved(found: _Found, kernel: ArrayLike, params: dict) -> _Found | None:
    if found.kernel is not None:  # what lies between would be cut to the image
        return None
    dimensions = params["dimension_numbers"]
    ones = ("lhs_dilation", "rhs_dilation")
    groups = ("feature_group_count", "batch_group_count")
    if any(set(params[name]) != {1} for name in ones) or any(params[name] != 1 for name in groups):
        return None
    batch, channels, *space = dimensions.lhs_spec
    if [found.order[axis] for axis in (batch, *space, channels)] != [0, 1, 2, 3]:
        return None
    outputs, inputs, *kernel_space = dimensions.rhs_spec
    kernel = jnp.transpose(kernel, (*kernel_space, inputs, outputs))
    if found.scale is not None:
        kernel = kernel * _by_channel(found.scale, 2)
    # Which axis of [1 h w c] each of the value's is.
    order = tuple((0, 3, 1, 2)[dimensions.out_spec.index(axis)] for axis in range(4))
    low = tuple(pad[0] for pad in params["padding"])
    return _Found(kernel, None, order, tuple(params["window_strides"]), low)


def pays(local: Local, window: tuple[int, int], image: tuple[int, int]) -> bool:
    """Returns whether rows of a window of an image cost less than rows of all of it."""
    gain = 1.0  # of whole images, computed in blocks
    if jax.default_backend() == "cpu" and local.kernel is not None and local.strides == (1, 1):
        gain = max(gain, FEW_CHANNELS / max(local.kernel.shape[2:]))
    return window[0] * window[1] * gain < image[0] * image[1]


def transposed(
    local: Local, rows: Float[Array, "n h w d"], size: tuple[int, int] | None = None
) -> Float[Array, "n i j c"]:
    """Returns coefficients on the images from coefficients on what a convolution makes of them.

    Args:
        local: the convolution.
        rows: coefficients, of windows of its value.
        size: of the image, where the rows are of the whole value; None gives all places that the
            windows reach: (h - 1) * stride + k rows of them.
    """
    if local.kernel is None:
        return rows
    channels = local.kernel.shape[2]
    if channels % FEW_INPUTS:
        # Images of three channels: a fourth is quicker than none.
        fill = [(0, 0), (0, 0), (0, -channels % FEW_INPUTS), (0, 0)]
        padded = dataclasses.replace(local, kernel=jnp.pad(local.kernel, fill))
        return transposed(padded, rows, size)[..., :channels]
    kernel, strides = local.kernel, local.strides
    start = local.padding
    if size is None:
        (h, w), (taps_y, taps_x) = rows.shape[1:3], kernel.shape[:2]
        start, size = (0, 0), ((h - 1) * strides[0] + taps_y, (w - 1) * strides[1] + taps_x)
    if strides == (1, 1):
        # out[i] = sum over t of rows[i + start - t] kernel[t].
        flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        pads = [
            (k - 1 - first, first + wanted - n)
            for k, first, wanted, n in zip(
                kernel.shape[:2], start, size, rows.shape[1:3], strict=True
            )
        ]
        return _convolve(rows, flipped, pads)
    return _shuffled(rows, kernel, strides, start, size)


def applied(
    local: Local, values: Float[Array, "n h w c"], size: tuple[int, int] | None = None
) -> Float[Array, "n i j d"]:
    """Returns what a convolution makes of images, or of windows of them.

    Args:
        local: the convolution; of stride 1 where windows are given.
        values: images, or windows of them around which they are zero.
        size: of its value; None gives all places that a window reaches: h + k - 1 rows of them.
    """
    if local.kernel is None:
        return values
    taps, strides, first = local.kernel.shape[:2], local.strides, local.padding
    if size is None:
        first = (taps[0] - 1, taps[1] - 1)
        size = (values.shape[1] + first[0], values.shape[2] + first[1])
    pads = [
        (before, (wanted - 1) * s + k - before - there)
        for before, wanted, s, k, there in zip(
            first, size, strides, taps, values.shape[1:3], strict=True
        )
    ]
    if strides == (1, 1):
        return _convolve(values, local.kernel, pads)
    return _as_given(values, local.kernel, pads, strides)


def _shuffled(
    rows: Array,
    kernel: Array,
    strides: tuple[int, int],
    start: tuple[int, int],
    size: tuple[int, int],
) -> Array:
    """Returns the same of a stride: the places of one remainder are a convolution of stride 1."""
    num_taps = [-(-k // s) for k, s in zip(kernel.shape[:2], strides, strict=True)]
    fill = [(0, t * s - k) for t, s, k in zip(num_taps, strides, kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, [*fill, (0, 0), (0, 0)])
    (ty, tx), (sy, sx), (_, _, c, d) = num_taps, strides, kernel.shape
    parts = kernel.reshape(ty, sy, tx, sx, c, d)[::-1, :, ::-1]
    parts = jnp.transpose(parts, (0, 2, 5, 1, 3, 4)).reshape(ty, tx, d, sy * sx * c)
    found = _convolve(rows, parts, [(ty - 1, ty - 1), (tx - 1, tx - 1)])
    n, h, w, _ = found.shape
    found = found.reshape(n, h, w, sy, sx, c).transpose(0, 1, 3, 2, 4, 5)
    found = found.reshape(n, h * sy, w * sx, c)
    pads = [(0, 0)] + [
        (-first, first + wanted - there)
        for first, wanted, there in zip(start, size, found.shape[1:3], strict=True)
    ]
    return lax.pad(found, jnp.float32(0), [(*pad, 0) for pad in (*pads, (0, 0))])


def _convolve(x: Array, kernel: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """Returns a convolution of stride 1, of few channels on a CPU by blocks of columns."""
    width, (left, right) = x.shape[2], pads[1]
    is_same = left + right == kernel.shape[1] - 1
    block = 1
    if jax.default_backend() == "cpu" and is_same:
        while block * max(kernel.shape[2:]) < FEW_CHANNELS and width % (4 * block) == 0:
            block *= 2
    if block > 1:
        x = x.reshape(*x.shape[:2], width // block, block * x.shape[3])
        kernel, pads = _blocked(kernel, left, block, pads[0])
    found = _as_given(x, kernel, pads)
    return found.reshape(*found.shape[:2], -1, found.shape[3] // block)


def _as_given(
    x: Array, kernel: Array, pads: Sequence[tuple[int, int]], strides: tuple[int, int] = (1, 1)
) -> Array:
    """Returns a convolution in float32 on every device."""
    x, pads, _ = within_reach(x, pads, kernel_size=kernel.shape[:2])
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _blocked(
    kernel: Array, left: int, block: int, rows: tuple[int, int]
) -> tuple[Array, list[tuple[int, int]]]:
    """Returns the kernel between blocks of columns, the columns of a block being channels."""
    k, num_taps, c, d = kernel.shape
    first = -left // block
    last = (block - 1 + num_taps - 1 - left) // block
    chosen = np.zeros((block, num_taps, last - first + 1, block), np.float32)
    for column, tap in itertools.product(range(block), range(num_taps)):
        source = column + tap - left
        chosen[column, tap, source // block - first, source % block] = 1
    found = jnp.einsum("ktcd,otbi->kbicod", kernel, chosen, precision="highest")
    return found.reshape(k, last - first + 1, block * c, block * d), [rows, (-first, last)]
