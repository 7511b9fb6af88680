"""RSE: how much noise comes before which convolution, and what a prediction averages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import RandomSelfEnsemble, Standard
from robust_jax.methods.random_self_ensemble import is_first
from robust_jax.models import (
    Classifier,
    CNNConfig,
    Conv,
    EnsembleConfig,
    ResNetConfig,
    VGGConfig,
    default_layers,
)
from robust_jax.types import Task

CNN = CNNConfig(widths=(3, 4), strides=(2, 1))
TASK = Task((6, 6, 2), 4, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (1, 6, 6, 2))


def make(**fields):
    method = RandomSelfEnsemble(network=CNN, **fields).make(TASK)
    return method, jax.jit(lambda key: method.init(key=key))(jax.random.key(1))


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize(
    ("sigmas", "tap"), [((0.2, 0.0), "00.conv1"), ((0.0, 0.1), "01.conv2")], ids=["init", "inner"]
)
def test_noise_comes_before_the_convolution(sigmas, tap):
    """The output's variance is sigma^2 times the sum of the kernel's squares, in the interior."""
    method, variables = make(init_sigma=sigmas[0], inner_sigma=sigmas[1])
    keys = jax.random.split(jax.random.key(2), 3000)
    draws = jax.jit(jax.vmap(lambda key: method.taps(variables, IMAGES, key=key)[tap][0, 1, 1]))(
        keys
    )
    name = tap.split(".")[1]
    kernel = variables["params"]["backbone"][name]["kernel"]
    expected = max(sigmas) ** 2 * jnp.sum(jnp.square(kernel), (0, 1, 2))
    np.testing.assert_allclose(jnp.var(draws, axis=0), expected, rtol=0.15)
    plain = jax.jit(Standard(network=CNN).make(TASK).taps)(variables, IMAGES, key=None)
    error = np.abs(draws.mean(0) - plain[tap][0, 1, 1])
    np.testing.assert_array_less(error, 5 * np.sqrt(np.asarray(expected) / 3000))


def test_one_convolution_is_the_first():
    for network in (CNN, EnsembleConfig(CNN, 2), ResNetConfig(depth=20), VGGConfig(11)):
        paths = []

        class Recorded(Conv):
            def weights(self, in_channels, paths=paths):
                paths.append(self.path)
                return super().weights(in_channels)

        layers = default_layers()._replace(conv=Recorded)
        jax.eval_shape(
            functools.partial(
                Classifier(network.make(4, layers)).init, train=False, deterministic=True
            ),
            jax.random.key(0),
            jnp.zeros((1, 32, 32, 3)),
        )
        assert {path for path in paths if is_first(path)} == {paths[0]}


@pytest.mark.slow
def test_a_prediction_is_the_mean_probability_of_its_passes():
    method, variables = make(num_draws=3)
    scores, passes, one = jax.jit(
        lambda v, key: tuple(
            view(v, IMAGES, key=key)
            for view in (method.predict, method.views["members"], method.views["one_draw"])
        )
    )(variables, jax.random.key(3))
    assert (passes.shape, one.shape) == ((3, 1, 4), (1, 4))
    assert float(jnp.min(jnp.std(passes, axis=0))) > 0
    expected = np.log(np.asarray(jax.nn.softmax(passes)).mean(0))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
