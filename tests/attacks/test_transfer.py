"""M-DI2-FGSM's transformation: images shrink and move, each by draws of its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import attacks
from robust_jax.attacks import MDI2FGSM, MIM, ThreatModel
from robust_jax.attacks.transfer import DiverseView

KEY = jax.random.key(31)


def test_white_images_shrink_to_the_share_drawn():
    images, index = jnp.ones((64, 8, 8, 1)), jnp.arange(64)
    view = attacks.as_view(lambda images: jnp.mean(images, axis=(1, 2)))

    @partial(jax.jit, static_argnums=2)
    def seen(images, index, probability):
        return DiverseView(view, index, probability, 0.5)(images, key=KEY)[:, 0]

    shrunk = seen(images, index, 1.0)
    # The share of the area that is left, up to the rounding of edges to pixels.
    assert 0.2 < float(shrunk.min()) < 0.35 < 0.8 < float(shrunk.max()) <= 1
    part = seen(images[5:9], index[5:9], 1.0)
    np.testing.assert_allclose(part, shrunk[5:9], atol=1e-6)
    half = seen(images, index, 0.5)
    assert 20 <= int(jnp.sum(half == 1)) <= 44


def test_without_transformations_it_is_mim(digits):
    threat = ThreatModel("linf", 0.1)
    still = MDI2FGSM(threat, num_steps=3, probability=0.0)(*digits, key=KEY)
    np.testing.assert_allclose(still, MIM(threat, num_steps=3)(*digits, key=KEY), atol=1e-6)


def test_rejects():
    with pytest.raises(ValueError, match=r"Expected smallest=0.0 in \(0, 1\]"):
        MDI2FGSM(ThreatModel("linf", 0.1), smallest=0.0)
