"""DeepFool and the trust region: exact distances on a linear model."""

import jax
import numpy as np
import pytest

from robust_jax.attacks import DeepFool, TrustRegion

KEY = jax.random.key(19)


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize(
    ("attack", "norm", "slack"),
    [
        (DeepFool(nudge=1e-6), "l2", 0.021),
        (DeepFool(distance_norm="linf", nudge=1e-6), "linf", 0.021),
        (TrustRegion(radius=1e-3, num_steps=400, largest_radius=1.0), "l2", 0.06),
        (
            TrustRegion(distance_norm="linf", radius=3e-4, num_steps=400, largest_radius=1.0),
            "linf",
            0.06,
        ),
    ],
    ids=["deepfool_l2", "deepfool_linf", "trust_l2", "trust_linf"],
)
def test_exact_distance_of_a_linear_model(attack, norm, slack, assert_exact):
    assert_exact(attack, norm, slack)


@pytest.mark.slow
def test_misclassified_images_are_adversarial_already(digits):
    wrong = (digits.labels + 1) % 10
    for attack in (DeepFool(), TrustRegion()):
        adversarial = attack(digits.view, digits.images, wrong, key=KEY)
        np.testing.assert_array_equal(adversarial, digits.images)


def test_rejects():
    for make, message in (
        (lambda: DeepFool(num_candidates=0), "Expected num_candidates=0 >= 1"),
        (lambda: DeepFool(targeted=True), "Expected targeted=True to be False"),
        (lambda: TrustRegion(rate=1.0), "Expected rate=1.0 > 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
