"""SAP: what is drawn and how often, what it is multiplied by, and on which weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import Standard, StochasticActivationPruning
from robust_jax.methods.stochastic_activation_pruning import drawn, prune
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Task

ACTIVATIONS = jnp.asarray([[0.0, 1.0, 0.0, 2.0, 5.0, -0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
NUM_KEYS = 4000


def pruned(draws, fraction):
    """Returns prunings of ACTIVATIONS [keys 2 6], with two axes of its three put aside."""
    keys = jax.random.split(jax.random.key(0), NUM_KEYS)
    return np.asarray(
        jax.jit(
            jax.vmap(
                lambda key: prune(
                    key, ACTIVATIONS.reshape(2, 3, 2), fraction=fraction, draws=draws
                ).reshape(2, 6)
            )
        )(keys)
    )


@pytest.mark.parametrize("draws", ["with_replacement", "independent"])
def test_frequency_and_scale(draws):
    """With r = 3 draws an entry survives with 1 - (1 - p)^3 and is divided by that."""
    found = pruned(draws, 0.5)
    np.testing.assert_array_equal(found[:, 1], 0.0)
    p = np.abs(np.asarray(ACTIVATIONS[0])) / 8.5
    survival = 1 - (1 - p) ** 3
    kept = found[:, 0] != 0
    noise = np.sqrt(survival * (1 - survival) / NUM_KEYS)
    np.testing.assert_array_less(np.abs(kept.mean(0) - survival), 4.5 * noise + 1e-9)
    for entry in (1, 3, 4, 5):
        values = found[kept[:, entry], 0, entry]
        np.testing.assert_allclose(values, ACTIVATIONS[0, entry] / survival[entry], rtol=1e-5)
    # With replacement, three draws leave at most three of four entries, and at least one.
    counts = kept.sum(1)
    if draws == "with_replacement":
        assert set(counts) == {1, 2, 3}
    else:
        assert set(counts) == {0, 1, 2, 3, 4}


def test_draws_are_multinomial():
    """Two draws from three entries: the probability of each pair, and of each single entry."""
    p = np.asarray([0.2, 0.3, 0.5])
    rows = jnp.broadcast_to(jnp.asarray(p, jnp.float32)[None], (20_000, 3))
    found = np.asarray(jax.jit(lambda key: drawn(key, rows, 2))(jax.random.key(1)))
    for i in range(3):
        for j in range(i, 3):
            wanted = np.isin(np.arange(3), (i, j))
            expected = p[i] * p[j] * (1 if i == j else 2)
            share = np.mean((found == wanted).all(1))
            assert share == pytest.approx(
                expected, abs=4.5 * (expected * (1 - expected) / 20_000) ** 0.5
            )


@pytest.mark.slow
def test_many_draws_leave_the_network_as_it_is():
    """Post hoc: weights of a plain network; as r grows nothing is pruned."""
    network, task = CNNConfig(widths=(5, 6), strides=(2, 1)), Task((6, 6, 1), 4, 100)
    plain = Standard(network=network).make(task)
    variables = jax.jit(lambda key: plain.init(key=key))(jax.random.key(2))
    images = jax.random.uniform(jax.random.key(3), (3, 6, 6, 1))
    expected = plain.predict(variables, images)
    for fraction, close in ((3000.0, True), (0.3, False)):
        method = StochasticActivationPruning(
            network=network, fraction=fraction, num_draws=1, draws="independent"
        ).make(task)
        found = jax.jit(method.predict)(variables, images, key=jax.random.key(4))
        assert np.allclose(found, expected, atol=1e-3) == close
        np.testing.assert_allclose(method.views["noise_off"](variables, images), expected)
    ensemble = StochasticActivationPruning(network=EnsembleConfig(network, 2), num_draws=3)
    shapes = jax.eval_shape(ensemble.make(task).init, key=jax.random.key(0))
    assert shapes == jax.eval_shape(
        Standard(network=EnsembleConfig(network, 2)).make(task).init, key=jax.random.key(0)
    )
