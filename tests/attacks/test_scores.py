"""Gradients estimated from scores, on a linear model."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax import rng
from robust_jax.attacks import NES, SPSA, ThreatModel, losses
from robust_jax.attacks.scores import gradient_from_scores

KEY = jax.random.key(41)


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_the_estimate_points_along_the_gradient(noise, linear):
    exact, _, _ = losses.gradient(losses.margin, *linear, key=KEY)
    estimate = jax.jit(
        lambda: gradient_from_scores(
            losses.margin,
            *linear,
            num_samples=400,
            sigma=0.01,
            noise=noise,
            key=KEY,
            keys=rng.per_example(KEY, jnp.arange(8)),
        )
    )()
    flat, known = estimate.reshape(8, -1), exact.reshape(8, -1)
    size = jnp.linalg.norm(flat, axis=1) * jnp.linalg.norm(known, axis=1)
    # Twelve features and 400 pairs: an angle of about sqrt(12 / 400).
    assert float(jnp.min(jnp.sum(flat * known, axis=1) / size)) > 0.95


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("attack", [NES, SPSA])
def test_a_lucky_draw_is_no_end(attack):
    """Gradients are exact of noise that a call shares: the last point is the corner of the ball."""

    def noisy(images, *, key):
        score = jnp.mean(images, axis=(1, 2, 3)) - 0.45 + 0.05 * jax.random.normal(key)
        return 20 * jnp.stack([score, jnp.zeros_like(score)], axis=1)

    images, labels = jnp.full((16, 4, 4, 1), 0.5), jnp.zeros(16, int)
    search = attack(ThreatModel("linf", 0.1), num_steps=20, num_samples=25)
    found = jax.jit(lambda key: search(noisy, images, labels, key=key))(KEY)
    assert float(jnp.max(jnp.mean(found, axis=(1, 2, 3)))) < 0.44  # of .4


def test_rejects():
    threat = ThreatModel("linf", 0.1)
    for make, message in (
        (lambda: SPSA(threat, num_samples=0), "Expected num_samples=0 >= 1"),
        (lambda: SPSA(threat, learning_rate=0.0), "Expected learning_rate=0.0 > 0"),
        (lambda: NES(threat, step_size=-1.0), "Expected step_size=-1.0 > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
