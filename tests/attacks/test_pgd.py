"""FGSM, BIM, MIM, PGD: targets, restarts, confidence, and what they reject."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import BIM, MIM, PGD, ThreatModel

KEY = jax.random.key(7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 0}, "Expected num_steps=0 >= 1"),
        ({"step_size": -1.0}, "Expected step_size=-1.0 > 0"),
        ({"num_restarts": 0}, "Expected num_restarts=0 >= 1"),
        ({"num_restarts": 2, "random_start": False}, "every restart would be the same"),
    ],
)
def test_pgd_rejects(fields, message):
    with pytest.raises(ValueError, match=message):
        PGD(ThreatModel("linf", 0.1), **fields)


@pytest.mark.slow
def test_targeted_attacks_reach_their_class(digits):
    targets = (digits.labels + 1) % 10
    for make in (BIM, MIM, PGD):
        attack = make(ThreatModel("linf", 0.4), targeted=True, num_steps=20)
        adversarial = attack(digits.view, digits.images, targets, key=KEY)
        reached = jnp.argmax(digits.view(adversarial, key=None), axis=1) == targets
        assert int(reached.sum()) >= 14


def test_best_iterate_and_restarts_never_lose_what_was_won(digits):
    threat = ThreatModel("linf", 0.08)

    def standing(**fields):
        attack = PGD(threat, step_size=0.06, **fields)
        adversarial = attack(digits.view, digits.images, digits.labels, key=KEY)
        logits = digits.view(adversarial, key=None)
        return np.asarray(jnp.argmax(logits, axis=1) == digits.labels)

    best = standing(num_steps=6, keep="best")
    assert not np.any(best & ~standing(num_steps=6, keep="last"))
    assert not np.any(standing(num_steps=6, num_restarts=3) & ~best)
    assert not np.any(standing(num_steps=12) & ~best)


@pytest.mark.slow
def test_parallel_restarts_change_nothing(digits):
    loop = PGD(ThreatModel("linf", 0.08), num_steps=4, num_restarts=3)
    parallel = PGD(ThreatModel("linf", 0.08), num_steps=4, num_restarts=3, parallel=True)
    np.testing.assert_allclose(
        loop(digits.view, digits.images, digits.labels, key=KEY),
        parallel(digits.view, digits.images, digits.labels, key=KEY),
        atol=2e-5,
    )


def test_high_confidence_is_the_goal_that_is_asked_for(digits):
    threat = ThreatModel("linf", 0.5)
    attack = PGD(threat, num_steps=40, min_probability=0.9)
    adversarial = attack(*digits, key=KEY)
    logits = digits.view(adversarial, key=None)
    sure = jnp.max(jax.nn.softmax(logits), axis=1) >= 0.9
    wrong = jnp.argmax(logits, axis=1) != digits.labels
    assert int((sure & wrong).sum()) >= 12
    with pytest.raises(ValueError, match=r"Expected min_probability=1.0 in \[0, 1\)"):
        PGD(threat, min_probability=1.0)
