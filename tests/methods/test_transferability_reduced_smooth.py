"""TRS: the loss from its parts, the ascent raises the gradients' norm, eps grows with the epoch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import training
from robust_jax.experiment import config
from robust_jax.methods import TransferabilityReducedSmooth
from robust_jax.methods.runs import cross_entropy
from robust_jax.methods.terms import Epoch
from robust_jax.models import CNNConfig, EnsembleConfig, member_variables
from robust_jax.runtime.sharding import make_mesh
from robust_jax.training.plan import make_plan
from robust_jax.types import Batch, Task

CONFIG = TransferabilityReducedSmooth(
    network=EnsembleConfig(CNNConfig(widths=(5,), strides=(2,)), 3),
    init_eps=0.0,
    final_eps=0.4,
    num_epochs=10,
)
TASK = Task((6, 6, 1), 4, 60)
IMAGES = jax.random.uniform(jax.random.key(0), (6, 6, 6, 1))
LABELS = jnp.asarray([0, 3, 1, 2, 3, 1])
BATCH = Batch(IMAGES, LABELS, jnp.ones(6, bool), jnp.arange(6))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda key: CONFIG.make(TASK).init(key=key))(jax.random.key(1))


@jax.jit
def loss(variables, step):
    return CONFIG.make(TASK).loss(variables, BATCH, key=jax.random.key(2), step=step)


@pytest.mark.slow
def test_loss_without_ascent(variables):
    """In the first epoch eps is 0 here: every point is its image."""

    def crossed(alone, images):
        outputs, _ = CONFIG.classifier(TASK, member=True).apply(
            alone, images, train=True, deterministic=True, mutable=["batch_stats"]
        )
        return cross_entropy(outputs.logits, LABELS)

    alone = [member_variables(variables, m) for m in range(3)]
    values, slopes = jax.jit(
        lambda alone: (
            [crossed(v, IMAGES) for v in alone],
            [jax.grad(crossed, 1)(v, IMAGES) for v in alone],
        )
    )(alone)
    g = np.asarray(slopes, np.float64).reshape(3, 6, -1)
    norms = 2 * np.mean((g**2).sum(-1))
    unit = g / np.linalg.norm(g, axis=-1, keepdims=True)
    cosine = np.mean([abs((unit[i] * unit[j]).sum(-1)) for i, j in ((0, 1), (0, 2), (1, 2))])
    value, (_, found) = loss(variables, jnp.asarray(9))
    assert float(found["eps"]) == 0
    np.testing.assert_allclose(found["smoothness"], norms, rtol=1e-4)
    np.testing.assert_allclose(found["gradient_cosine"], cosine, rtol=1e-4)
    expected = sum(map(float, values)) + 5 * (2 * cosine + 2 * norms)
    np.testing.assert_allclose(value, expected, rtol=1e-5)

    config = dataclasses.replace(CONFIG, reduction="sum")
    summed = jax.jit(lambda v: config.make(TASK).loss(v, BATCH, key=jax.random.key(2), step=0))
    np.testing.assert_allclose(summed(variables)[1][1]["smoothness"], 36 * norms, rtol=1e-4)


def test_configurations_take_their_epochs_from_the_run(repository):
    file = repository / "configs" / "trs_cifar10.py"
    for variant in config.load_module(str(file))[0].VARIANTS:
        assert config.load(f"{file}:{variant}").method.num_epochs is None


def test_epochs_are_those_of_the_plan(variables):
    """Two phases of other batch sizes, four epochs: eps grows from 0 to .4, a quarter an epoch."""
    phases = (training.Phase(epochs=2.0, batch_size=6), training.Phase(epochs=2.0, batch_size=20))
    plan = make_plan(training.TrainingConfig(phases=phases), TASK.num_train, make_mesh(1))
    own = dataclasses.replace(CONFIG, num_epochs=None, num_steps=1)
    method = plan.in_run(own.make(TASK))

    @jax.jit
    def eps(step):
        return method.loss(variables, BATCH, key=jax.random.key(2), step=step)[1][1]["eps"]

    steps = (0, 9, 10, 19, 20, 22, 23, 25)  # ten steps an epoch, then three
    expected = [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    np.testing.assert_allclose([eps(jnp.asarray(step)) for step in steps], expected, rtol=1e-6)
    _, term = own.own_terms
    assert float(term.eps_at(Epoch(jnp.asarray(7), None))) == 0  # no run, no growth


@pytest.mark.slow
def test_ascent_finds_larger_gradients(variables):
    """60 images are 10 batches of 6: step 55 is in the sixth of ten epochs."""
    _, (_, still) = loss(variables, jnp.asarray(0))
    _, (_, found) = loss(variables, jnp.asarray(55))
    assert float(found["eps"]) == pytest.approx(0.2)
    assert float(found["smoothness"]) > 1.2 * float(still["smoothness"])
    assert float(found["cross_entropy"]) == pytest.approx(float(still["cross_entropy"]))
