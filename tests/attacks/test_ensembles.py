"""Attacks on an ensemble by the logits of its members."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import serialization, voting
from robust_jax.attacks import (
    APGD,
    MORA,
    Attack,
    ThreatModel,
    ensembles,
    losses,
    over_radii,
    trajectory,
)

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


@pytest.mark.parametrize("vote", [vote for vote in get_args(voting.Vote) if vote != "borda"])
def test_what_succeeds_is_what_the_vote_gets_wrong(vote):
    """Equal votes too: a third of these images have some."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 300, 4)), jnp.float32)
    attack = MORA.of_vote(THREAT, vote)
    found = jnp.argmax(ensembles.decide(logits, attack.rule, attack.ties), axis=1)
    np.testing.assert_array_equal(found, jnp.argmax(voting.scores(logits, vote), axis=1))


@pytest.mark.slow
def test_a_vote_stands_or_falls_at_every_radius():
    """Two members of three are wrong from .05 on, unsurely: the mean probability never is."""

    def view(images, *, key):
        del key
        bright = jnp.mean(images, axis=(1, 2, 3))
        unsure = jnp.stack([0 * bright, bright - 0.55], axis=1)
        return jnp.stack([unsure, unsure, jnp.stack([10 + 0 * bright, 0 * bright], axis=1)])

    images, labels = jnp.full((4, 2, 2, 1), 0.5), jnp.zeros(4, jnp.int32)
    attack = MORA(THREAT, num_steps=10, rule="voting", mixtures=(0.5,), num_targets=0)
    found = over_radii(attack, view, images, labels, eps=[0.04, 0.1], key=KEY)
    np.testing.assert_array_equal(found.standing, [[True] * 4, [False] * 4])


def test_weights_are_the_derivative_of_the_mean_softmax():
    logits = jax.random.normal(KEY, (4, 6, 5))
    labels = jnp.argmax(logits.sum(axis=0), axis=1)

    def rise(logits, rival):
        log_mean = ensembles.decide(logits, "softmax")
        return losses.gap(log_mean, labels, rival)

    reweighed = jax.jit(
        lambda *of, wrong_too: ensembles.reweighed(*of, 1.0, wrong_too), static_argnames="wrong_too"
    )
    rival = losses.ranked_targets(ensembles.decide(logits, "softmax"), labels, 1)[:, 0]
    slope = jax.jit(jax.grad(lambda logits: rise(logits, rival).sum()))(logits)
    weights = 4 * np.take_along_axis(np.asarray(slope), np.asarray(rival)[None, :, None], axis=2)
    expected = (weights * logits).sum(axis=0) / weights.sum(axis=0)
    found = reweighed(logits, labels, wrong_too=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Members that are wrong are left out; where all of them are, so is everything.
    right = np.asarray(logits).argmax(axis=2)[..., None] == np.asarray(labels)[None, :, None]
    assert 0 < right.mean() < 1
    weights = weights * right.astype(weights.dtype)
    found = reweighed(logits, labels, wrong_too=False)
    expected = (weights * logits).sum(axis=0) / weights.sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    worst = jnp.argmin(logits[0], axis=1)
    found = reweighed(logits[:1], worst, wrong_too=False)
    np.testing.assert_array_equal(found, 0)


def test_mixtures_by_hand():
    # One member leads by 20: all logits are halved. With beta = 0 all members weigh the same.
    logits = jnp.asarray([[[20.0, 0.0, 0.0]], [[2.0, 1.0, 0.0]]])
    label = jnp.asarray([0])
    logit_rule, votes = MORA(THREAT, rule="logits"), MORA(THREAT, rule="voting")
    members = np.asarray([[5.5, 0.25, 0.0]])
    np.testing.assert_allclose(logit_rule.mixed(logits, label, jnp.float32(1)), members, rtol=1e-6)
    mean = np.asarray([[11, 0.5, 0.0]]) / 10.5
    np.testing.assert_allclose(logit_rule.mixed(logits, label, jnp.float32(0)), mean, rtol=1e-6)
    half = logit_rule.mixed(logits, label, jnp.float32(0.5))
    np.testing.assert_allclose(half, (members + mean) / 2, rtol=1e-6)
    # Of votes both members lead by one.
    log_mean = np.log((jax.nn.softmax(jnp.asarray([[1.0, 0, 0], [2, 1, 0]]))).mean(axis=0))
    lead = log_mean[0] - log_mean[1]
    mixed = votes.mixed(logits, label, jnp.float32(0))
    np.testing.assert_allclose(mixed, log_mean[None] / lead, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["softmax", "logits", "voting"])
def test_mora_beats_apgd_on_the_mean_softmax(rule, members):
    logits, images, labels = members
    attack = MORA(THREAT, rule=rule, num_steps=30, num_targets=2)
    assert attack.num_runs == 7
    mora = attack(logits, images, labels, key=KEY)
    assert float(THREAT.distance(mora, images).max()) <= THREAT.eps + 1e-6

    def mean_softmax(images, *, key):
        return ensembles.decide(logits(images, key=key), "softmax")

    apgd = APGD(THREAT, num_steps=30)(mean_softmax, images, labels, key=KEY)
    assert standing(members, mora, rule) <= standing(members, apgd, rule)
    assert standing(members, mora, rule) < 24


@pytest.mark.slow
def test_each_kind_of_run_is_one_and_rows_are_independent(members):
    logits, images, labels = members
    attack = MORA(THREAT, num_steps=10, num_targets=2, mixtures=(0.5, 0.0))
    way = trajectory(attack, logits, images, labels, key=KEY)
    assert way.losses.shape == (4, 11, 24)
    np.testing.assert_array_equal(way.images, attack(logits, images, labels, key=KEY))
    fallen = np.asarray(way.successes).any(axis=(0, 1))
    assert standing(members, way.images, "softmax") == np.sum(~fallen)
    # What a run towards a class raises is its probability's logarithm.
    assert np.all(np.asarray(way.losses)[2:] <= 0)
    part = attack(logits, images[5:8], labels[5:8], key=KEY, index=jnp.asarray([5, 6, 7]))
    np.testing.assert_allclose(part, way.images[5:8], atol=2e-5)


def test_rejects():
    for fields, message in (
        ({"num_targets": -1}, "Expected num_targets=-1 >= 0"),
        ({"beta": -1.0}, "Expected beta=-1.0 >= 0"),
        ({"mixtures": (5.0,)}, r"Expected mixtures=\(5.0,\) to be shares in \[0, 1\]"),
        ({"mixtures": (), "num_targets": 0}, r"Expected mixtures=\(\) with num_targets=0"),
    ):
        with pytest.raises(ValueError, match=message):
            MORA(THREAT, **fields)


def test_a_stored_attack_of_its_earlier_form_is_refused_in_a_line():
    stored = serialization.to_json(MORA(THREAT))
    assert serialization.from_json(Attack, stored) == MORA(THREAT)
    with pytest.raises(ValueError, match="sharpness") as refused:
        serialization.from_json(Attack, stored | {"sharpness": 4.0})
    assert "\n" not in str(refused.value)
