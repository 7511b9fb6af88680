"""One equation of a jaxpr, evaluated on arrays."""

import contextlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike
from jaxtyping import Array

from robust_jax.runtime.padding import within_reach

MOVES = ("broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose")
"""Operations that put elements in other places, and change none."""


def evaluated(equation: JaxprEqn, operands: Sequence[ArrayLike]) -> list[Array]:
    """Returns the outputs of an equation on arrays, of a product in float32 on every device."""
    params = equation.params
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
        params = {**params, "precision": (lax.Precision.HIGHEST,) * 2}
    if equation.primitive.name == "conv_general_dilated":
        return [_convolve(*operands, **params)]
    # Single numbers stay known under jit, wherever they are put: slopes, thresholds and parts of
    # activations are recognised by their value.
    is_move = equation.primitive.name in MOVES
    known = all(not isinstance(x, Tracer) and (is_move or np.size(x) == 1) for x in operands)
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        outputs = equation.primitive.bind(*operands, **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _convolve(
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    dimension_numbers: lax.ConvDimensionNumbers,
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    **params: object,
) -> Array:
    """Returns a convolution of any layout, computed in NHWC and HWIO.

    XLA:CPU puts other layouts, such as a transposed convolution's, on a naive path in the body
    of a loop.
    """
    (batch, channels, *space), (outputs, inputs, *kernel_space), out_axes = dimension_numbers
    last = len(space) + 1
    spatial = tuple(range(1, last))
    layout = lax.ConvDimensionNumbers(
        (0, last, *spatial), (last, last - 1, *range(last - 1)), (0, last, *spatial)
    )
    x = jnp.transpose(x, (batch, *space, channels))
    x, padding, lhs_dilation = within_reach(
        x,
        padding,
        kernel_size=[np.shape(kernel)[axis] for axis in kernel_space],
        input_dilation=lhs_dilation,
        kernel_dilation=rhs_dilation,
    )
    value = lax.conv_general_dilated_p.bind(
        x,
        jnp.transpose(kernel, (*kernel_space, inputs, outputs)),
        dimension_numbers=layout,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=tuple(rhs_dilation),
        **params,
    )
    batch, channels, *space = out_axes
    return jnp.transpose(value, np.argsort((batch, *space, channels)).tolist())
