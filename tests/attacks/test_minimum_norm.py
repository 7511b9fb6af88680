"""Attacks without a bound: what failure gives, and what is kept inside a ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import EAD, CarliniWagner, DeepFool, ThreatModel, TrustRegion
from robust_jax.attacks.minimum_norm import WithinBall
from robust_jax.attacks.threat import distance

KEY = jax.random.key(19)


@pytest.mark.slow
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


@pytest.mark.slow
def test_within_keeps_what_is_near(linear, exact):
    eps = float(jnp.median(exact["l2"]))
    adversarial = DeepFool().within(eps)(*linear, key=KEY)
    found = DeepFool()(*linear, key=KEY)
    near = distance("l2", found, linear.images) <= eps
    assert 0 < int(near.sum()) < 8
    np.testing.assert_array_equal(adversarial[near], found[near])
    np.testing.assert_array_equal(adversarial[~near], linear.images[~near])


def test_rejects():
    with pytest.raises(ValueError, match=r"Expected bounds=\(1.0, 0.0\)"):
        CarliniWagner(bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"Expected bounds=\(0.0, 1.0\) to be \(-1.0, 1.0\)"):
        WithinBall(ThreatModel("l2", 1.0, (-1.0, 1.0)), DeepFool())
