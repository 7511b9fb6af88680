"""Gaussian training: noise in the loss, and in the prediction where it is asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import Standard
from robust_jax.models import CNNConfig
from robust_jax.types import Batch, Task

CONFIG = Standard(network=CNNConfig(widths=(4,), strides=(2,), norm=False), input_sigma=0.25)
TASK = Task((6, 6, 1), 3, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (4, 6, 6, 1))
BATCH = Batch(IMAGES, jnp.asarray([0, 1, 2, 0]), jnp.ones(4, bool), jnp.arange(4))


@pytest.mark.slow
def test_gaussian_training():
    method, plain = CONFIG.make(TASK), dataclasses.replace(CONFIG, input_sigma=0.0).make(TASK)
    deployed = dataclasses.replace(CONFIG, input_noise_in_prediction=True).make(TASK)
    variables = jax.jit(lambda key: plain.init(key=key))(jax.random.key(1))
    losses = jax.jit(jax.vmap(lambda key: method.loss(variables, BATCH, key=key, step=0)[0]))(
        jax.random.split(jax.random.key(2), 50)
    )
    assert float(jnp.std(losses)) > 0
    logits = jax.jit(plain.predict)(variables, IMAGES)
    np.testing.assert_allclose(jax.jit(method.predict)(variables, IMAGES), logits, rtol=1e-6)
    noise = 0.25 * jax.random.normal(jax.random.key(3), (500, *IMAGES.shape))
    mean = jnp.mean(jax.vmap(lambda n: plain.predict(variables, IMAGES + n))(noise), axis=0)
    draws = jax.jit(jax.vmap(lambda key: deployed.predict(variables, IMAGES, key=key)))(
        jax.random.split(jax.random.key(4), 500)
    )
    spread = np.asarray(jnp.std(draws, axis=0)) / 500**0.5
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 7 * spread)
    assert (method.stochastic, deployed.stochastic) == (False, True)
    with pytest.raises(ValueError, match="input_sigma=-1"):
        dataclasses.replace(CONFIG, input_sigma=-1.0)
