"""Free-AT and weight perturbation: the step against a plain loop and against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robust_jax import experiment, rng, training
from robust_jax.attacks import ThreatModel
from robust_jax.data import Augmentation, DataConfig, Digits, augment, open_data
from robust_jax.experiment import checkpoints
from robust_jax.methods import Standard
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.training import FreeAdversarialTraining, Phase, TrainingConfig
from robust_jax.training.plan import make_plan
from robust_jax.types import Batch, Task
from tests.small import config

TASK = Task((4, 4, 1), 3, 60)
# Without norm and with one convolution over few pixels: smooth enough for rounding.
METHOD = Standard(network=CNNConfig(widths=(4,), strides=(2,), norm=False)).make(TASK)
AUGMENTATION = Augmentation(flip=True)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)
KEY = jax.random.key(3)


def make_batch(seed, batch_size=8):
    images = jax.random.uniform(jax.random.key(seed), (batch_size, 4, 4, 1))
    index = jnp.arange(batch_size)
    return Batch(images, index % 3, jnp.ones(batch_size, bool), index)


def fresh():
    return METHOD.init(key=jax.random.key(0))


def loss_of(params, images, batch, step):
    key = rng.stream(KEY, "loss", step)
    return METHOD.loss({"params": params}, batch._replace(image=images), key=key, step=step)[0]


@pytest.mark.slow
def test_free_training_is_its_algorithm():
    threat = ThreatModel("linf", 0.1)
    cfg = TrainingConfig(adversarial=FreeAdversarialTraining(threat, num_replays=2))
    mesh = sharding.make_mesh(2)
    step_fn = training.make_train_step(METHOD, OPTIMIZER, cfg, AUGMENTATION, mesh)
    batches = [make_batch(1), make_batch(1), make_batch(2), make_batch(2)]
    state = training.init_state(fresh(), OPTIMIZER, cfg, mesh, batches[0].image.shape)

    params = fresh()["params"]
    moments, delta = OPTIMIZER.init(params), np.zeros((8, 4, 4, 1), np.float32)
    gradients = jax.jit(jax.grad(loss_of, (0, 1)))
    augmented = jax.jit(lambda x, key: augment(AUGMENTATION, x, key=key))
    for step, batch in enumerate(batches):
        clean = np.asarray(augmented(batch.image, rng.stream(KEY, "augment", step // 2)))
        images = np.clip(np.clip(clean + delta, clean - 0.1, clean + 0.1), 0, 1)
        of_params, of_images = gradients(params, jnp.asarray(images), batch, jnp.asarray(step))
        updates, moments = OPTIMIZER.update(of_params, moments, params)
        params = optax.apply_updates(params, updates)
        moved = np.clip(images + 0.1 * np.sign(of_images), clean - 0.1, clean + 0.1)
        delta = np.clip(moved, 0, 1) - clean
        state, _ = step_fn(state, batch, KEY)
        chex.assert_trees_all_close(state.variables["params"], params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.perturbation, delta, atol=1e-6)
    assert np.abs(delta).max() > 0.05
    assert step_fn._cache_size() == 1
    # Images of another size: the perturbation starts at zero.
    larger = make_batch(5, batch_size=16)
    state, _ = step_fn(state, larger, KEY)
    assert state.perturbation.shape == (16, 4, 4, 1)


def test_batches_are_replayed_and_resumed():
    data = open_data(DataConfig(Digits(), image_size=8))
    mesh = sharding.make_mesh(1)
    free = FreeAdversarialTraining(ThreatModel("linf", 0.1), num_replays=3)
    phases = (Phase(2.0, batch_size=360), Phase(1.0, batch_size=720, image_size=10))
    plan = make_plan(TrainingConfig(phases, adversarial=free), data.task.num_train, mesh)
    assert plan.starts == (0, 9, 12)  # 8 and 2 steps in multiples of 3
    assert plan.image_shape_at(8, data.task) == (360, 8, 8, 1)
    assert plan.image_shape_at(9, data.task) == (720, 10, 10, 1)
    found = list(training.batches(data, plan, mesh, seed=0, start=0))
    index = [batch.index.tolist() for batch in found]
    assert len(found) == 12
    for step in range(12):
        assert index[step] == index[step - step % 3]
    assert index[0] != index[3] != index[6]
    resumed = list(training.batches(data, plan, mesh, seed=0, start=7))
    chex.assert_trees_all_equal(resumed, found[7:])


@pytest.mark.slow
def test_perturbation_is_saved_and_restored(tmp_path):
    free = FreeAdversarialTraining(ThreatModel("linf", 0.1), num_replays=2)
    cfg = config(adversarial=free)
    data, mesh = open_data(cfg.data), sharding.make_mesh(2)
    method = cfg.method.make(data.task)
    variables = experiment.init_variables(cfg, data, method, mesh)
    state = training.init_state(variables, OPTIMIZER, cfg.training, mesh, (104, 8, 8, 1))
    state = state._replace(perturbation=state.perturbation + 0.25, step=state.step + 5)
    with checkpoints.open_manager(tmp_path, best_by="accuracy") as manager:
        experiment.save(manager, state, config=cfg, data=data)
        empty = training.init_state(variables, OPTIMIZER, cfg.training, mesh, (104, 8, 8, 1))
        found = experiment.restore(manager, tmp_path, 5, empty, mesh)
    chex.assert_trees_all_equal(found, state)
    assert found.perturbation.sharding.spec == sharding.batched(mesh).spec


@pytest.mark.parametrize("members", [0, 2], ids=["network", "stacked"])
def test_weight_perturbation_by_numpy(members):
    shape = (members,) if members else ()
    params = {
        "conv": {"kernel": jax.random.normal(jax.random.key(1), (*shape, 3, 3, 2, 4))},
        "linear": {
            "kernel": jax.random.normal(jax.random.key(2), (*shape, 6, 3)),
            "bias": jnp.ones((*shape, 3)),
        },
    }
    slopes = jax.tree.map(lambda leaf: jnp.cos(7 * leaf), params)
    found = jax.jit(lambda p, g: training.perturb_weights(p, g, 0.01))(params, slopes)
    np.testing.assert_array_equal(found["linear"]["bias"], params["linear"]["bias"])
    for name in ("conv", "linear"):
        w, g, v = (np.asarray(tree[name]["kernel"], np.float64) for tree in (params, slopes, found))
        for m in range(members or 1):
            w1, g1, v1 = (array[m] if members else array for array in (w, g, v))
            expected = 0.01 * np.linalg.norm(w1) * g1 / np.linalg.norm(g1)
            np.testing.assert_allclose(v1 - w1, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_weight_perturbation_moves_the_gradient_not_the_weights():
    cfg, mesh = TrainingConfig(weight_perturbation=0.05), sharding.make_mesh(1)
    optimizer = optax.sgd(0.1)
    step_fn = training.make_train_step(METHOD, optimizer, cfg, Augmentation(), mesh)
    batch, variables = make_batch(1), fresh()
    params = jax.tree.map(jnp.copy, variables["params"])  # the step donates its own
    state, _ = step_fn(training.init_state(variables, optimizer, cfg, mesh), batch, KEY)
    slope = jax.jit(jax.grad(loss_of))
    first = slope(params, batch.image, batch, 0)
    moved = jax.jit(lambda p, g: training.perturb_weights(p, g, 0.05))(params, first)
    second = slope(moved, batch.image, batch, 0)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, params, second)
    chex.assert_trees_all_close(state.variables["params"], expected, rtol=1e-5, atol=1e-6)
    difference = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), first, second)
    assert max(jax.tree.leaves(difference)) > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FreeAdversarialTraining(ThreatModel("linf", 0.1), num_replays=0),
            "Expected num_replays=0 >= 1",
        ),
        (
            lambda: FreeAdversarialTraining(ThreatModel("linf", 0.1), step_size=0.0),
            "Expected step_size=0.0 > 0",
        ),
        (
            lambda: TrainingConfig(weight_perturbation=-0.1),
            "Expected weight_perturbation=-0.1 >= 0",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
