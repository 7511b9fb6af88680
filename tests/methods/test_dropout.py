"""Monte-Carlo dropout: what is dropped, how often, and what a prediction averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import MonteCarloDropout, Standard
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Task

CNN = CNNConfig(widths=(5, 6), strides=(2, 1))
TASK = Task((6, 6, 1), 4, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (3, 6, 6, 1))


def make(**fields):
    method = MonteCarloDropout(network=CNN, **fields).make(TASK)
    return method, jax.jit(lambda key: method.init(key=key))(jax.random.key(1))


def test_weights_are_those_of_the_plain_network():
    for network in (CNN, EnsembleConfig(CNN, 2)):
        for where in ("features", "activations"):
            method = MonteCarloDropout(network=network, where=where).make(TASK)
            plain = Standard(network=network).make(TASK)
            shapes = [jax.eval_shape(m.init, key=jax.random.key(0)) for m in (method, plain)]
            assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_draws_have_the_mean_and_variance_of_inverted_dropout():
    """Of a linear last layer: mean w.h + b, variance rate / (1 - rate) sum (w h)^2."""
    method, variables = make(rate=0.3, num_draws=4000)
    draws = jax.jit(method.views["members"])(variables, IMAGES, key=jax.random.key(2))
    plain = jax.jit(method.views["noise_off"])(variables, IMAGES)
    taps = jax.jit(method.taps)(variables, IMAGES, key=jax.random.key(3))
    norm = variables["params"]["backbone"]["norm2"]["scale"]
    np.testing.assert_array_equal(norm, 1.0)
    features = np.maximum(np.asarray(taps["01.conv2"]) / np.sqrt(1 + 1e-5), 0).mean((1, 2))
    kernel = np.asarray(variables["params"]["backbone"]["linear"]["kernel"])
    variance = 0.3 / 0.7 * (features**2 @ kernel**2)
    np.testing.assert_array_less(
        np.abs(draws.mean(0) - plain), 4.5 * np.sqrt(variance / 4000) + 1e-6
    )
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.15)


@pytest.mark.slow
def test_a_prediction_is_the_mean_probability_of_its_draws():
    method, variables = make(num_draws=3, where="activations")
    key = jax.random.key(4)
    scores, draws = jax.jit(
        lambda v: (method.predict(v, IMAGES, key=key), method.views["members"](v, IMAGES, key=key))
    )(variables)
    assert draws.shape == (3, 3, 4)
    assert float(jnp.max(jnp.std(draws, axis=0))) > 0
    expected = np.log(np.asarray(jax.nn.softmax(draws)).mean(0))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_members_of_an_ensemble_drop_independently():
    method = MonteCarloDropout(network=EnsembleConfig(CNN, 2), num_draws=2).make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(1))
    same = {
        "params": jax.tree.map(lambda leaf: leaf.at[1].set(leaf[0]), variables["params"]),
        "batch_stats": variables["batch_stats"],
    }
    draws = jax.jit(method.views["members"])(same, IMAGES, key=jax.random.key(5))
    assert draws.shape == (4, 3, 4)
    for i in range(4):
        for j in range(i):
            assert float(jnp.max(jnp.abs(draws[i] - draws[j]))) > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0.0}, "0 < rate=0.0 < 1"),
        ({"rate": 1.0}, "rate=1.0 < 1"),
        ({"num_draws": 0}, "num_draws=0 >= 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MonteCarloDropout(**fields)
