"""ARC: the expected accuracy of one classifier drawn at random."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import rng
from robust_jax.attacks import (
    APGD,
    ARC,
    PGD,
    Averaged,
    ThreatModel,
    as_view,
    bind,
    eot,
    trajectory,
)
from robust_jax.attacks.members import member_logits, member_of

KEY = jax.random.key(31)
IMAGES = jnp.full((1, 4, 4, 1), 0.5)
LABELS = jnp.zeros(1, int)


def linear(weights, margins):
    """A view of linear classifiers of two classes: margins at grey images, weights [m h w k]."""

    def members(images):
        first = jnp.einsum("bhwk,mhwk->mb", images - 0.5, weights) + margins[:, None]
        return jnp.stack([first, jnp.zeros_like(first)], axis=-1)

    return as_view(members)


def expected_accuracy(view, images, labels, weights=None):
    """A judge that asks every classifier for every image."""
    decided = np.argmax(np.asarray(view(images, key=KEY)), axis=-1)
    return np.average(decided == np.asarray(labels)[None], axis=0, weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_a_classifier_that_cannot_fall_hides_one_that_can_from_the_mean_loss(norm):
    # The second has ten times the gradient and just out of reach its boundary; the first opposes
    # it, and falls to a step of half the radius.
    eps = {"linf": 0.1, "l2": 0.4}[norm]
    step = jnp.ones((4, 4, 1)) / 16  # along which a logit moves by .1 within the ball
    view = linear(jnp.stack([step, -10 * step]), 0.1 * jnp.asarray([0.5, 10.5]))
    threat = ThreatModel(norm, eps)
    for attack in (APGD(threat), APGD(threat, loss="margin"))[: 1 + (norm == "l2")]:
        # As draws [s b c]: the gradient is that of the mean of their losses.
        missed = attack(view, IMAGES, LABELS, key=KEY)
        assert expected_accuracy(view, missed, LABELS).tolist() == [1.0]
    found = ARC(threat, num_steps=1, step_size=eps)(view, IMAGES, LABELS, key=KEY)
    assert expected_accuracy(view, found, LABELS).tolist() == [0.5]


@pytest.mark.slow
def test_consistent_where_classifiers_are_linear():
    # A point that fools a classifier exists wherever one's boundary is nearer than eps: in such
    # cases, and in no other, one iteration finds one (theorem 2), whatever the others want.
    draw = np.random.default_rng(0)
    for norm, eps in (("linf", 0.02), ("l2", 0.05)):
        weights = draw.normal(size=(2, 4, 4, 1)).astype(np.float32)
        flat = weights.reshape(2, -1)
        slope = np.abs(flat).sum(1) if norm == "linf" else np.linalg.norm(flat, axis=1)
        images = draw.uniform(0.3, 0.7, (200, 4, 4, 1)).astype(np.float32)
        margins = np.einsum("bhwk,mhwk->mb", images - 0.5, weights)
        kept = np.all(margins > 0, axis=0)
        images, distance = images[kept], margins[:, kept] / slope[:, None]
        labels = jnp.zeros(len(images), int)
        view = linear(jnp.asarray(weights), jnp.zeros(2))
        attack = ARC(ThreatModel(norm, eps), num_steps=1, step_size=eps, rho=1e-3)
        found = expected_accuracy(view, attack(view, images, labels, key=KEY), labels)
        np.testing.assert_array_equal(found < 1, distance.min(axis=0) < eps)
        assert 0.2 < np.mean(found < 1) < 0.9


@pytest.fixture(scope="module")
def ensemble(many_digits):
    """A method's view of three members at its variables, each computed alone too."""
    images = many_digits.images[:12]

    class Members:
        def __call__(self, variables, images, *, key):
            return jnp.stack([self.member(variables, images, n, key=key) for n in range(3)])

        def member(self, variables, images, number, *, key):
            rolled = jnp.roll(images, number, axis=1) * variables["scale"][number]
            return many_digits.view(0.4 * rolled + 0.6 * images, key=key)

    variables = {"scale": jnp.asarray([0.9, 1.0, 0.8])}
    return bind(Members(), variables), images, many_digits.labels[:12]


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_it_never_rises_and_is_what_a_judge_finds(norm, ensemble):
    view, images, labels = ensemble
    threat = ThreatModel(norm, 0.14 if norm == "linf" else 0.9)
    attack = ARC(threat, num_steps=4, weights=(0.2, 0.5, 0.3))
    way = trajectory(attack, view, images, labels, key=KEY)
    accuracy, successes = -way.losses[0], way.successes[0]
    np.testing.assert_array_equal(way.images, attack(view, images, labels, key=KEY))
    assert np.all(np.diff(accuracy, axis=0) <= 0)
    np.testing.assert_array_equal(successes, np.asarray(accuracy) == 0)
    judged = [expected_accuracy(view, x, labels, (0.2, 0.5, 0.3)) for x in (images, way.images)]
    np.testing.assert_allclose([accuracy[0], accuracy[-1]], judged, atol=1e-6)
    assert judged[1].mean() < 0.7 * judged[0].mean()
    assert float(threat.distance(way.images, images).max()) <= threat.eps + 1e-6


