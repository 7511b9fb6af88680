"""Decision attacks: their starts, near exact distances on a linear model, and failure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import Boundary, HopSkipJump
from robust_jax.attacks.runs import Given

KEY = jax.random.key(43)


@pytest.mark.slow
def test_boundary_comes_near_the_exact_distance(assert_exact):
    assert_exact(Boundary(num_steps=1500, sphere_step=0.1, source_step=0.1), "l2", 0.1)


@pytest.mark.slow
def test_starts_are_adversarial_and_failure_gives_the_clean_image(digits):
    attack = Boundary(num_steps=1)
    index = jnp.arange(16)
    starts, found = jax.jit(lambda: attack.first_points(Given(*digits, KEY, index)))()
    assert jnp.all(found)
    assert jnp.all(jnp.argmax(digits.view(starts, key=None), axis=1) != digits.labels)

    def one_class(images, *, key):
        return digits.view(images, key=key).at[:, 0].add(1e4)

    labels = jnp.zeros_like(digits.labels)
    for failing in (Boundary(num_steps=5), HopSkipJump(num_steps=1)):
        given = one_class, digits.images, labels
        np.testing.assert_array_equal(failing(*given, key=KEY), digits.images)
        assert not jnp.any(failing.started(*given, key=KEY))


def test_rejects():
    with pytest.raises(ValueError, match=r"Expected adaptation=1\.0 > 1"):
        Boundary(adaptation=1.0)
    with pytest.raises(ValueError, match="Expected num_start_draws=0 >= 1"):
        Boundary(num_start_draws=0)
