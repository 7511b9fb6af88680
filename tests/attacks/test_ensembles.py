"""Attacks on an ensemble by the logits of its members."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import APGD, MORA, ThreatModel, ensembles

KEY = jax.random.key(29)
THREAT = ThreatModel("linf", 0.1)


@pytest.fixture(scope="module")
def members(many_digits):
    """Three members that agree on the images: one very sure, one turned about, one blurred."""
    base = many_digits.view
    images = many_digits.images

    def logits(images, *, key):
        del key
        blurred = (images + jnp.roll(images, 1, axis=1) + jnp.roll(images, -1, axis=1)) / 3
        return jnp.stack(
            [
                40 * base(images, key=None),
                base(0.8 * images + 0.1, key=None),
                base(0.6 * images + 0.4 * blurred, key=None),
            ]
        )

    decisions = jnp.argmax(logits(images, key=None), axis=2)
    agree = np.flatnonzero(np.all(decisions == many_digits.labels[None], axis=0))[:24]
    return logits, images[agree], many_digits.labels[agree]


def standing(members, adversarial, rule):
    logits, _, labels = members
    scores = ensembles.decide(logits(adversarial, key=None), rule)
    return int(jnp.sum(jnp.argmax(scores, axis=1) == labels))


def test_rules_by_hand():
    logits = jnp.asarray([[[2.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    np.testing.assert_allclose(ensembles.decide(logits, "voting"), jnp.full((1, 3), 1 / 3))
    np.testing.assert_allclose(
        ensembles.decide(logits, "logits"), [[2 / 3, 1 / 3, 1 / 3]], rtol=1e-6
    )
    np.testing.assert_allclose(
        jnp.exp(ensembles.decide(logits, "softmax")),
        jax.nn.softmax(logits).mean(axis=0),
        rtol=1e-6,
    )


def test_loss_by_hand():
    # Gaps of 2, 4 and 1: however sure a member is, the class it prefers has probability 4 / 6.
    logits = jnp.log(2.0) * jnp.asarray([[[2.0, 0.0, 0.0]], [[0.0, 4.0, 0.0]], [[0.0, 0.0, 1.0]]])
    own = jnp.asarray([0])
    for rule in ("softmax", "voting"):
        attack = MORA(THREAT, rule=rule, sharpness=2 * float(np.log(2)))
        loss = attack.members_loss(logits, own, own)
        np.testing.assert_allclose(loss, -np.log((4 / 6 + 1 / 6 + 1 / 6) / 3), rtol=1e-5)
    # The mean is log 2 / 3 * (2, 4, 1), its gap log 2: with sharpness log 2 powers of two.
    loss = MORA(THREAT, rule="logits", sharpness=float(np.log(2)))
    found = loss.members_loss(logits, own, own)
    powers = 2.0 ** (np.array([2, 4, 1]) / 3)
    np.testing.assert_allclose(found, -np.log(powers[0] / powers.sum()), rtol=1e-5)


@pytest.mark.parametrize(
    "rule", ["softmax", *(pytest.param(r, marks=pytest.mark.slow) for r in ("logits", "voting"))]
)
def test_mora_beats_apgd_on_the_mean_softmax(rule, members):
    logits, images, labels = members
    mora = MORA(THREAT, rule=rule, num_steps=30)(logits, images, labels, key=KEY)
    assert float(THREAT.distance(mora, images).max()) <= THREAT.eps + 1e-6

    def mean_softmax(images, *, key):
        return ensembles.decide(logits(images, key=key), "softmax")

    apgd = APGD(THREAT, num_steps=30)(mean_softmax, images, labels, key=KEY)
    assert standing(members, mora, rule) <= standing(members, apgd, rule)
    assert standing(members, mora, rule) < 24


@pytest.mark.slow
def test_mora_tries_targets_and_rows_are_independent(members):
    logits, images, labels = members
    plain = MORA(THREAT, num_steps=10)(logits, images, labels, key=KEY)
    attack = MORA(THREAT, num_steps=10, num_targets=2)
    targeted = attack(logits, images, labels, key=KEY)
    assert standing(members, targeted, "softmax") <= standing(members, plain, "softmax")
    part = attack(logits, images[5:8], labels[5:8], key=KEY, index=jnp.asarray([5, 6, 7]))
    np.testing.assert_allclose(part, targeted[5:8], atol=2e-5)


def test_rejects():
    with pytest.raises(ValueError, match="Expected num_targets=-1 >= 0"):
        MORA(THREAT, num_targets=-1)
