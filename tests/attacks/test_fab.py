"""FAB: exact distances on a linear model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import FAB, FABT, ThreatModel, losses

KEY = jax.random.key(11)


@pytest.mark.quick_one_in(4)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [FAB, FABT])
def test_fab_finds_the_exact_distance_of_a_linear_model(make, norm, linear):
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    gaps = jnp.abs(losses.margin(linear.view(linear.images, key=None), linear.labels))
    size = jnp.abs(weights).sum() if norm == "linf" else jnp.linalg.norm(weights)
    fields = {"num_targets": 1} if make is FABT else {}
    attack = make(ThreatModel(norm, 0.9), num_steps=30, **fields)
    adversarial = attack(*linear, key=KEY)
    found = attack.threat.distance(adversarial, linear.images)
    np.testing.assert_allclose(found, gaps / size, rtol=0.06)
    assert jnp.all(found >= gaps / size * 0.999)


def test_rejects():
    with pytest.raises(ValueError, match=r"Expected shrink=1.0 in \(0, 1\)"):
        FAB(ThreatModel("linf", 0.1), shrink=1.0)
