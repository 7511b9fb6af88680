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
    wanted = config.selection
    if wanted.rule == "first":
        return select(split, wanted.num_examples)
    if wanted.rule == "random":
        key = rng.stream(jax.random.key(config.seed), "selection")
        order = np.asarray(jax.random.permutation(key, len(split)), np.int32)
        first = select(split, wanted.num_examples)  # checks the number
        return np.sort(order[: len(first)])
    return select(split, None)


def chosen_of(
    config: Evaluation, candidates: np.ndarray, clean: Mapping[str, Mapping[int, Record]]
) -> np.ndarray:
    """Returns the first rows, or the first of each class, that every model gets right."""
    wanted = config.selection
    limit = len(candidates) if wanted.num_examples is None else wanted.num_examples
    counts: dict[int, int] = {}
    rows = []
    for row in candidates.tolist():
        if all(records[row].headline(config.judges).correct for records in clean.values()):
            group = clean[CLEAN][row].label if wanted.rule == "correct_per_class" else 0
            counts[group] = counts.get(group, 0) + 1
            if counts[group] <= limit:
                rows.append(row)
    if not rows:
        raise ValueError(f"Expected selection={wanted.rule!r} to find an example.")
    return np.asarray(rows, np.int32)
