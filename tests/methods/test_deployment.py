"""Deployment: the vote of several passes, drawn anew or once for all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import methods, rng, voting
from robust_jax.methods import Deployment, MethodConfig
from robust_jax.models import CNNConfig, EnsembleConfig, ResNetConfig
from robust_jax.types import Task

KEY = jax.random.key(3)
TASK = Task(input_shape=(8, 8, 1), num_classes=3, num_train=10)
NETWORK = CNNConfig(widths=(4,), strides=(2,))
IMAGES = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
KAP = methods.KAP(network=NETWORK, pool=None, sigma=0.5)
FROZEN = Deployment(3, "frozen", seed=5)
RLS = methods.RandomLayerSampling(network=NETWORK, frozen=(2,), frozen_seed=7)


@pytest.mark.slow
def test_draws_are_passes_whose_vote_decides():
    single, several = (dataclasses.replace(KAP, deployment=d).make(TASK)
                       for d in (None, Deployment(3)))  # fmt: skip
    variables = single.init(key=KEY)
    passes = [
        single.views["members"](variables, IMAGES, key=rng.stream(KEY, "draw", number))[0]
        for number in range(3)
    ]
    members = several.views["members"](variables, IMAGES, key=KEY)
    np.testing.assert_allclose(members, jnp.stack(passes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        several.predict(variables, IMAGES, key=KEY),
        voting.scores(members, "mean_probability"),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        several.views["one_draw"](variables, IMAGES, key=KEY),
        single.views["deployed"](variables, IMAGES, key=KEY),
    )
    assert several.stochastic


@pytest.mark.slow
def test_a_paper_s_draws_are_a_deployment():
    ways = ({"num_draws": 3}, {"num_draws": 1, "deployment": Deployment(3)})
    first, second = (methods.RandomSelfEnsemble(network=NETWORK, **way).make(TASK) for way in ways)
    variables = first.init(key=KEY)
    np.testing.assert_array_equal(
        *(method.predict(variables, IMAGES, key=KEY) for method in (first, second))
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", [NETWORK, EnsembleConfig(NETWORK, 2)])
def test_frozen_draws_are_one_network_for_every_image_and_call(network):
    config = dataclasses.replace(KAP, network=network, deployment=FROZEN)
    single = dataclasses.replace(KAP, network=network)
    method, plain = (each.make(TASK) for each in (config, single))
    variables = method.init(key=KEY)
    scores = method.predict(variables, IMAGES)
    assert not method.stochastic
    np.testing.assert_array_equal(method.predict(variables, IMAGES, key=KEY), scores)
    # Alone, or in another row, an image has the same scores but for rounding.
    turned = method.predict(variables, IMAGES[::-1])[::-1]
    np.testing.assert_allclose(turned, scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        method.predict(variables, IMAGES[1:2])[0], scores[1], rtol=1e-5, atol=1e-6
    )
    members = method.views["members"](variables, IMAGES)
    assert members.shape == (3 * getattr(network, "num_members", 1), 3, 3)
    noiseless = plain.views["noise_off"](variables, IMAGES)
    assert jnp.max(jnp.abs(members[0] - members[-1])) > 0.01  # passes differ
    assert jnp.max(jnp.abs(method.views["deployed"](variables, IMAGES) - noiseless)) > 0.01
    slope = jax.grad(lambda x: jnp.sum(method.views["deployed"](variables, x)[:, 0]))(IMAGES)
    assert jnp.all(jnp.any(slope != 0, axis=(1, 2, 3)))
    taps, others = (m.taps(variables, IMAGES, key=KEY) for m in (method, plain))
    assert jax.tree.map(jnp.shape, taps) == jax.tree.map(jnp.shape, others)
    head = taps[max(taps)]  # names sort in network order
    first = head.reshape(-1, *head.shape[-2:])[0]
    np.testing.assert_allclose(first, members[0], rtol=1e-5, atol=1e-6)
    other = dataclasses.replace(config, deployment=dataclasses.replace(FROZEN, seed=6)).make(TASK)
    assert jnp.max(jnp.abs(other.predict(variables, IMAGES) - scores)) > 1e-3


@pytest.mark.slow
def test_frozen_layer_sampling_is_the_view_of_its_name():
    config = dataclasses.replace(RLS, deployment=Deployment(2, "frozen", seed=7))
    method = config.make(TASK)
    variables = method.init(key=KEY)
    assert not method.stochastic
    np.testing.assert_array_equal(
        method.predict(variables, IMAGES), method.views["frozen_2"](variables, IMAGES)
    )
    assert method.taps is None


@pytest.mark.slow
def test_frozen_layer_sampling_with_noise_is_one_network_for_every_image():
    noise = methods.ActivationNoise(0.5)
    config = dataclasses.replace(RLS, deployment=FROZEN, changes=(noise,))
    method = config.make(TASK)
    variables = method.init(key=KEY)
    scores = method.predict(variables, IMAGES)
    turned = method.predict(variables, IMAGES[::-1])[::-1]
    np.testing.assert_allclose(turned, scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Deployment(0), "Expected num_draws=0 >= 1."),
        (lambda: Deployment(2, "frozen", seed=2**32), "Expected 0 <= seed=4294967296 < 2"),
        (lambda: methods.Standard(deployment=Deployment(2)), "of Standard: nothing draws"),
        (lambda: methods.BatchEnsemble(deployment=Deployment(2)), "nothing draws at prediction"),
        (lambda: methods.REGroup(deployment=Deployment(2)), "nothing draws at prediction"),
        (lambda: dataclasses.replace(KAP, sigma=0.0, deployment=FROZEN), "nothing draws"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_frozen_is_nothing_that_draws():
    residual = ResNetConfig(depth=20, blocks=(1, 1, 1), widths=(4, 4, 4))
    noise = methods.KAP(network=residual, pool=None)
    assert "skip_gradient" in noise.make(TASK).views
    assert "skip_gradient" not in dataclasses.replace(noise, deployment=FROZEN).make(TASK).views
    # Its passes are made otherwise than its activations are shown.
    dropout = methods.MonteCarloDropout(network=NETWORK)
    assert dropout.make(TASK).taps is not None
    assert dataclasses.replace(dropout, deployment=FROZEN).make(TASK).taps is None


@pytest.mark.slow
def test_every_random_preset_can_be_deployed_otherwise():
    presets: list[MethodConfig] = [
        methods.GradDiv(network=NETWORK),
        methods.MonteCarloDropout(network=NETWORK),
        methods.MonteCarloDropout(network=NETWORK, where="activations"),
        methods.StochasticActivationPruning(network=NETWORK),
    ]
    for preset in presets:
        method = dataclasses.replace(preset, deployment=FROZEN).make(TASK)
        variables = method.init(key=KEY)
        np.testing.assert_allclose(
            method.predict(variables, IMAGES[:1]),
            method.predict(variables, IMAGES)[:1],
            rtol=1e-5,
            atol=1e-6,
        )
