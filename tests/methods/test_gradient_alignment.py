"""GAL and DEG against members one by one and NumPy; what one pass costs; the noise."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.methods import GradientAlignment
from robust_jax.methods.runs import cross_entropy
from robust_jax.models import CNNConfig, EnsembleConfig, Mode, member_variables
from robust_jax.types import Batch, Task

MEMBER = CNNConfig(widths=(4, 5), strides=(2, 1), activation="leaky_relu", negative_slope=0.1)
CONFIG = GradientAlignment(network=EnsembleConfig(MEMBER, 3), input_sigma=0.0)
TASK = Task((6, 6, 1), 4, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (5, 6, 6, 1))
LABELS = jnp.asarray([0, 3, 1, 2, 3])
BATCH = Batch(IMAGES, LABELS, jnp.ones(5, bool), jnp.arange(5))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda key: CONFIG.make(TASK).init(key=key))(jax.random.key(1))


def crossed(alone, images):
    """Returns one member's cross-entropy with batch statistics."""
    outputs, _ = CONFIG.classifier(TASK, member=True).apply(
        alone, images, train=True, deterministic=True, mutable=["batch_stats"]
    )
    return cross_entropy(outputs.logits, LABELS)


def loss(config, variables):
    return config.make(TASK).loss(variables, BATCH, key=jax.random.key(2), step=0)


def test_losses_by_loops(variables):
    alone = [member_variables(variables, m) for m in range(3)]
    one_by_one = jax.jit(lambda alone: [jax.value_and_grad(crossed, 1)(v, IMAGES) for v in alone])
    values, slopes = zip(*one_by_one(alone), strict=True)
    g = np.asarray(slopes, np.float64).reshape(3, 5, -1)
    g /= np.linalg.norm(g, axis=-1, keepdims=True)
    cosines = np.stack([(g[i] * g[j]).sum(-1) for i, j in ((0, 1), (0, 2), (1, 2))])
    gal, (_, found) = jax.jit(lambda v: loss(CONFIG, v))(variables)
    expected = np.mean(values) + 0.5 * np.mean(np.log(np.exp(cosines).sum(0)))
    np.testing.assert_allclose(gal, expected, rtol=1e-5)
    np.testing.assert_allclose(found["gradient_cosine"], cosines.mean(), rtol=1e-4)
    config = dataclasses.replace(CONFIG, coherence="sum", weight=0.01)
    deg, _ = jax.jit(lambda v: loss(config, v))(variables)
    expected = np.mean(values) + 0.01 * np.mean(cosines.sum(0))
    np.testing.assert_allclose(deg, expected, rtol=1e-5)


@pytest.mark.slow
def test_one_forward_pass_has_the_gradient_of_two(variables):
    """The code takes the cross-entropy from a second pass, whose images are constants."""

    def twice(params):
        everything = {**variables, "params": params}
        alone = [member_variables(everything, m) for m in range(3)]
        g = jnp.stack([jax.grad(crossed, 1)(v, IMAGES).reshape(5, -1) for v in alone])
        g = g / jnp.linalg.norm(g, axis=-1, keepdims=True)
        cosines = jnp.stack([jnp.sum(g[i] * g[j], -1) for i, j in ((0, 1), (0, 2), (1, 2))])
        mean = sum(crossed(v, jax.lax.stop_gradient(IMAGES)) for v in alone) / 3
        return mean + 0.5 * jnp.mean(jnp.log(jnp.sum(jnp.exp(cosines), axis=0)))

    def once(params):
        return loss(CONFIG, {**variables, "params": params})[0]

    found, expected = jax.jit(lambda p: (jax.grad(once)(p), jax.grad(twice)(p)))(
        variables["params"]
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_cost_grows_with_members_not_with_pairs():
    """Six members have 15 pairs and two have one: three times the arithmetic, not fifteen."""

    def flops(num_members):
        network = EnsembleConfig(MEMBER, num_members, strategy="unroll")
        method = dataclasses.replace(CONFIG, network=network).make(TASK)
        shapes = jax.eval_shape(method.init, key=jax.random.key(0))

        def value(params, variables):
            everything = {**variables, "params": params}
            return method.loss(everything, BATCH, key=jax.random.key(4), step=0)[0]

        lowered = jax.jit(jax.grad(value)).lower(shapes["params"], shapes)
        return lowered.cost_analysis()["flops"]

    assert flops(6) / flops(2) < 3.5


def test_noise_falls_on_its_share_of_images():
    config = dataclasses.replace(CONFIG, input_sigma=0.3, noisy_share=0.25)
    images = jnp.full((4000, 4, 4, 1), 0.5)
    (noise,), mode = config.own_changes, Mode(train=True, deterministic=False)
    noisy = jax.jit(lambda images, key: noise.on_images(images, mode, key))
    change = np.asarray(noisy(images, jax.random.key(3))) - 0.5
    noisy = np.abs(change).max((1, 2, 3)) > 0
    assert noisy.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    assert change[noisy].std() == pytest.approx(0.3, rel=0.02)
