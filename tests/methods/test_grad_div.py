"""GradDiv's penalties against NumPy and on directions whose concentration is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import GradDiv
from robust_jax.methods.grad_div import concentration
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Batch, Task


def test_penalties_by_loops():
    gradients = jax.random.normal(jax.random.key(0), (3, 4, 8)) + 0.5
    g = np.asarray(gradients, np.float64)
    expected = {"mean": [], "kappa": [], "dpp": []}
    for example in range(4):
        u = np.stack([g[s, example] / np.linalg.norm(g[s, example]) for s in range(3)])
        r = np.linalg.norm(u.mean(0))
        expected["mean"].append(r)
        expected["kappa"].append(r * (8 - r**2) / (1 - r**2))
        expected["dpp"].append(-np.log(np.linalg.det(u @ u.T)))
    for kind, values in expected.items():
        np.testing.assert_allclose(concentration(gradients, kind), values, rtol=1e-3, atol=1e-4)
        # Directions count, not lengths, however small.
        np.testing.assert_allclose(
            concentration(1e-25 * gradients, kind), values, rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_extremes():
    scattered = jnp.eye(4)[:, None, :]
    equal = jnp.ones((4, 1, 4))
    for kind, low, high in (("mean", 0.5, 1.0), ("dpp", 0.0, 3 * -np.log(1e-6) - np.log(4))):
        assert float(concentration(scattered, kind)[0]) == pytest.approx(low, abs=1e-5)
        assert float(concentration(equal, kind)[0]) == pytest.approx(high, rel=0.02)
    assert float(concentration(equal, "kappa")[0]) > 1e5 * float(
        concentration(scattered, "kappa")[0]
    )
    zero = jnp.zeros((4, 1, 4))
    for kind in ("mean", "kappa", "dpp"):
        slope = jax.jit(jax.grad(lambda x, kind=kind: jnp.sum(concentration(x, kind))))(zero)
        assert bool(jnp.all(jnp.isfinite(slope)))


def test_von_mises_fisher_concentration_is_estimated():
    """In 3 dimensions w = u . mu has the density exp(kappa w), which is drawn by its quantiles."""
    kappa = 5.0
    uniform, angle = np.random.default_rng(0).random((2, 50_000))
    w = 1 + np.log(uniform + (1 - uniform) * np.exp(-2 * kappa)) / kappa
    side = np.sqrt(1 - w**2)
    u = np.stack([side * np.cos(2 * np.pi * angle), side * np.sin(2 * np.pi * angle), w], -1)
    found = concentration(jnp.asarray(u[:, None], jnp.float32), "kappa")
    # The estimate is an approximation, 5 % too large here: it has R = coth 5 - 1 / 5 as 5.24.
    assert float(found[0]) == pytest.approx(5.24, rel=0.02)


@pytest.mark.slow
def test_loss_is_the_mean_and_the_penalty():
    config = GradDiv(network=CNNConfig(widths=(4,), strides=(2,)), num_samples=3, weight=0.7)
    task = Task((6, 6, 1), 4, 100)
    images = jax.random.uniform(jax.random.key(1), (5, 6, 6, 1))
    batch = Batch(images, jnp.arange(5) % 4, jnp.ones(5, bool), jnp.arange(5))
    variables = jax.jit(lambda key: config.make(task).init(key=key))(jax.random.key(2))

    def run(config):
        method = config.make(task)
        return jax.jit(lambda v: method.loss(v, batch, key=jax.random.key(3), step=0))(variables)

    value, (_, found) = run(config)
    np.testing.assert_allclose(value, found["cross_entropy"] + 0.7 * found["penalty"], rtol=1e-6)
    np.testing.assert_allclose(found["penalty"], found["resultant_length"], rtol=1e-6)
    quiet, (_, same) = run(dataclasses.replace(config, init_sigma=0.0))
    assert float(same["resultant_length"]) == pytest.approx(1.0, abs=1e-5)
    assert float(quiet) != pytest.approx(float(value))
    with pytest.raises(ValueError, match="to be a single network"):
        dataclasses.replace(config, network=EnsembleConfig(config.network, 2))
