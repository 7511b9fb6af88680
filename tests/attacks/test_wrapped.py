"""Attacks on the average of random draws and on rescaled logits."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax.attacks import APGD, FGSM, MORA, PGD, Averaged, Rescaled, ThreatModel

KEY = jax.random.key(29)
THREAT = ThreatModel("linf", 0.1)


def test_rescaling_saves_a_saturated_model(digits):
    def saturated(images, *, key):
        # A power of two, whose product has no rounding that fused code could do otherwise.
        return 2.0**20 * digits.view(images, key=key)

    threat = ThreatModel("linf", 0.3)

    def fallen(attack):
        adversarial = attack(saturated, digits.images, digits.labels, key=KEY)
        decisions = jnp.argmax(digits.view(adversarial, key=None), axis=1)
        return int(jnp.sum(decisions != digits.labels))

    # Most gradients are exactly zero in float32.
    assert fallen(FGSM(threat)) <= 4
    assert fallen(Rescaled(threat, FGSM(threat))) >= 8


def test_a_success_is_what_the_attack_inside_goes_by():
    """Of three members, one of them sure: their vote is not their mean."""
    votes = jnp.asarray([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 9.0]]])
    inner = MORA(THREAT, rule="voting")
    for attack in (Rescaled(THREAT, inner), Averaged(THREAT, inner)):
        assert jnp.argmax(attack.success_scores(votes), axis=1).tolist() == [0]


@pytest.mark.slow
def test_averaged_attacks_a_random_model(digits):
    def noisy(images, *, key):
        return digits.view(images + 0.3 * jax.random.normal(key, images.shape), key=None)

    threat = ThreatModel("linf", 0.2)
    attack = Averaged(threat, APGD(threat, num_steps=20), num_samples=10)
    adversarial = attack(noisy, digits.images, digits.labels, key=KEY)
    draws = jnp.stack([noisy(adversarial, key=jax.random.key(s)) for s in range(20)])
    right = jnp.mean(jnp.argmax(draws, axis=2) == digits.labels[None])
    clean = jnp.stack([noisy(digits.images, key=jax.random.key(s)) for s in range(20)])
    assert float(right) < 0.5 < float(jnp.mean(jnp.argmax(clean, axis=2) == digits.labels[None]))


def test_the_plan_is_that_of_the_attack_itself():
    """Runs at once are the inner attack's choice, draws at once the average's."""
    for inner in (PGD(THREAT, num_restarts=3), PGD(THREAT, num_restarts=3, parallel=True)):
        for attack in (Averaged(THREAT, inner, parallel_draws=True), Rescaled(THREAT, inner)):
            assert (attack.num_runs, attack.parallel) == (3, inner.parallel)


def test_rejects(linear):
    with pytest.raises(ValueError, match=r"Expected attack=PGD.*with threat=ThreatModel"):
        Averaged(THREAT, PGD(ThreatModel("linf", 0.2)))
    with pytest.raises(ValueError, match=r"Expected sharpness=0.0 > 0"):
        Rescaled(THREAT, PGD(THREAT), sharpness=0.0)
    with pytest.raises(ValueError, match="Expected num_classes=2 >= 3 to scale logits"):
        Rescaled(THREAT, PGD(THREAT))(*linear, key=KEY)
