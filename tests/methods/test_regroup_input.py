"""What REGroup refuses."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax.methods import REGroup
from robust_jax.models import CNNConfig, EnsembleConfig
from robust_jax.types import Task

TASK = Task((8, 8, 1), 10, 100)
CNN = CNNConfig(widths=(16, 24), strides=(1, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: REGroup(num_layers=0), "Expected num_layers=0 >= 1."),
        (lambda: REGroup(delta=0.0), "Expected delta=0.0 >= 1e-30."),
        (
            lambda: REGroup(delta=1e-40),
            "Expected delta=1e-40 >= 1e-30.",
        ),
        (lambda: REGroup(surrogate_delta=1e-36), "Expected surrogate_delta=1e-36 >= 1e-30"),
        (lambda: REGroup(temperature=-1.0), "Expected temperature=-1.0 > 0."),
        (lambda: REGroup(layer_accuracy=1.5), "Expected 0 <= layer_accuracy=1.5 <= 1."),
        (lambda: REGroup(layers=("a",)), "Expected num_layers=5 <= 1 named layers."),
        (
            lambda: REGroup(network=EnsembleConfig(CNN, 2), response="norm"),
            "Expected response='norm' to be 'raw' for an ensemble.",
        ),
        (lambda: initialise(REGroup(network=CNN, num_layers=4)), "num_layers=4 <= 3 layers."),
        (
            lambda: initialise(REGroup(network=CNN, layers=("conv9",), num_layers=1)),
            "Expected layer 'conv9' to be one of",
        ),
        (
            lambda: (
                REGroup(network=CNN, num_layers=3)
                .make(TASK)
                .predict(initialise(REGroup(network=CNN, num_layers=3)), jnp.zeros((1, 8, 8, 1)))
            ),
            "Expected variables to hold 'fitted'",
        ),
        (
            lambda: REGroup(network=CNN, num_layers=3).make(TASK).fit({}, [], key=None),
            "Expected batches to hold at least one batch.",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def initialise(config):
    return jax.eval_shape(config.make(TASK).init, key=jax.random.key(0))
