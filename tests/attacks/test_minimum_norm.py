"""Minimum-norm attacks: exact distances on a linear model, and what failure gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import (
    EAD,
    CarliniWagner,
    DeepFool,
    SmallestEps,
    ThreatModel,
    TrustRegion,
    losses,
)
from robust_jax.attacks.minimum_norm import WithinBall, adam_step
from robust_jax.attacks.threat import distance

KEY = jax.random.key(19)
SEARCHES = {"num_searches": 6, "num_steps": 200, "initial_constant": 0.1}


@pytest.fixture(scope="module")
def exact(linear):
    """Distances of the linear model's boundary, by norm."""
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    gaps = jnp.abs(losses.margin(linear.view(linear.images, key=None), linear.labels))
    return {
        "linf": gaps / jnp.abs(weights).sum(),
        "l2": gaps / jnp.linalg.norm(weights),
        "l1": gaps / jnp.abs(weights).max(),
    }


@pytest.mark.parametrize(
    ("attack", "norm", "slack"),
    [
        (CarliniWagner(**SEARCHES), "l2", 0.02),
        (EAD(**SEARCHES, beta=1e-5), "l2", 0.03),
        (DeepFool(nudge=1e-6), "l2", 0.021),
        (DeepFool(distance_norm="linf", nudge=1e-6), "linf", 0.021),
        (TrustRegion(radius=1e-3, num_steps=400, largest_radius=1.0), "l2", 0.06),
        (
            TrustRegion(distance_norm="linf", radius=3e-4, num_steps=400, largest_radius=1.0),
            "linf",
            0.06,
        ),
        (SmallestEps(distance_norm="l2", initial_eps=0.01, relative_step=0.5), "l2", 0.02),
        (SmallestEps(initial_eps=0.01, relative_step=0.5), "linf", 0.02),
    ],
    ids=[
        "carlini_wagner",
        "ead",
        "deepfool_l2",
        "deepfool_linf",
        "trust_l2",
        "trust_linf",
        "eps_l2",
        "eps_linf",
    ],
)
def test_exact_distance_of_a_linear_model(attack, norm, slack, linear, exact):
    adversarial = attack(*linear, key=KEY)
    decisions = jnp.argmax(linear.view(adversarial, key=None), axis=1)
    assert jnp.all(decisions != linear.labels)
    ratio = distance(norm, adversarial, linear.images) / exact[norm]
    assert float(ratio.min()) >= 0.999
    # The nearest image of all may be closer than one step; the others are close to exact.
    assert float(jnp.median(ratio)) <= 1 + slack


def test_ead_with_a_large_beta_is_sparse(linear, exact):
    attack = EAD(**SEARCHES, beta=0.02, decision="l1")
    adversarial = attack(*linear, key=KEY)
    changed = jnp.sum(jnp.abs(adversarial - linear.images) > 1e-6, axis=(1, 2, 3))
    l2 = CarliniWagner(**SEARCHES)(*linear, key=KEY)
    assert float(changed.mean()) < 8 < 12
    assert float(distance("l1", adversarial, linear.images).mean()) < float(
        distance("l1", l2, linear.images).mean()
    )
    assert jnp.all(distance("l1", adversarial, linear.images) >= 0.999 * exact["l1"])


def test_confidence_is_reached(digits):
    attack = CarliniWagner(**SEARCHES, confidence=2.0, learning_rate=0.05)
    adversarial = attack(*digits, key=KEY)
    margins = losses.margin(digits.view(adversarial, key=None), digits.labels)
    assert float(margins.min()) >= 2.0 - 1e-4


def test_targeted(digits):
    targets = (digits.labels + 3) % 10
    for attack in (
        CarliniWagner(**SEARCHES, learning_rate=0.05, targeted=True),
        EAD(**SEARCHES, learning_rate=0.05, targeted=True),
    ):
        adversarial = attack(digits.view, digits.images, targets, key=KEY)
        reached = jnp.argmax(digits.view(adversarial, key=None), axis=1) == targets
        assert int(reached.sum()) >= 15


def test_failure_gives_the_clean_image(digits):
    def one_class(images, *, key):
        return digits.view(images, key=key).at[:, 0].add(1e4)

    labels = jnp.zeros_like(digits.labels)
    for attack in (
        CarliniWagner(num_searches=2, num_steps=5),
        EAD(num_searches=2, num_steps=5),
        DeepFool(num_steps=3),
        TrustRegion(num_steps=3),
    ):
        adversarial = attack(one_class, digits.images, labels, key=KEY)
        np.testing.assert_array_equal(adversarial, digits.images)


def test_misclassified_images_are_adversarial_already(digits):
    wrong = (digits.labels + 1) % 10
    for attack in (DeepFool(), TrustRegion()):
        adversarial = attack(digits.view, digits.images, wrong, key=KEY)
        np.testing.assert_array_equal(adversarial, digits.images)


def test_within_keeps_what_is_near(linear, exact):
    eps = float(jnp.median(exact["l2"]))
    adversarial = DeepFool().within(eps)(*linear, key=KEY)
    found = DeepFool()(*linear, key=KEY)
    near = distance("l2", found, linear.images) <= eps
    assert 0 < int(near.sum()) < 8
    np.testing.assert_array_equal(adversarial[near], found[near])
    np.testing.assert_array_equal(adversarial[~near], linear.images[~near])


def test_adam_by_hand():
    first, mean, square = adam_step(
        jnp.asarray([1.0]), jnp.asarray([2.0]), jnp.zeros(1), jnp.zeros(1), jnp.asarray(0), 0.1
    )
    # The first step is the rate times the sign.
    np.testing.assert_allclose(first, [0.9], rtol=1e-5)
    second, _, _ = adam_step(first, jnp.asarray([0.0]), mean, square, jnp.asarray(1), 0.1)
    moment = (0.9 * 0.2) / (1 - 0.81)
    scale = np.sqrt(0.999 * 0.004 / (1 - 0.999**2))
    np.testing.assert_allclose(second, [0.9 - 0.1 * moment / scale], rtol=1e-5)


def test_rejects():
    for make, message in (
        (lambda: CarliniWagner(num_searches=0), "Expected num_searches=0 >= 1"),
        (lambda: CarliniWagner(initial_constant=0.0), "Expected initial_constant=0.0 > 0"),
        (lambda: CarliniWagner(bounds=(1.0, 0.0)), r"Expected bounds=\(1.0, 0.0\)"),
        (lambda: EAD(beta=-1.0), "Expected beta=-1.0 >= 0"),
        (lambda: DeepFool(num_candidates=0), "Expected num_candidates=0 >= 1"),
        (lambda: DeepFool(targeted=True), "Expected targeted=True to be False"),
        (lambda: TrustRegion(rate=1.0), "Expected rate=1.0 > 1"),
        (
            lambda: WithinBall(ThreatModel("l2", 1.0, (-1.0, 1.0)), DeepFool()),
            r"Expected bounds=\(0.0, 1.0\) to be \(-1.0, 1.0\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
