"""Which examples of a split an evaluation takes."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from robust_jax import rng
from robust_jax.data import Split, select
from robust_jax.evaluation.protocol import CLEAN, Selection
from robust_jax.evaluation.record import Record


def candidates_of(wanted: Selection, split: Split, seed: int) -> np.ndarray:
    """Returns the rows that are judged clean: the chosen ones, or all whom correctness decides.

    Raises:
        ValueError: a number of examples that the split has not, or the first of them are of too
            few classes to be in no order.
    """
    if wanted.rule == "first":
        rows = select(split, wanted.num_examples)
        check_mixed(split, rows)
        return rows
    if wanted.rule == "random":
        key = rng.stream(jax.random.key(seed), "selection")
        order = np.asarray(jax.random.permutation(key, len(split)), np.int32)
        first = select(split, wanted.num_examples)  # checks the number
        return np.sort(order[: len(first)])
    return select(split, None)


def check_mixed(split: Split, rows: np.ndarray) -> None:
    """Raises ValueError where rows lack classes that as many drawn at random would not.

    Of rows that lie class by class the first say nothing of the others.

    Args:
        split: which.
        rows: of it, that are to stand for all of it.
    """
    labels = getattr(split.examples, "labels", None)
    if labels is None or len(rows) == len(split):  # not known without reading the images
        return
    of_split = np.asarray(labels)[split.rows]
    counts = np.bincount(of_split, minlength=split.num_classes)
    expected = counts * (len(rows) / len(split))
    missing = np.bincount(of_split[rows], minlength=split.num_classes) == 0
    # So many of the chosen ones would be of classes that they lack, and by chance.
    lacking, by_chance = np.sum(expected[missing]), np.sum(expected * np.exp(-expected))
    if lacking > 2 * by_chance + 20:
        raise ValueError(
            f"Expected the first {len(rows)} of {len(split)} images of the {split.name} split to "
            f"be of all classes: {np.sum(missing & (counts > 0))} classes are missing, so they lie "
            "in an order. Take selection.rule='random', or mix the rows of the data."
        )


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
