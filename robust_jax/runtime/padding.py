"""Padding of convolutions that XLA:CPU computes rightly."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from robust_jax.runtime.compilation import computed_once

Pads = tuple[tuple[int, int], ...]
"""(low, high) of each spatial dimension; negative where an edge is cut."""


def within_reach(
    x: Float[Array, "b *space k"],
    padding: Sequence[tuple[int, int]],
    *,
    kernel_size: Sequence[int],
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
) -> tuple[Float[Array, "b *padded k"], Pads, tuple[int, ...]]:
    """Returns a convolution's input, padding and input dilation with which it is computed rightly.

    XLA:CPU of jaxlib 0.10 (not of 0.12) reads beyond the input where one padding is negative and
    another is not, as in the transpose of a convolution whose padding is wider than its kernel's
    reach. What is negative is cut here before, and what is wider than the reach padded, so that
    neither the convolution nor its transpose has a negative padding.

    Args:
        x: input, channels last.
        padding: (low, high) of each spatial dimension.
        kernel_size: positions of the kernel along each.
        input_dilation: zeros put between inputs, plus one; None is 1.
        kernel_dilation: zeros put between kernel positions, plus one; None is 1.

    Returns:
        The input as it was and what was given, wherever no edge is beyond the reach.

    Example:
        >>> from robust_jax.runtime.padding import within_reach
        >>> x, padding, _ = within_reach(
        ...     jnp.ones((1, 4, 4, 3)), [(-1, 1), (5, 2)], kernel_size=(3, 3)
        ... )
        >>> x.shape, padding
        ((1, 3, 7, 3), ((0, 1), (2, 2)))
    """
    input_dilation = tuple(input_dilation or (1,) * len(padding))
    kernel_dilation = kernel_dilation or (1,) * len(padding)
    given: Pads = tuple((int(low), int(high)) for low, high in padding)
    reach = [(size - 1) * b for size, b in zip(kernel_size, kernel_dilation, strict=True)]
    inner: Pads = tuple(
        (min(max(low, 0), r), min(max(high, 0), r))
        for (low, high), r in zip(given, reach, strict=True)
    )
    if inner == given:
        return x, given, input_dilation
    outer = [
        (low - i, high - j, a - 1)
        for (low, high), (i, j), a in zip(given, inner, input_dilation, strict=True)
    ]
    # The barrier keeps XLA from making one of both again.
    x = computed_once(lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *outer, (0, 0, 0)]))
    return x, inner, (1,) * len(given)
