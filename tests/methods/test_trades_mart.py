"""TRADES and MART on a linear model against NumPy; what the inner attack and the passes are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import rng
from robust_jax.attacks import PGD, ThreatModel, as_view, bind
from robust_jax.methods import MART, TRADES
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Batch, Task

# One convolution over the whole image, whose ReLU stays open: logits are linear in the image.
LINEAR = CNNConfig(widths=(16,), strides=(2,), norm=False)
TASK = Task((4, 4, 1), 3, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (6, 4, 4, 1))
BATCH = Batch(IMAGES, jnp.asarray([0, 2, 1, 0, 2, 1]), jnp.ones(6, bool), jnp.arange(6))
KEY = jax.random.key(2)


def variables_of(config):
    found = jax.jit(lambda key: config.make(TASK).init(key=key))(jax.random.key(1))
    return jax.tree.map(lambda leaf: 3 * leaf, found)  # large enough that predictions differ


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def predictions(config, variables):
    """Returns the probabilities [b c] on clean images and on those that the loss makes."""
    method = config.make(TASK)
    view = bind(method.views["deployed"], variables)
    adversarial = config.attack(
        view, IMAGES, BATCH.label, key=rng.stream(KEY, "attack"), index=BATCH.index
    )
    assert np.abs(adversarial - IMAGES).max() == pytest.approx(config.attack.threat.eps, rel=1e-4)
    logits = [np.asarray(view(x, key=None), np.float64) for x in (IMAGES, adversarial)]
    return softmax(logits[0]), softmax(logits[1])


def value(config, variables):
    loss = jax.jit(lambda v, batch: config.make(TASK).loss(v, batch, key=KEY, step=0))
    return loss(variables, BATCH)


@pytest.mark.parametrize(
    "network",
    [LINEAR, pytest.param(EnsembleConfig(LINEAR, 2), marks=pytest.mark.slow)],
    ids=["one", "two"],
)
def test_trades_is_its_equation(network):
    config = TRADES(network=network)
    variables = variables_of(config)
    p, q = predictions(config, variables)
    crossed = -np.log(p[np.arange(6), BATCH.label]).mean()
    divergence = (p * np.log(p / q)).sum(1).mean()
    found, (_, report) = value(config, variables)
    np.testing.assert_allclose(found, crossed + 6 * divergence, rtol=1e-4)
    np.testing.assert_allclose(report["divergence"], divergence, rtol=1e-3)
    assert divergence > 1e-4


def test_mart_is_its_equation():
    config = MART(network=LINEAR)
    variables = variables_of(config)
    p, q = predictions(config, variables)
    own = np.asarray(BATCH.label)
    wrong = np.where(np.eye(3, dtype=bool)[own], 0, q).max(1)
    boosted = -np.log(q[np.arange(6), own]) - np.log(1.0001 - wrong + 1e-12)
    weighted = (p * np.log(p / q)).sum(1) * (1 - p[np.arange(6), own])
    found, (_, report) = value(config, variables)
    np.testing.assert_allclose(found, (boosted + 5 * weighted).mean(), rtol=1e-4)
    np.testing.assert_allclose(report["divergence"], weighted.mean(), rtol=1e-3)


@pytest.mark.slow
def test_inner_attack_raises_the_divergence_from_a_small_start():
    threat = ThreatModel("linf", 0.1)
    weights = jax.random.normal(jax.random.key(3), (16, 3))
    view = as_view(lambda x: x.reshape(len(x), -1) @ weights)

    def divergence(images):
        p, q = (softmax(np.asarray(view(x, key=None), np.float64)) for x in (IMAGES, images))
        return (p * np.log(p / q)).sum(1)

    attack = PGD(threat, loss="kl", num_steps=10, start_sigma=0.001, keep="last")
    found = attack(view, IMAGES, BATCH.label, key=KEY)
    uniform = PGD(threat, loss="kl", num_steps=10, keep="last")
    assert np.all(divergence(found) > 0.9 * divergence(uniform(view, IMAGES, BATCH.label, key=KEY)))
    # No label: others give the same images.
    np.testing.assert_array_equal(found, attack(view, IMAGES, 2 - BATCH.label, key=KEY))
    # Before any step that matters the points are the images and noise of that deviation.
    still = PGD(threat, step_size=1e-9, num_steps=1, start_sigma=0.001, keep="last")
    inner = (IMAGES > 0.01) & (IMAGES < 0.99)
    noise = (still(view, IMAGES, BATCH.label, key=KEY) - IMAGES)[inner]
    assert float(noise.std()) == pytest.approx(0.001, rel=0.25)


@pytest.mark.slow
def test_both_passes_move_the_statistics():
    config = TRADES(network=dataclasses.replace(LINEAR, norm=True))
    variables = variables_of(config)
    _, (moved, _) = value(config, variables)
    before, after = (v["batch_stats"]["backbone"] for v in (variables, moved))
    mean = next(iter(after.values()))["mean"]
    old = next(iter(before.values()))["mean"]
    taps = config.make(TASK).taps
    view = bind(config.make(TASK).views["deployed"], variables)
    key = rng.stream(KEY, "attack")
    images = config.attack(view, IMAGES, BATCH.label, key=key, index=BATCH.index)
    means = []
    for each in (IMAGES, images):
        found = taps(variables, each, key=None)
        name = next(n for n in found if found[n].ndim == 4)
        means.append(jnp.mean(found[name], axis=(0, 1, 2)))
    # Flax's momentum .9, twice.
    expected = 0.9 * (0.9 * old + 0.1 * means[0]) + 0.1 * means[1]
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TRADES(beta=-1.0), "Expected beta=-1.0 >= 0"),
        (lambda: MART(weight=-1.0), "Expected weight=-1.0 >= 0"),
        (lambda: TRADES(view="nothing").make(TASK), "Expected view='nothing' to be one of"),
        (
            lambda: PGD(ThreatModel("linf", 0.1), loss="kl", random_start=False),
            "Expected loss='kl' with random_start=True",
        ),
        (
            lambda: PGD(ThreatModel("linf", 0.1), loss="kl", targeted=True),
            "Expected loss='kl' with targeted=False",
        ),
        (
            lambda: PGD(ThreatModel("linf", 0.1), random_start=False, start_sigma=0.1),
            "Expected start_sigma=0.1 with random_start=True",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
