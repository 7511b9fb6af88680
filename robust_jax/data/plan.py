"""Which rows of a split each step sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from robust_jax.data.order import permutation
from robust_jax.data.split import Split

Indices = int | Sequence[int] | np.ndarray | None
"""Chosen rows: all (None), the first n, or the rows themselves."""


@dataclass(frozen=True)
class TrainPlan:
    """Which rows step s trains on."""

    seed: int
    num_rows: int
    batch_size: int
    first_epoch: int

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        """Returns the epoch of a step and its rows."""
        epoch, position = divmod(step, self.num_rows // self.batch_size)
        epoch += self.first_epoch
        start = position * self.batch_size
        return epoch, _epoch_order(self.seed, epoch, self.num_rows)[start : start + self.batch_size]


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return permutation(seed, "epoch order", epoch, num_rows)


@dataclass(frozen=True, eq=False)
class EvalPlan:
    """Which rows step s evaluates; -1 is padding."""

    rows: np.ndarray
    batch_size: int

    def __call__(self, step: int) -> tuple[None, np.ndarray]:
        """Returns None (no random crop) and the rows of a step."""
        rows = self.rows[step * self.batch_size : (step + 1) * self.batch_size]
        return None, np.pad(rows, (0, self.batch_size - len(rows)), constant_values=-1)


Plan = TrainPlan | EvalPlan


def select(split: Split, indices: Indices = None) -> np.ndarray:
    """Returns the chosen rows of a split as int32: all (None), the first n, or those given.

    Args:
        split: the examples.
        indices: how many, or which.

    Raises:
        ValueError: nothing is chosen, a row is outside the split, or one is chosen twice.

    Example:
        >>> from robust_jax.data import from_arrays, select
        >>> split = from_arrays(np.zeros((5, 2, 2, 1)), np.arange(5), num_classes=5)
        >>> select(split, 3), select(split, [4, 0])
        (array([0, 1, 2], dtype=int32), array([4, 0], dtype=int32))
        >>> select(split, [5])
        Traceback (most recent call last):
            ...
        ValueError: Expected index=5 in [0, 5).
    """
    if len(split) == 0:
        hint = " (set validation_size)" if split.name == "validation" else ""
        raise ValueError(f"Expected the {split.name} split not to be empty{hint}.")
    if indices is None:
        return np.arange(len(split), dtype=np.int32)
    if isinstance(indices, (int, np.integer)):
        if not 1 <= indices <= len(split):
            raise ValueError(
                f"Expected indices={indices}, the first examples, in [1, {len(split)}]."
            )
        return np.arange(indices, dtype=np.int32)
    rows = np.asarray(indices)
    if rows.ndim != 1 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"Expected indices of shape {rows.shape} and dtype {rows.dtype} to be integer rows [n]."
        )
    bad = rows[(rows < 0) | (rows >= len(split))]
    if bad.size:
        raise ValueError(f"Expected index={bad[0]} in [0, {len(split)}).")
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) != len(rows):
        raise ValueError(f"Expected index={unique[counts > 1][0]} to be chosen once.")
    return rows.astype(np.int32)
