"""Kernel average pooling: every channel becomes the mean of its neighbours on a grid of channels.

Bashivan et al., "Learning Robust Kernel Ensembles with Kernel Average Pooling", arXiv 2210.00062,
2022, equations 2 and 10, algorithm 1. The grid of twelve channels, and the window of channel 6 for
K = 3 and S = 1; that of channel 0 has the four cells 0, 1, 4 and 5:

    0 [ 1   2   3 ]
    4 [ 5   6   7 ]
    8 [ 9  10  11 ]
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from robust_jax import checks


@dataclasses.dataclass(frozen=True)
class KernelPool:
    """Pooling over neighbouring channels.

    Attributes:
        kind: "average" (KAP) or "max" (kernel max pooling, the paper's control).
        kernel_size: K, cells of the window along each axis of the grid.
        stride: S.
        dimensions: 2 for a grid of channels (algorithm 1), 1 for a line (equation 2).
        grids: (rows, columns) of each channel count that occurs; empty for closest factors.
        count_include_pad: divide by K^2 everywhere, as if cells outside the grid were zeros.
        restore_channels: for stride > 1, zeros around the pooled grid keep the channel count.

    Raises:
        ValueError: K or S below 1, or grids of a line; where it is called, channels that no grid
            holds, a window wider than the grid, or a pooled grid that cannot stand in the middle.

    References:
        Bashivan et al., arXiv 2210.00062, 2022, equation 2 (line), equation 10 and algorithm 1
        (grid).

    Example:
        >>> from robust_jax.methods import KernelPool
        >>> pool = KernelPool(kernel_size=3)
        >>> pool.grid(12)
        (3, 4)
        >>> channels = jnp.arange(12.0)
        >>> channels.reshape(3, 4)
        Array([[ 0.,  1.,  2.,  3.],
               [ 4.,  5.,  6.,  7.],
               [ 8.,  9., 10., 11.]], dtype=float32)
        >>> jax.jit(pool)(channels).reshape(3, 4)  # 2.5 is the mean of 0, 1, 4 and 5
        Array([[2.5, 3. , 4. , 4.5],
               [4.5, 5. , 6. , 6.5],
               [6.5, 7. , 8. , 8.5]], dtype=float32)
        >>> jax.eval_shape(KernelPool(kernel_size=3, stride=3), jnp.zeros((2, 81))).shape
        (2, 9)
    """

    kind: Literal["average", "max"] = "average"
    kernel_size: int = 3
    stride: int = 1
    dimensions: Literal[1, 2] = 2
    grids: tuple[tuple[int, int], ...] = ()
    count_include_pad: bool = False
    restore_channels: bool = False

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "kernel_size", "stride")
        if self.dimensions == 1 and self.grids:
            raise ValueError(f"Expected grids={self.grids} to be empty with dimensions=1.")

    def grid(self, num_channels: int) -> tuple[int, int]:
        """Returns rows and columns of the grid; channel c lies at row c // columns.

        Raises:
            ValueError: no given grid holds that many channels, or the window is larger.
        """
        if self.dimensions == 1:
            rows, columns = 1, num_channels
        elif self.grids:
            found = [grid for grid in self.grids if grid[0] * grid[1] == num_channels]
            if not found:
                raise ValueError(
                    f"Expected grids={self.grids} to have one of the {num_channels} channels."
                )
            rows, columns = found[0]
        else:
            rows = max(r for r in range(1, math.isqrt(num_channels) + 1) if num_channels % r == 0)
            columns = num_channels // rows
        smallest = columns if self.dimensions == 1 else min(rows, columns)
        if self.kernel_size > smallest:
            raise ValueError(
                f"Expected kernel_size={self.kernel_size} <= {smallest}, the shorter side of the "
                f"{rows} x {columns} grid of {num_channels} channels."
            )
        return rows, columns

    def __call__(self, x: Float[Array, "*b k"]) -> Float[Array, "*b out"]:
        """Returns x pooled along its last axis; every other axis is left alone.

            out_k = 1/K (x_l summed over l = S k - (K-1)/2 ... S k + (K-1)/2)    (equation 2)

        along a line of channels, or along both axes of the grid in turn (algorithm 1). The mean is
        over the channels that exist; with kind="max" it is their maximum.
        """
        rows, columns = self.grid(x.shape[-1])
        grid = x.reshape((*x.shape[:-1], rows, columns))
        axes = (grid.ndim - 1,) if self.dimensions == 1 else (grid.ndim - 2, grid.ndim - 1)
        combine = jnp.add if self.kind == "average" else jnp.maximum
        outside = 0.0 if self.kind == "average" else -jnp.inf
        for axis in axes:
            grid = self._slide(grid, axis, combine, outside)
        if self.kind == "average":
            # Equation 10's 1/K^2, over the cells that exist.
            grid = grid / self._counts(rows, columns, grid.ndim).astype(grid.dtype)
        if self.restore_channels:
            grid = self._restore(grid, rows, columns)
        return grid.reshape((*x.shape[:-1], -1))

    def _padding(self) -> tuple[int, int]:
        low = (self.kernel_size - 1) // 2
        return low, self.kernel_size - 1 - low if self.stride == 1 else low

    def _slide(
        self, grid: Array, axis: int, combine: Callable[[Array, Array], Array], outside: float
    ) -> Array:
        """Returns every window along an axis, combined.

        K shifted slices, which XLA fuses into one pass: no gather, no K x K copies.
        """
        low, high = self._padding()
        padding = [(0, 0, 0)] * grid.ndim
        padding[axis] = (low, high, 0)
        padded = lax.pad(grid, jnp.asarray(outside, grid.dtype), padding)
        num_out = (padded.shape[axis] - self.kernel_size) // self.stride + 1
        span = (num_out - 1) * self.stride + 1
        return functools.reduce(
            combine,
            [
                lax.slice_in_dim(padded, start, start + span, self.stride, axis)
                for start in range(self.kernel_size)
            ],
        )

    def _counts(self, rows: int, columns: int, ndim: int) -> np.ndarray:
        """Returns how many cells of each window exist, or K^2."""
        if self.count_include_pad:
            return np.full((1,) * ndim, float(self.kernel_size**self.dimensions))
        low, high = self._padding()

        def along(length: int) -> np.ndarray:
            starts = np.arange(-low, length + high - self.kernel_size + 1, self.stride)
            ends = np.minimum(starts + self.kernel_size, length)
            return (ends - np.maximum(starts, 0)).astype(np.float64)

        row_counts = along(rows) if self.dimensions == 2 else np.ones(1)
        counts = row_counts[:, None] * along(columns)[None, :]
        return counts.reshape((1,) * (ndim - 2) + counts.shape)

    def _restore(self, grid: Array, rows: int, columns: int) -> Array:
        """Returns the grid in the middle of a grid of zeros that has all rows and columns."""
        missing = (rows - grid.shape[-2], columns - grid.shape[-1])
        if missing[0] % 2 or missing[1] % 2:
            raise ValueError(
                f"Expected restore_channels=True to have an even margin around "
                f"{grid.shape[-2]} x {grid.shape[-1]} in {rows} x {columns}."
            )
        margins = [(0, 0, 0)] * (grid.ndim - 2) + [(m // 2, m // 2, 0) for m in missing]
        return lax.pad(grid, jnp.zeros((), grid.dtype), margins)
