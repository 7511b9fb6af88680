"""Keep rates against loops over the papers' equations, dropout and DEG against the long way."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import rng
from robust_jax.methods import LaplaceRates, PriorityDropout, PriorityRates
from robust_jax.models import (
    Classifier,
    CNNConfig,
    EnsembleConfig,
    default_layers,
    member_variables,
)
from robust_jax.types import Batch, Task

FEATURES = np.asarray(
    [
        [0.00, 0.03, 0.06, 0.15, 0.18, 0.33, 0.00, 0.72],
        [0.04, 0.12, 0.14, 0.17, 0.19, 0.00, 0.35, 0.36],
        [0.00, 0.00, 0.07, 0.16, 0.31, 0.34, 0.37, 0.95],
    ],
    np.float32,
)
"""Of 3 members, 8 each. By intervals of 0.1: 4 in (0, .1], 8 in (.1, .2], 6 in (.3, .4]."""


def laplace_by_loops(features, config):
    """Algorithm 1 for features [m f], one feature at a time."""
    s, num_members = config.interval, len(features)

    def middle(v):
        return round(math.ceil(v / s) * s - s / 2, 6)

    local = []
    for row in features:
        counts = {}
        for v in row:
            if v > config.threshold:
                counts[middle(v)] = counts.get(middle(v), 0) + 1
        local.append(counts)
    middles = [round((i + 0.5) * s, 6) for i in range(config.num_intervals)]
    together = [sum(counts.get(mu, 0) for counts in local) for mu in middles]
    ranked = sorted(range(len(middles)), key=lambda i: (-together[i], i))
    rates = np.ones_like(features)
    for k in range(num_members):
        r = middles[ranked[k]]
        active = sum(local[k].values())
        for i, v in enumerate(features[k]):
            if v > config.threshold:
                mu = middle(v)
                z = config.gamma * local[k][mu] / active * (r - mu) ** 2
                f = math.exp(-z / config.laplace_lambda) / (2 * config.laplace_lambda)
                rates[k, i] = min(config.alpha * f + config.beta, 1.0)
    return rates


def priority_by_loops(features, config):
    """PDD (equation 2) for features [m f], one feature at a time."""
    low, high = features.min(), features.max()
    num = config.num_intervals
    place = np.asarray(
        [[min(int((v - low) * num / (high - low)), num - 1) for v in row] for row in features]
    )
    counts = np.asarray([[(row == i).sum() for i in range(num)] for row in place])
    ranked = sorted(range(num), key=lambda i: (-counts[:, i].sum(), i))
    rates = np.zeros_like(features)
    for k, row in enumerate(place):
        for i, m in enumerate(row):
            elsewhere = config.beta * (1 - counts[k, m] / features.shape[1])
            rates[k, i] = config.alpha if m == ranked[k] else elsewhere
    return rates


def test_laplace_rates_by_hand():
    rates = jax.jit(LaplaceRates())(jnp.asarray(FEATURES)[:, None])[:, 0]
    # Priorities: (.1, .2] with 8, (.3, .4] with 6, (0, .1] with 4 features.
    # Member 0: 6 active, 2 of them within its priority interval: alpha + beta.
    np.testing.assert_allclose(rates[0, 3:5], 0.85 + 0.127, rtol=1e-6)
    # .33 is alone: z = 100 * 1/6 * .2^2 = 2/3.
    assert float(rates[0, 5]) == pytest.approx(0.85 * math.exp(-4 / 3) + 0.127, rel=1e-5)
    # .72 too: z = 100 * 1/6 * .6^2 = 6.
    assert float(rates[0, 7]) == pytest.approx(0.85 * math.exp(-12) + 0.127, rel=1e-5)
    # Member 1, priority .35: of 7 active, 4 in (.1, .2]: z = 100 * 4/7 * .2^2.
    expected = 0.85 * math.exp(-2 * 16 / 7) + 0.127
    np.testing.assert_allclose(rates[1, 1:5], expected, rtol=1e-5)
    # Inactive features are no part of the algorithm.
    np.testing.assert_array_equal(rates[FEATURES == 0], 1.0)


@pytest.mark.parametrize(
    "config",
    [
        LaplaceRates(),
        LaplaceRates(gamma=3.0, alpha=0.7, beta=0.2, laplace_lambda=0.25),
        LaplaceRates(interval=0.15, threshold=0.05, num_intervals=9),
    ],
)
def test_laplace_rates_equal_loops(config):
    several = np.stack([FEATURES, FEATURES[:, ::-1] * 0.7, FEATURES[::-1] ** 2], axis=1)
    expected = np.stack([laplace_by_loops(several[:, b], config) for b in range(3)], axis=1)
    np.testing.assert_allclose(jax.jit(config)(several), expected, rtol=1e-5)


@pytest.mark.parametrize("config", [PriorityRates(), PriorityRates(num_intervals=4, alpha=0.6)])
def test_priority_rates_equal_loops(config):
    several = np.stack([FEATURES, FEATURES[:, ::-1] ** 2], axis=1)
    expected = np.stack([priority_by_loops(several[:, b], config) for b in range(2)], axis=1)
    np.testing.assert_allclose(jax.jit(config)(several), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [LaplaceRates, PriorityRates])
def test_statistics_of_the_batch_are_one_histogram(kind):
    several = np.stack([FEATURES, FEATURES[:, ::-1] * 0.7], axis=1)
    loops = laplace_by_loops if kind is LaplaceRates else priority_by_loops
    expected = loops(several.reshape(3, 16), kind()).reshape(3, 2, 8)
    found = jax.jit(kind(statistics="batch"))(several)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_strong_features_share_the_last_interval():
    features = jnp.asarray([[[0.05, 7.0, 9.0]], [[0.05, 0.05, 8.0]]])
    rates = LaplaceRates(num_intervals=4)(features)
    # Intervals: three features in the first, three in the last; both members' own are kept.
    np.testing.assert_allclose(rates[0, 0, 0], 0.977, rtol=1e-5)
    np.testing.assert_allclose(rates[1, 0, 2], 0.977, rtol=1e-5)
    assert float(rates[0, 0, 1]) == pytest.approx(float(rates[0, 0, 2]))


@pytest.mark.quick_one_in(2)
@pytest.mark.parametrize("rates", [LaplaceRates(), PriorityRates()])
def test_constant_features_have_rates(rates):
    for value in (0.0, 0.5):
        found = rates(jnp.full((2, 1, 4), value))
        assert bool(jnp.all((found >= 0) & (found <= 1)))


def test_denser_intervals_are_dropped_more():
    """Equation 4: at the same distance from the priority, more features there, lower rates."""
    crowd = [0.05] * 10
    features = jnp.asarray([[crowd + [0.45] * 2 + [0.25] * 8], [crowd + [0.45] * 8 + [0.25] * 2]])
    rates = LaplaceRates(gamma=5.0)(features)
    assert float(rates[0, 0, -1]) < float(rates[0, 0, 0])
    dense, sparse = LaplaceRates(gamma=5.0)(features[::-1])[0, 0, 10], rates[0, 0, 10]
    assert float(dense) < float(sparse) < float(rates[0, 0, 0])


MEMBER = CNNConfig(widths=(6,), strides=(2,))
TASK = Task((6, 6, 1), 4, 100)
IMAGES = jax.random.uniform(jax.random.key(0), (5, 6, 6, 1))
BATCH = Batch(IMAGES, jnp.asarray([0, 3, 1, 2, 2]), jnp.ones(5, bool), jnp.arange(5))
CONFIG = PriorityDropout(network=EnsembleConfig(MEMBER, 3))
TRAIN = {"train": True, "deterministic": True, "mutable": ["batch_stats"]}


def variables_of(config):
    method = config.make(TASK)
    return jax.jit(lambda key: method.init(key=key))(jax.random.key(1))


def run_loss(config, key=2):
    method, variables = config.make(TASK), variables_of(config)
    return jax.jit(lambda v, key: method.loss(v, BATCH, key=key, step=0))(
        variables, jax.random.key(key)
    )


@pytest.mark.parametrize("rescale", [pytest.param("none", marks=pytest.mark.slow), "inverted"])
def test_features_are_kept_at_their_rates(rescale):
    """With a head that sums features, the mean of many draws is rates times features."""
    config = dataclasses.replace(CONFIG, rescale=rescale, rates=LaplaceRates(gamma=30.0))
    variables = variables_of(config)
    head = variables["params"]["backbone"]["member"]["linear"]
    head["kernel"], head["bias"] = jnp.ones_like(head["kernel"]), jnp.zeros_like(head["bias"])
    config = dataclasses.replace(config, vote="mean_logit")
    view = config.make(TASK).views["train"]
    num_draws = 3000
    keys = jax.random.split(jax.random.key(3), num_draws)
    draws = jax.jit(jax.vmap(lambda key: view(variables, IMAGES, key=key)[:, 0]))(keys)

    network = Classifier(config.network.make(4, default_layers()))
    features = network.apply(variables, IMAGES, **TRAIN)[0].features
    rates = config.rates(features)
    assert float(rates.min()) < 0.5
    share = rates if rescale == "none" else jnp.ones_like(rates)
    expected = jnp.sum(share * features, -1).mean(0)
    spread = np.asarray(draws).std(0) / num_draws**0.5
    np.testing.assert_array_less(np.abs(draws.mean(0) - expected), 4.5 * spread + 1e-6)


def test_prediction_drops_nothing():
    method, variables = CONFIG.make(TASK), variables_of(CONFIG)
    network = Classifier(CONFIG.network.make(4, default_layers()))
    plain = network.apply(variables, IMAGES, train=False, deterministic=True).member_logits
    expected = np.log(np.asarray(jax.nn.softmax(plain)).mean(0))
    np.testing.assert_allclose(
        jax.jit(method.predict)(variables, IMAGES, key=None), expected, rtol=1e-4, atol=1e-5
    )
    assert not method.stochastic


@pytest.mark.slow
def test_no_gradient_goes_through_the_rates():
    """The loss's gradient is that of features times a constant, though it divides by the rates."""
    config = dataclasses.replace(CONFIG, rescale="inverted", rates=LaplaceRates(gamma=30.0))
    method, variables = config.make(TASK), variables_of(config)
    network = Classifier(config.network.make(4, default_layers()))
    key = jax.random.key(4)
    rates = config.rates(network.apply(variables, IMAGES, **TRAIN)[0].features)
    kept = jnp.where(jax.random.bernoulli(rng.stream(key, "dropout"), rates), 1 / rates, 0.0)
    assert 0 < float(jnp.mean(kept == 0)) < 1

    def by_hand(params):
        def run(module, images):
            features, _ = module.features(images, train=True, deterministic=True)
            return module.head(features * kept, train=True, deterministic=True)

        logits, _ = network.apply({**variables, "params": params}, IMAGES, method=run, mutable=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, jnp.arange(5), BATCH.label])

    def value(params):
        return method.loss({**variables, "params": params}, BATCH, key=key, step=0)[0]

    found, expected = jax.jit(
        lambda params: (jax.value_and_grad(value)(params), jax.value_and_grad(by_hand)(params))
    )(variables["params"])
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_deg_is_the_sum_of_the_cosines_of_loss_gradients():
    # Rates that keep everything, so that the members' losses are those of a plain ensemble.
    keep_all = LaplaceRates(gamma=0.0, alpha=1.0, beta=0.0, laplace_lambda=0.5)
    config = dataclasses.replace(CONFIG, rates=keep_all, deg_weight=0.2)
    value, (moved, found) = run_loss(config)
    variables = variables_of(config)
    network = Classifier(MEMBER.make(4, default_layers()))
    gradients, crossed, statistics = [], [], []
    for i in range(3):
        alone = member_variables(variables, i)

        def loss(images, alone=alone):
            outputs, moved = network.apply(alone, images, **TRAIN)
            chosen = jax.nn.log_softmax(outputs.logits)[jnp.arange(5), BATCH.label]
            return -jnp.mean(chosen), moved

        (cost, moved_alone), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(IMAGES)
        gradients.append(np.asarray(slope).reshape(5, -1))
        crossed.append(float(cost))
        statistics.append(moved_alone["batch_stats"]["backbone"]["norm1"]["mean"])
    cosines = [
        np.dot(gradients[i][b], gradients[j][b])
        / np.linalg.norm(gradients[i][b]) / np.linalg.norm(gradients[j][b])
        for i, j in ((0, 1), (0, 2), (1, 2))
        for b in range(5)
    ]  # fmt: skip
    assert float(found["gradient_cosine"]) == pytest.approx(np.mean(cosines), rel=1e-3, abs=1e-4)
    expected = np.mean(crossed) + 0.2 * np.sum(cosines) / 5
    assert float(value) == pytest.approx(expected, rel=1e-4)
    mean = moved["batch_stats"]["backbone"]["member"]["norm1"]["mean"]
    np.testing.assert_allclose(mean, np.stack(statistics), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_deg_and_plain_dropout_draw_the_same_masks():
    plain, (_, without) = run_loss(CONFIG)
    tiny, (_, with_deg) = run_loss(dataclasses.replace(CONFIG, deg_weight=1e-6))
    assert float(tiny) == pytest.approx(float(plain), rel=1e-4)
    for name in ("keep_rate", "keep_rate_std", "active"):
        assert float(with_deg[name]) == pytest.approx(float(without[name]), rel=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PriorityDropout(network=MEMBER), "network=CNNConfig to be an EnsembleConfig"),
        (lambda: PriorityDropout(network=EnsembleConfig(MEMBER, 1)), "num_members=1 >= 2"),
        (lambda: dataclasses.replace(CONFIG, deg_weight=-1.0), "deg_weight=-1.0 >= 0"),
        (lambda: dataclasses.replace(CONFIG, rates=PriorityRates(num_intervals=2)), "=2 >= 3"),
        (lambda: LaplaceRates(gamma=-1.0), "gamma=-1.0 >= 0"),
        (lambda: LaplaceRates(interval=0.0), "interval=0.0 > 0"),
        (lambda: LaplaceRates(beta=1.5), "beta=1.5 <= 1"),
        (lambda: PriorityRates(alpha=-0.5), "alpha=-0.5 <= 1"),
    ],
)
def test_bad_fields_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
