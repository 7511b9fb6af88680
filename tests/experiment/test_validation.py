"""Validation, of what decides as it is and of what is fitted first."""

import dataclasses

import jax
import optax
import pytest

from robust_jax import experiment
from robust_jax.attacks import PGD
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.experiment.config import Config
from robust_jax.methods import REGroup
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.training import init_state
from tests import small

CNN = CNNConfig(widths=(8, 8), strides=(2, 2))


@pytest.mark.slow
def test_regroup_is_validated_before_it_is_fitted():
    """By its network, whose layers vote only then."""
    data = open_data(DataConfig(Digits(), validation_size=40))
    made = Config("ranks", data.config, REGroup(network=CNN, num_layers=2))
    method, mesh = made.method.make(data.task), sharding.make_mesh(1)
    training = dataclasses.replace(made.training, validation_attack=PGD(small.THREAT, num_steps=1))
    made = dataclasses.replace(made, training=training)
    validator = experiment.make_validator(method, made, data, mesh)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    state = init_state(variables, optax.sgd(0.1), made.training, mesh)
    assert set(experiment.validate(validator, state, data)) == {"accuracy", "robust_accuracy"}
