"""What every method starts from: the view through skip connections, the accuracy of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import bind
from robust_jax.attacks.members import member_logits, member_of
from robust_jax.methods import (
    KAP,
    PARL,
    AdaptiveDiversityPromoting,
    LaplaceRates,
    PriorityDropout,
    Standard,
)
from robust_jax.models import CNNConfig, EnsembleConfig, PreActResNetConfig, ResNetConfig
from robust_jax.types import Batch, Task

TASK = Task((8, 8, 3), 10, 100)
RESNET = ResNetConfig(depth=20, widths=(9, 9), blocks=(1, 2))
IMAGES = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [Standard(network=EnsembleConfig(RESNET, 2)), KAP(network=RESNET, sigma=0.2)],
    ids=["ensemble", "kap"],
)
def test_skip_gradient_is_the_deployed_view_with_another_gradient(config):
    method = config.make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(1))
    key = jax.random.key(2)

    @jax.jit
    def both(variables, images):
        def total(images, name):
            logits = method.views[name](variables, images, key=key)
            return jnp.sum(logits[:, 0]), logits

        return [
            jax.value_and_grad(total, has_aux=True)(images, name)
            for name in ("deployed", "skip_gradient")
        ]

    ((_, logits), slope), ((_, same), other) = both(variables, IMAGES)
    np.testing.assert_allclose(same, logits, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(slope - other).max()) > 0.1 * float(jnp.abs(slope).max())


def test_a_member_of_an_ensemble_is_computed_alone():
    network = EnsembleConfig(CNNConfig(widths=(4,), strides=(2,)), 3)
    method = Standard(network=network).make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(1))

    @jax.jit
    def both(variables, number):
        view, key = bind(method.view("members"), variables), jax.random.key(3)
        return member_logits(view, IMAGES, number, key=key), view(IMAGES, key=key)

    for number in range(3):
        alone, together = both(variables, number)
        np.testing.assert_allclose(alone, together[number], rtol=1e-5, atol=1e-6)
    assert member_of(bind(method.view("members"), variables)) is not None
    # Of one that draws for all members at once there is none.
    noisy = KAP(network=network, sigma=0.2).make(TASK)
    assert member_of(bind(noisy.view("members"), variables)) is None


def test_skip_gradient_is_there_where_there_are_skips():
    assert "skip_gradient" in Standard(network=PreActResNetConfig()).make(TASK).views
    for network in (CNNConfig(), EnsembleConfig(CNNConfig(), 2)):
        assert "skip_gradient" not in Standard(network=network).make(TASK).views


@pytest.mark.parametrize(
    "make",
    [
        Standard,
        pytest.param(AdaptiveDiversityPromoting, marks=pytest.mark.slow),
        pytest.param(
            functools.partial(PriorityDropout, rates=LaplaceRates(alpha=1.0, beta=1.0, gamma=0.0)),
            marks=pytest.mark.slow,
        ),
        pytest.param(functools.partial(PARL, num_layers=1), marks=pytest.mark.slow),
    ],
    ids=["standard", "adp", "lpd", "parl"],
)
def test_training_accuracy_is_the_votes(make):
    """Two equal members outvote a loud one, as which means of logits or probabilities decide."""
    network = EnsembleConfig(CNNConfig(widths=(4,), strides=(4,), norm=False), 3)
    method = make(network=network, vote="majority_lowest_class").make(TASK)
    start = jax.jit(lambda key: method.init(key=key))(jax.random.key(3))
    variables = jax.tree.map(lambda x: x.at[2].set(x[1]), start)
    images = jax.random.uniform(jax.random.key(4), (16, 8, 8, 3))
    linear = variables["params"]["backbone"]["member"]["linear"]
    linear["kernel"] = linear["kernel"].at[0].multiply(5000)
    decided, means = (
        jnp.argmax(jax.jit(rule)(variables, images, key=None), axis=-1)
        for rule in (method.predict, method.views["deployed"])
    )
    assert not bool(jnp.all(decided == means))
    batch = Batch(images, decided, jnp.ones(16, bool), jnp.arange(16))
    loss = jax.jit(lambda variables: method.loss(variables, batch, key=jax.random.key(5), step=0))
    _, (_, found) = loss(variables)
    assert float(found["accuracy"]) == 1
