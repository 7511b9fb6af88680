"""Small models, and the digits that measures are asked on."""

import jax
import pytest

from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import measures
from robust_jax.evaluation.measurement import load


@pytest.fixture(scope="session")
def data():
    """Real digits."""
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="session")
def subject(data):
    """A function of a method's configuration and a number of images: whom a measure asks."""

    def make(config, num_images=40, batch_size=16, variables=None):
        method = config.make(data.task)
        if variables is None:
            variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
        images, labels = load(data.test, list(range(num_images)))
        return measures.Subject(
            method, config, variables, images, labels, list(map(str, range(10))),
            jax.random.key(1), batch_size,
        )  # fmt: skip

    return make
