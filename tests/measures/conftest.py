"""Small models, and the digits that measures are asked on."""

import jax
import optax
import pytest

from robust_jax import measures
from robust_jax.data import DataConfig, Digits, eval_batches, open_data
from robust_jax.measurement import load


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


@pytest.fixture(scope="session")
def trained(data):
    """A function of a method's configuration: its arrays after 100 steps on 512 digits."""
    batch = next(eval_batches(data.train, 512))
    optimizer = optax.sgd(0.1, momentum=0.9)

    def train(config):
        method = config.make(data.task)

        def step(carry, _):
            variables, state = carry

            def loss(params):
                found = {**variables, "params": params}
                return method.loss(found, batch, key=jax.random.key(0), step=0)

            gradients, (moved, _) = jax.grad(loss, has_aux=True)(variables["params"])
            updates, state = optimizer.update(gradients, state)
            params = optax.apply_updates(variables["params"], updates)
            return ({**variables, "params": params, **moved}, state), None

        @jax.jit
        def run(key):
            variables = method.init(key=key)
            state = optimizer.init(variables["params"])
            return jax.lax.scan(step, (variables, state), length=100)[0][0]

        return run(jax.random.key(0)), batch

    return train
