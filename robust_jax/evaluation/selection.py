"""Which examples of a split an evaluation takes."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from robust_jax import rng
from robust_jax.data import Split, select
from robust_jax.evaluation.protocol import CLEAN, Selection
from robust_jax.evaluation.record import Record


def candidates_of(wanted: Selection, split: Split, seed: int) -> np.ndarray:
    """Returns the rows that are judged clean: the chosen ones, or all whom correctness decides."""
    if wanted.rule == "first":
        return select(split, wanted.num_examples)
    if wanted.rule == "random":
        key = rng.stream(jax.random.key(seed), "selection")
        order = np.asarray(jax.random.permutation(key, len(split)), np.int32)
        first = select(split, wanted.num_examples)  # checks the number
        return np.sort(order[: len(first)])
    return select(split, None)


def chosen_of(
    wanted: Selection,
    candidates: np.ndarray,
    clean: Mapping[str, Mapping[int, Record]],
    judges: Iterable[str],
) -> np.ndarray:
    """Returns the first rows, or the first of each class, that every model gets right.

    By the first judge of those that its records have.
    """
    limit = len(candidates) if wanted.num_examples is None else wanted.num_examples
    counts: dict[int, int] = {}
    rows = []
    for row in candidates.tolist():
        if all(records[row].headline(judges).correct for records in clean.values()):
            group = clean[CLEAN][row].label if wanted.rule == "correct_per_class" else 0
            counts[group] = counts.get(group, 0) + 1
            if counts[group] <= limit:
                rows.append(row)
    if not rows:
        raise ValueError(f"Expected selection={wanted.rule!r} to find an example.")
    return np.asarray(rows, np.int32)
