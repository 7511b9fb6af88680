"""Checkpoints: what is kept, what is refused, and that a broken one is named."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import pytest

import robust_jax
from robust_jax import formats
from robust_jax.experiment import checkpoints
from robust_jax.experiment.state import restore_optimizer
from robust_jax.experiment.weights import check_function
from robust_jax.methods import (
    KAP,
    TRADES,
    KernelPool,
    RandomSelfEnsemble,
    REGroup,
    Standard,
    StochasticActivationPruning,
)
from robust_jax.models import CNNConfig, Normalization
from robust_jax.runtime import sharding
from robust_jax.types import Task
from tests.small import config

TASK = Task((8, 8, 1), 10, 1242)
CONFIG = config()


@pytest.fixture(scope="module")
def variables():
    method = CONFIG.method.make(TASK)
    return jax.jit(lambda key: method.init(key=key))(jax.random.key(0))


def write(workdir, variables, metrics_by_step, cfg=CONFIG):
    with checkpoints.open_manager(workdir, best_by=cfg.training.best_by) as manager:
        for step, accuracy in metrics_by_step.items():
            checkpoints.save(
                manager,
                step,
                model=jax.tree.map(lambda leaf, step=step: leaf + step, variables),
                optimizer={"step": jnp.asarray(step)},
                config=cfg,
                task=TASK,
                class_names=("a", "b"),
                metrics=None if accuracy is None else {"accuracy": accuracy},
            )


def test_last_and_best_are_kept(tmp_path, variables):
    write(tmp_path, variables, {1: 0.5, 2: 0.9, 3: 0.4, 4: 0.6, 5: None})
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 5]
    found = checkpoints.load(tmp_path, sharding.make_mesh(1))
    assert (found.step, found.metrics, found.class_names) == (2, {"accuracy": 0.9}, ("a", "b"))
    assert (found.config, found.task) == (CONFIG, TASK)
    chex.assert_trees_all_equal(found.variables, jax.tree.map(lambda leaf: leaf + 2, variables))
    assert checkpoints.resumable_step(tmp_path, CONFIG) == 5


def test_best_of_an_earlier_session_is_kept(tmp_path, variables):
    """A run that is started again knows the metrics of what it finds."""
    write(tmp_path, variables, {1: 0.9, 2: 0.5})
    write(tmp_path, variables, {3: 0.4, 4: None})
    assert checkpoints.kept_metrics(tmp_path) == {1: {"accuracy": 0.9}, 4: {}}
    assert checkpoints.load(tmp_path, sharding.make_mesh(1)).step == 1


def test_restores_on_other_devices(tmp_path, variables):
    spread = jax.device_put(variables, sharding.replicated(sharding.make_mesh(4)))
    write(tmp_path, spread, {1: None})
    found = checkpoints.load(tmp_path, sharding.make_mesh(2)).variables
    leaf = jax.tree.leaves(found)[0]
    assert len(leaf.sharding.device_set) == 2


def test_another_configuration_names_the_fields(tmp_path, variables):
    write(tmp_path, variables, {1: None})
    other = dataclasses.replace(CONFIG, seed=7, runtime=sharding.RuntimeConfig(log_every=9))
    with pytest.raises(ValueError, match=r"it has config.seed: 0 != 7\.$"):
        checkpoints.resumable_step(tmp_path, other)
    same = dataclasses.replace(CONFIG, runtime=sharding.RuntimeConfig(log_every=9))
    assert checkpoints.resumable_step(tmp_path, same) == 1


def test_no_foreign_or_absent_directory(tmp_path):
    with pytest.raises(ValueError, match="to hold checkpoints/STEP folders"):
        checkpoints.load(tmp_path, sharding.make_mesh(1))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3" / "weights.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="step 3, to be whole and written by robust_jax") as error:
        checkpoints.load(tmp_path, sharding.make_mesh(1))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("torn_reads")
def test_truncated_arrays_are_found(tmp_path, variables):
    write(tmp_path, variables, {1: None})
    step = tmp_path / "checkpoints" / "1" / "model"
    files = sorted((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    files[-1].write_bytes(files[-1].read_bytes()[: files[-1].stat().st_size // 2])
    with pytest.raises(ValueError, match="to be whole and written by robust_jax"):
        checkpoints.load(tmp_path, sharding.make_mesh(1))


@pytest.mark.parametrize("item", ["weights", "optimizer"])
def test_arrays_that_are_not_those_that_were_saved_are_found(tmp_path, variables, item):
    write(tmp_path, variables, {1: None})
    file = tmp_path / "checkpoints" / "1" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    kept, meta[item] = meta[item], "0" * 12
    file.write_text(json.dumps(meta))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"step": jax.ShapeDtypeStruct((), jnp.int32, sharding=device)}
    refused = pytest.raises(ValueError, match=f"the arrays that were saved, 0+; found {kept}")
    with checkpoints.open_manager(tmp_path, best_by="accuracy") as manager, refused:
        if item == "weights":
            checkpoints.load(tmp_path, sharding.make_mesh(1))
        restore_optimizer(manager, 1, wanted)


def test_interrupted_save_leaves_the_previous_one(tmp_path, variables):
    write(tmp_path, variables, {1: None})
    # What a kill in the middle of a save leaves: a folder that was never renamed.
    root = tmp_path / "checkpoints"
    shutil.copytree(root / "1", root / "2.orbax-checkpoint-tmp-123")
    assert checkpoints.load(tmp_path, sharding.make_mesh(1)).step == 1
    write(tmp_path, variables, {3: None})
    assert checkpoints.resumable_step(tmp_path, CONFIG) == 3


def test_another_architecture_is_named(tmp_path, variables):
    other = dataclasses.replace(CONFIG, method=Standard(network=CNNConfig((8,), (2,))))
    write(tmp_path, variables, {1: None}, cfg=other)
    with pytest.raises(ValueError, match="another architecture"):
        checkpoints.load(tmp_path, sharding.make_mesh(1))


def test_another_method_brings_its_name_and_refuses_what_was_fitted(tmp_path, variables):
    write(tmp_path, variables, {1: 0.5})
    found = checkpoints.load(tmp_path, sharding.make_mesh(1))
    smoothed = dataclasses.replace(CONFIG.method, label_smoothing=0.1)
    other = dataclasses.replace(CONFIG, name="other", method=smoothed)
    changed = checkpoints.with_method(found, other)
    assert (changed.config.name, changed.config.method) == ("other", smoothed)
    assert checkpoints.fingerprint(changed.variables) == checkpoints.fingerprint(found.variables)
    fitted = found._replace(variables={**found.variables, "fitted": {"a": jnp.zeros(3)}})
    assert checkpoints.with_method(fitted, CONFIG) == fitted
    with pytest.raises(ValueError, match="method='other' to be the checkpoint's own"):
        checkpoints.with_method(fitted, other)


def test_arrays_that_make_another_network_are_refused(variables):
    """Kernel pooling has a plain network's arrays; noise, votes and losses change no network."""
    found = checkpoints.Checkpoint(CONFIG, TASK, (), 0, {}, variables)
    network, normalization = CONFIG.method.network, Normalization((0.5,), (0.5,))

    def under(method, found=found):
        return checkpoints.with_method(found, dataclasses.replace(CONFIG, name="x", method=method))

    for method in (
        KAP(network=network, pool=None, sigma=0.5, input_sigma=0.1),
        RandomSelfEnsemble(network=network),
        StochasticActivationPruning(network=network),
        TRADES(network=network, vote="mean_logit", dtype="bfloat16"),
    ):
        changed = under(method)
        assert changed.config.method == method
        assert under(CONFIG.method, changed).config.method == CONFIG.method
    pooled = KAP(network=network, noise_off_statistics="reestimated")
    bare = dataclasses.replace(CONFIG, method=KAP(network=network))
    for method, other in (
        (KAP(network=network), found),
        (CONFIG.method, found._replace(config=bare)),
        (RandomSelfEnsemble(network=network), found._replace(config=bare)),
        (KAP(network=network, pool=KernelPool(kind="max")), found._replace(config=bare)),
        (Standard(network=dataclasses.replace(network, strides=(1,))), found),
    ):
        with pytest.raises(ValueError, match=r"method='x' to fit the checkpoint: .* differ by"):
            under(method, other)
    check_function(pooled, bare.method, TASK, variables)
    with pytest.raises(ValueError, match="Expected REGroup to make the same network"):
        check_function(bare.method, REGroup(network=network, num_layers=2), TASK, variables)
    normalized = Standard(network=network, normalization=normalization)
    arrays = jax.jit(lambda key: normalized.make(TASK).init(key=key))(jax.random.key(0))
    with pytest.raises(ValueError, match="Expected Standard to make the same network"):
        check_function(normalized, CONFIG.method, TASK, arrays)


def test_fingerprints_tell_models_apart(variables):
    digits = checkpoints.fingerprint(variables)
    assert digits == checkpoints.fingerprint(jax.tree.map(jnp.copy, variables))
    bumped = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-3), variables)
    assert digits != checkpoints.fingerprint(bumped)


def test_meta_names_format_and_version(tmp_path, variables):
    write(tmp_path, variables, {1: None})
    meta = json.loads((tmp_path / "checkpoints" / "1" / "meta" / "metadata").read_text())
    assert (meta["format"], meta["version"]) == (formats.FORMAT, robust_jax.__version__)


def test_save_model_refuses_a_used_directory(tmp_path, variables):
    checkpoints.save_model(tmp_path, variables, config=CONFIG, task=TASK)
    assert checkpoints.load(tmp_path, sharding.make_mesh(1)).step == 0
    with pytest.raises(ValueError, match="to hold no checkpoints yet"):
        checkpoints.save_model(tmp_path, variables, config=CONFIG, task=TASK)
    with pytest.raises(ValueError, match=r"Expected step=4 to be one of \[0\]"):
        checkpoints.load(tmp_path, sharding.make_mesh(1), step=4)
