"""Which examples of a split an evaluation takes."""

from collections.abc import Mapping

import jax
import numpy as np

from robust_jax import rng
from robust_jax.data import Split, select
from robust_jax.evaluation.protocol import CLEAN, Evaluation
from robust_jax.evaluation.record import Record


def candidates_of(config: Evaluation, split: Split) -> np.ndarray:
    """Returns the rows that are judged clean: the chosen ones, or all whom correctness decides."""
    if config.selection == "first":
        return select(split, config.num_examples)
    if config.selection == "random":
        key = rng.stream(jax.random.key(config.seed), "selection")
        order = np.asarray(jax.random.permutation(key, len(split)), np.int32)
        first = select(split, config.num_examples)  # checks the number
        return np.sort(order[: len(first)])
    return select(split, None)


def chosen_of(
    config: Evaluation, candidates: np.ndarray, clean: Mapping[str, Mapping[int, Record]]
) -> np.ndarray:
    """Returns the first rows, or the first of each class, that every model gets right."""
    limit = len(candidates) if config.num_examples is None else config.num_examples
    counts: dict[int, int] = {}
    rows = []
    for row in candidates.tolist():
        if all(found[row].headline(config.judges).correct for found in clean.values()):
            group = clean[CLEAN][row].label if config.selection == "correct_per_class" else 0
            counts[group] = counts.get(group, 0) + 1
            if counts[group] <= limit:
                rows.append(row)
    if not rows:
        raise ValueError(f"Expected selection={config.selection!r} to find an example.")
    return np.asarray(rows, np.int32)
