"""Averages over draws of a random model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from robust_jax import attacks, rng
from robust_jax.attacks import losses
from robust_jax.methods import KAP
from robust_jax.models import CNNConfig
from robust_jax.types import Batch, Task

KEY = jax.random.key(2)
WEIGHTS = jax.random.normal(jax.random.key(5), (4, 3))


def noisy(images, *, key):
    """A linear model whose input carries noise."""
    return (images + 0.3 * jax.random.normal(key, images.shape)) @ WEIGHTS


def draws(images, num_samples):
    """Logits of each draw, under the keys that `eot` documents."""
    return jnp.stack([noisy(images, key=rng.stream(KEY, "draw", s)) for s in range(num_samples)])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, True])
def test_averages(parallel):
    images = jax.random.uniform(jax.random.key(6), (5, 4))
    logits = draws(images, 3)
    made = {
        average: attacks.eot(noisy, 3, average=average, parallel=parallel)(images, key=KEY)
        for average in ("probabilities", "logits", "gradients")
    }
    np.testing.assert_allclose(made["logits"], logits.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        jax.nn.softmax(made["probabilities"]),
        jax.nn.softmax(logits).mean(axis=0),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(made["gradients"], logits, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gradients_are_averaged_over_draws():
    images = jax.random.uniform(jax.random.key(6), (5, 4))
    labels = jnp.asarray([0, 1, 2, 0, 1])
    view = attacks.eot(noisy, 3, average="gradients")
    slope, values, logits = losses.gradient(losses.cross_entropy, view, images, labels, key=KEY)

    def one(s):
        return jax.jit(
            jax.grad(
                lambda x: losses.cross_entropy(
                    noisy(x, key=rng.stream(KEY, "draw", s)), labels
                ).sum()
            )
        )(images)

    np.testing.assert_allclose(slope, (one(0) + one(1) + one(2)) / 3, rtol=1e-5, atol=1e-6)
    assert values.shape == (5,)
    np.testing.assert_allclose(
        jax.nn.softmax(logits), jax.nn.softmax(draws(images, 3)).mean(axis=0), rtol=1e-5
    )


@pytest.mark.slow
def test_an_attack_runs_on_every_average():
    images = jax.random.uniform(jax.random.key(6), (5, 4))
    labels = jnp.argmax(images @ WEIGHTS, axis=1)
    threat = attacks.ThreatModel("linf", 0.3)
    for average in ("probabilities", "logits", "gradients"):
        attack = attacks.PGD(threat, num_steps=5, keep="last")
        adversarial = attack(attacks.eot(noisy, 20, average=average), images, labels, key=KEY)
        before = losses.margin(images @ WEIGHTS, labels)
        after = losses.margin(adversarial @ WEIGHTS, labels)
        assert jnp.all(after > before)


def test_eot_rejects():
    with pytest.raises(ValueError, match="Expected num_samples=0 >= 1"):
        attacks.eot(noisy, 0)


def test_a_frozen_view_repeats_itself():
    images = jax.random.uniform(jax.random.key(6), (5, 4))
    view = attacks.frozen(noisy, key=KEY)
    first, second = view(images, key=jax.random.key(1)), view(images, key=jax.random.key(2))
    np.testing.assert_array_equal(first, second)
    other = attacks.frozen(noisy, key=jax.random.key(3))(images, key=KEY)
    assert float(jnp.abs(first - other).max()) > 0.01


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_nes_estimates_the_gradient(noise):
    images = jax.random.uniform(jax.random.key(6), (5, 4))
    labels = jnp.asarray([0, 1, 2, 0, 1])

    def smooth(images, *, key):
        del key
        return images @ WEIGHTS

    view = attacks.nes(smooth, 4000, sigma=0.01, noise=noise)
    np.testing.assert_allclose(view(images, key=KEY), images @ WEIGHTS, rtol=1e-5)
    estimate, _, _ = losses.gradient(losses.margin, view, images, labels, key=KEY)
    exact, _, _ = losses.gradient(losses.margin, smooth, images, labels, key=KEY)
    np.testing.assert_allclose(estimate, exact, atol=0.15)


@pytest.mark.slow
def test_twice_the_draws_change_nothing_where_they_suffice():
    images = jax.random.uniform(jax.random.key(6), (40, 4))
    labels = jnp.argmax(images @ WEIGHTS, axis=1)
    attack = attacks.PGD(attacks.ThreatModel("linf", 0.1), num_steps=5, keep="last")

    def judge(images, *, key):
        del key
        return images @ WEIGHTS

    once, twice = attacks.standing_with_twice_the_draws(
        attack, noisy, images, labels, num_samples=16, judge=judge, key=KEY
    )
    once, twice = float(jnp.mean(once)), float(jnp.mean(twice))
    assert 0 < once < 1
    assert abs(once - twice) <= 0.05


@pytest.mark.slow
def test_a_plain_function_and_a_bound_view_agree(digits):
    attack = attacks.PGD(attacks.ThreatModel("linf", 0.1), num_steps=2)
    bound = attack(digits.view, digits.images, digits.labels, key=KEY)
    plain = attack(
        attacks.as_view(lambda x: digits.view(x, key=None)),
        digits.images,
        digits.labels,
        key=KEY,
    )
    np.testing.assert_allclose(plain, bound, atol=1e-6)


@pytest.mark.slow
def test_sixteen_draws_suffice_on_a_kap_network():
    """Doubling the draws changes the accuracy under attack by less than one percent."""
    data = load_digits()
    images = jnp.asarray(data.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(data.target, jnp.int32)
    network = CNNConfig(widths=(16,), strides=(2,))
    method = KAP(network=network, sigma=0.2).make(Task((8, 8, 1), 10, 1280))
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def train(variables):
        def step(carry, number):
            variables, state = carry
            rows = (number * 128 + jnp.arange(128)) % 1280
            batch = Batch(images[rows], labels[rows], jnp.ones(128, bool), rows)

            def loss(params):
                key = rng.stream(KEY, "train", number)
                return method.loss({**variables, "params": params}, batch, key=key, step=number)

            slope, (moved, _) = jax.grad(loss, has_aux=True)(variables["params"])
            updates, state = optimizer.update(slope, state)
            params = optax.apply_updates(variables["params"], updates)
            return ({**variables, **moved, "params": params}, state), None

        start = variables, optimizer.init(variables["params"])
        return jax.lax.scan(step, start, jnp.arange(300))[0][0]

    variables = train(method.init(key=jax.random.key(0)))
    judge = jax.jit(attacks.eot(attacks.bind(method.predict, variables), 32))
    once, twice = attacks.standing_with_twice_the_draws(
        attacks.PGD(attacks.ThreatModel("linf", 0.03), num_steps=5, keep="last"),
        attacks.bind(method.views["deployed"], variables),
        images[1280:1780],
        labels[1280:1780],
        num_samples=16,
        judge=judge,
        key=KEY,
    )
    once, twice = float(jnp.mean(once)), float(jnp.mean(twice))
    assert 0.1 < once < 0.9
    assert abs(once - twice) < 0.01
