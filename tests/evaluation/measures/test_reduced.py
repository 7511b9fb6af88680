"""Every measure at the small budget: a field that costs work is smaller there, or listed here."""

import dataclasses
import typing

import pytest

from robust_jax.attacks import PGD, Attack, ThreatModel
from robust_jax.evaluation import measures
from robust_jax.evaluation.measures import Measure

LONG = PGD(ThreatModel("linf", 0.1), num_restarts=99)
MEASURES = [
    found
    for name in measures.__all__
    if isinstance(found := getattr(measures, name), type)
    and issubclass(found, Measure)
    and found is not Measure
]
KEPT = {
    ("Agreement", "num_draws"),  # its number is of so many draws
    ("Agreement", "num_repeats"),  # of passes alone
    ("Gradients", "num_pictures"),  # of gradients that it takes anyway
    ("Latency", "batch_size"),  # what is measured
    ("Latency", "num_repeats"),  # of calls of one batch
}
"""Fields that a small budget leaves as they are, and why."""


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_what_costs_work_is_smaller(measure):
    hints = typing.get_type_hints(measure)
    counts = [name for name, kind in hints.items() if int in (kind, *typing.get_args(kind))]
    assert "num_examples" in counts
    fields = {name: 99_999 for name in counts if (measure.__name__, name) not in KEPT}
    kinds = {name: kind for name, kind in hints.items() if kind in (Attack, dict[str, Attack])}
    fields |= {name: LONG if kind is Attack else {"a": LONG} for name, kind in kinds.items()}
    large = measure(**fields)
    small = large.reduced()
    assert type(small) is measure
    for name in fields:
        before, after = getattr(large, name), getattr(small, name)
        if name in kinds:
            assert after == (LONG.reduced() if before == LONG else {"a": LONG.reduced()}), name
        else:
            assert after < before, f"{name}: smaller in reduced(), or in KEPT with the reason"
    for field in dataclasses.fields(measure):
        if field.name not in fields:
            assert getattr(small, field.name) == getattr(large, field.name)
    assert small.reduced() == small
    if "num_examples" in fields:
        assert dataclasses.replace(large, num_examples=None).reduced() == small
