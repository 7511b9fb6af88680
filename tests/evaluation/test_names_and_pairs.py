"""What stands in brackets is printed; what is not the same is not paired."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.evaluation import Adversary, AttackRun, Evaluation, Model

IMAGES = np.asarray(jax.random.uniform(jax.random.key(0), (8, 4, 4, 1)))
LABELS = np.arange(8) % 2


def scores(images):
    mean = jnp.mean(images, axis=(1, 2, 3)) - 0.5
    return jnp.stack([mean, -mean], axis=1)


def transferred(slope, labels="true", precision="highest"):
    def source(images):
        return slope * scores(images)

    run = AttackRun(PGD(ThreatModel("linf", 0.02), num_steps=1), source="near")
    asked = Evaluation(
        {"transfer": run}, batch_size=8, sanity=False, measures={}, precision=precision,
        adversary=Adversary(labels=labels, skip_misclassified=False),
    )  # fmt: skip
    sources = {"near": Model.of(source, num_classes=2)}
    return evaluation.run(Model.of(scores, num_classes=2), (IMAGES, LABELS), asked, sources=sources)


def found(before, num_steps=2):
    threat = ThreatModel("linf", 0.02)
    attacks = {
        "b [ce]": AttackRun(PGD(threat, num_steps=before)),
        "c": AttackRun(PGD(threat, num_steps=num_steps), after="b [ce]"),
    }
    asked = Evaluation(attacks, batch_size=8, sanity=False, measures={})
    model = Model.of(scores, num_classes=2, name="net [/v2]")
    return evaluation.run(model, (IMAGES, LABELS), asked)


@pytest.mark.slow
def test_brackets_are_no_markup():
    page = found(1)._repr_html_()
    assert "net [/v2]" in page
    assert "b [ce]" in page


@pytest.mark.slow
def test_what_goes_on_from_others_is_not_paired():
    names = [{pair.attack for pair in found(1).compare(found(other))} for other in (1, 3)]
    assert names[0] - names[1] == {"b [ce]", "c"}


@pytest.mark.slow
def test_what_is_transferred_from_others_is_not_paired():
    first = transferred(1.0)
    assert [pair.attack for pair in first.compare(transferred(1.0))] == ["clean", "transfer"]
    for other in (
        transferred(-1.0), transferred(1.0, labels="predicted"),
        transferred(1.0, precision="default"),
    ):  # fmt: skip
        assert [pair.attack for pair in first.compare(other)] == ["clean"]
