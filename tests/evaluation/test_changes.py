"""What a record says of the change that an attack made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import evaluation
from robust_jax.attacks import FGSM, PGD, SparseRS, ThreatModel
from robust_jax.evaluation import AttackRun, Evaluation, Model
from robust_jax.evaluation.protocol import Adversary


@pytest.mark.slow
def test_changes_are_measured_in_every_norm():
    """On images of two channels, of which a pixel counts once; L1 and L0 balls are kept."""
    images = jax.random.uniform(jax.random.key(0), (6, 4, 3, 2))
    labels = jnp.asarray([0, 1, 0, 1, 0, 1])
    weights = jax.random.normal(jax.random.key(1), (24, 2))
    model = Model.of(lambda images: images.reshape(len(images), -1) @ weights, num_classes=2)
    attacks = {
        "l1": PGD(ThreatModel("l1", 2.5), num_steps=5),
        "l0": SparseRS(ThreatModel("l0", 3.0), num_queries=5),
        "far": FGSM(ThreatModel("linf", 1.0)),  # every value goes to a bound of the box
    }
    wanted = Evaluation(
        {name: AttackRun(attack) for name, attack in attacks.items()},
        adversary=Adversary(skip_misclassified=False), batch_size=8, sanity=False, measures={},
    )  # fmt: skip
    found = evaluation.run(model, (images, labels), wanted).records
    assert all(0 < r.l1 <= 2.5 * (1 + 1e-5) for r in found["l1"].values())
    assert all(1 <= r.l0 <= 3 for r in found["l0"].values())
    for row, record in found["far"].items():
        up = weights[:, 1 - labels[row]] > weights[:, labels[row]]
        change = np.where(up, 1 - images[row].ravel(), images[row].ravel())
        assert record.l0 == 12
        assert record.l1 == pytest.approx(change.sum(), rel=1e-5)
        assert record.l2 == pytest.approx(np.sqrt((change**2).sum()), rel=1e-5)
        assert record.linf == pytest.approx(change.max(), rel=1e-5)
