"""Of a model that was handed in, a measure says what it lacks, or measures."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax import serialization
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.evaluation import Model
from robust_jax.evaluation.measures import (
    Activations,
    FilterSheet,
    Found,
    KeepRate,
    Measure,
    Subject,
)
from tests.models.test_modules import EXPECTED, IMAGES, KINDS

OTHERS = (Activations(attack=PGD(ThreatModel("linf", 0.1))), FilterSheet(pooled_only=False))
KINDS_OF_MEASURES = serialization.kinds(Measure).values()
MEASURES = [cls() for cls in KINDS_OF_MEASURES if cls is not Activations] + [*OTHERS]


def function():
    weights = jax.random.normal(jax.random.key(0), (IMAGES[0].size, 4))
    return Model.of(lambda images: images.reshape(len(images), -1) @ weights, num_classes=4)


@pytest.mark.parametrize("make", [function, *KINDS], ids=lambda make: make.__name__)
def test_a_measure_runs_or_says_what_is_missing(make):
    model = make()
    subject = Subject(
        model.method, model.config, model.variables, jnp.asarray(IMAGES),
        jnp.asarray(EXPECTED.argmax(-1)), list("abcd"), jax.random.key(1), batch_size=4,
    )  # fmt: skip
    missing = [measure.missing(subject) for measure in MEASURES]
    assert missing[MEASURES.index(KeepRate())] == "Laplace priority dropout"
    assert None in missing
    for measure, words in zip(MEASURES, missing, strict=True):
        if words is None:
            found = measure(subject)
            assert isinstance(found, Found)
            assert found.numbers