@pytest.mark.slow
def test_one_member_is_a_pass_and_computed_alone_gives_the_same(ensemble):
    view, images, labels = ensemble
    together = as_view(lambda images: view(images, key=KEY))
    assert member_of(view) is not None
    assert member_of(together) is None
    for number in range(3):
        alone = member_logits(view, images, number, key=KEY)
        np.testing.assert_allclose(alone, view(images, key=KEY)[number], atol=1e-5)
    attack = ARC(ThreatModel("linf", 0.02), num_steps=2, num_candidates=3)
    found, passes = attack.counted(view, images, labels, key=KEY)
    # At the start 3; in each iteration of each member one on the way to its gradient and 3 judged.
    assert passes.forward.tolist() == [3 + 2 * 3 * (1 + 3)] * 12
    assert passes.backward.tolist() == [2 * 3 * 3] * 12
    same, passes = attack.counted(together, images, labels, key=KEY)
    np.testing.assert_allclose(found, same, atol=1e-6)
    assert passes.forward.tolist() == [1 + 2 * 3 * (1 + 1)] * 12  # each of all members


@pytest.mark.slow
def test_sampled_draws_of_a_random_model_stay_the_same_and_are_computed_alone(digits):
    def noisy(images, *, key):
        return digits.view(images + 0.2 * jax.random.normal(key, images.shape), key=None)

    threat = ThreatModel("linf", 0.2)
    attack = Averaged(threat, ARC(threat, num_steps=2, num_candidates=2), num_samples=4)
    images, passes = attack.counted(noisy, digits.images, digits.labels, key=KEY)
    assert passes.forward[0] == 4 + 2 * 4 * (1 + 4)
    assert passes.backward[0] == 2 * 4 * 2
    draws = eot(noisy, 64, average="gradients")
    clean, found = (expected_accuracy(draws, x, digits.labels) for x in (digits.images, images))
    assert found.mean() < 0.6 * clean.mean()


@pytest.mark.slow
def test_restarts_keep_the_lowest_and_a_batch_changes_no_row(ensemble):
    view, images, labels = ensemble
    threat = ThreatModel("linf", 0.1)
    once = ARC(threat, num_steps=3)
    often = dataclasses.replace(once, num_restarts=3)
    one, best = (
        expected_accuracy(view, attack(view, images, labels, key=KEY), labels)
        for attack in (once, often)
    )
    assert np.all(best <= one)
    first = PGD(threat, num_steps=5)
    after = dataclasses.replace(once, first=first)(view, images, labels, key=KEY)
    before = first(view, images, labels, key=rng.stream(KEY, "first"))
    before, after = (expected_accuracy(view, x, labels) for x in (before, after))
    assert np.all(after <= before)
    assert after.mean() < before.mean()
    rows = jnp.asarray([7, 2])
    part = often(view, images[rows], labels[rows], key=KEY, index=rows)
    np.testing.assert_allclose(part, often(view, images, labels, key=KEY)[rows], atol=2e-5)


def test_rejects(ensemble):
    threat = ThreatModel("linf", 0.1)
    for fields, message in (
        ({"weights": (0.5, 0.6)}, r"Expected weights=\(0.5, 0.6\) to be >= 0 and to sum to 1"),
        ({"num_candidates": 0}, "Expected num_candidates=0 >= 1"),
        ({"rho": -1.0}, "Expected rho=-1.0 >= 0"),
        ({"first": PGD(ThreatModel("l2", 0.1))}, "Expected first=PGD"),
    ):
        with pytest.raises(ValueError, match=message):
            ARC(threat, **fields)
    with pytest.raises(ValueError, match="to be one for each of 3 members"):
        ARC(threat, weights=(0.5, 0.5))(*ensemble, key=KEY)
