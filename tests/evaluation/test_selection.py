"""The first examples stand for all: of rows that lie class by class they do not."""

import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation
from robust_jax.data import from_arrays
from robust_jax.evaluation import Evaluation, Model, Selection, selection

ORDERED = np.repeat(np.arange(4), 100)
MIXED = np.random.default_rng(0).permutation(ORDERED)


def split(labels, num_classes=4):
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return from_arrays(images, labels, num_classes=num_classes)


def test_ordered_rows_are_refused():
    """A model that says 0 would be right on all of the first hundred."""
    model = Model.of(lambda images: jnp.zeros((len(images), 4)).at[:, 0].set(1), num_classes=4)
    wanted = Evaluation(selection=Selection(num_examples=100), sanity=False, measures={})
    with pytest.raises(ValueError, match=r"first 100 of 400 images .* 3 classes are missing"):
        evaluation.run(model, split(ORDERED), wanted)
    drawn = Evaluation(
        selection=Selection(rule="random", num_examples=100), sanity=False, measures={}
    )
    assert evaluation.run(model, split(ORDERED), drawn).summary["clean_accuracy"] < 0.5


@pytest.mark.parametrize(
    ("labels", "number", "refused"),
    [
        (ORDERED, 400, False),  # all
        (ORDERED, 150, True),
        (ORDERED, 20, False),  # fifteen of other classes: of few nothing is said
        (MIXED, 40, False),
        (np.zeros(400, int), 100, False),  # there are no others
        (np.append(MIXED, np.full(9, 3)), 100, False),
        # A class that is rare is missing by chance, and many of many classes.
        (np.where(np.arange(4000) == 3999, 3, 0), 1000, False),
        (np.random.default_rng(1).integers(0, 200, 10_000), 300, False),
        (np.sort(np.random.default_rng(1).integers(0, 200, 10_000)), 300, True),
    ],
)
def test_what_is_missing_by_chance_is_none(labels, number, refused):
    rows = np.arange(number, dtype=np.int32)
    found = split(labels, max(4, int(labels.max()) + 1))
    if refused:
        with pytest.raises(ValueError, match="lie in an order"):
            selection.check_mixed(found, rows)
    else:
        selection.check_mixed(found, rows)
