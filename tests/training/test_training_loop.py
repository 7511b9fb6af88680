"""The loop of train.py on its devices: it waits for none between two lines, and keeps one copy."""

import dataclasses
import gc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import experiment, training
from robust_jax.commands import train
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.runtime import sharding
from robust_jax.training import Phase, TrainingConfig
from robust_jax.training.plan import make_plan
from tests import small


@pytest.fixture
def no_waiting(monkeypatch):
    """A switch: while it is on, neither reading an array nor an implicit transfer is allowed.

    On the CPU nothing is transferred to the host that JAX's guard would see, so reading is caught
    where it is asked for; copies to the device are JAX's guard's.
    """

    def turn(on):
        switch.on = on
        jax.config.update("jax_transfer_guard_host_to_device", "disallow" if on else "allow")
        jax.config.update(
            "jax_transfer_guard_device_to_host", "disallow_explicit" if on else "allow"
        )

    switch = types.SimpleNamespace(on=False, turn=turn)

    def refuse(given):
        assert not (switch.on and isinstance(given, jax.Array)), "an array is read"

    array = type(jnp.zeros(()))
    value = array._value
    wait = array.block_until_ready

    def read(self):
        refuse(self)
        return value.fget(self)

    def waited(self):
        refuse(self)
        return wait(self)

    monkeypatch.setattr(array, "_value", property(read))
    monkeypatch.setattr(array, "block_until_ready", waited)
    for name in ("asarray", "array"):  # which read the buffer itself

        def copied(given, *args, before=getattr(np, name), **kwargs):
            refuse(given)
            return before(given, *args, **kwargs)

        monkeypatch.setattr(np, name, copied)
    yield switch
    turn(False)


def test_the_switch_catches_a_copy_to_the_device(no_waiting):
    add = jax.jit(lambda x: x + 1)
    add(np.ones(3, np.float32))
    no_waiting.turn(True)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        add(np.ones(3, np.float32))


READS = {
    "np.asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array(x),
    "device_get": jax.device_get,
    "float": float,
    "bool": bool,
    "tolist": lambda x: x.tolist(),
    "print": repr,
    "wait": jax.block_until_ready,
}


@pytest.mark.parametrize("name", READS)
def test_the_switch_catches(no_waiting, name):
    x = jax.jit(lambda: jnp.float32(3))()
    no_waiting.turn(True)
    with pytest.raises(AssertionError, match="an array is read"):
        READS[name](x)
    no_waiting.turn(False)
    READS[name](x)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["device", "stream"])
def test_a_run(monkeypatch, tmp_path, no_waiting, memory):
    """No host waits between two lines, a step takes its state's buffers, one copy is evaluated."""
    cfg = small.config(small.noisy())  # with momentum, and an average of the variables
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, memory=memory))
    watched, kept, copies = [], [], []

    def watched_batches(*args, **kwargs):
        for number, batch in enumerate(batches(*args, **kwargs), 1):
            no_waiting.turn(number > 1)  # the first step compiles
            watched.append(no_waiting.on)
            yield batch
        no_waiting.turn(False)

    def allowed(function):
        def call(*args, **kwargs):
            was = no_waiting.on
            no_waiting.turn(False)
            found = function(*args, **kwargs)
            no_waiting.turn(was)
            return found

        return call

    def watched_step(*args):
        step_fn = make_train_step(*args)

        def step(state, *given):
            found = step_fn(state, *given)
            kept.append(sum(not leaf.is_deleted() for leaf in jax.tree.leaves(state)))
            return found

        return step

    def count(checkpoint, *args, **kwargs):
        gc.collect()
        shape = checkpoint.variables["params"]["backbone"]["conv1"]["kernel"].shape
        new = [array for array in jax.live_arrays() if not any(array is one for one in before)]
        copies.append(sum(array.shape == shape for array in new))

    batches, make_train_step = training.batches, training.make_train_step
    monkeypatch.setattr(training, "batches", watched_batches)
    monkeypatch.setattr(training, "make_train_step", watched_step)
    monkeypatch.setattr(experiment, "judge", count)
    for name in ("fetch", "check_finite"):  # at a line, and where a checkpoint is written
        monkeypatch.setattr(training, name, allowed(getattr(training, name)))
    for name in ("validate", "save", "fit"):
        monkeypatch.setattr(experiment, name, allowed(getattr(experiment, name)))
    gc.collect()
    before = jax.live_arrays()  # what other tests of this process keep
    train.main(train.Arguments(cfg, tmp_path))
    assert sum(watched) == 21
    assert kept == [0] * 22
    assert copies == [1]


def test_peak_memory_is_the_fullest_device_s():
    def device(peak, process_index=0):
        stats = None if peak is None else {"peak_bytes_in_use": peak}
        return types.SimpleNamespace(process_index=process_index, memory_stats=lambda: stats)

    assert sharding.peak_bytes([device(3), device(5), device(9, process_index=1)]) == 5
    assert sharding.peak_bytes([device(None)]) is None
    assert sharding.peak_bytes(sharding.make_mesh(2).devices.flat) is None  # the CPU keeps no count


def test_half_an_epoch_is_not_begun_again():
    """A phase that begins within an epoch takes the next one's images: others, in another order."""
    data = open_data(DataConfig(Digits()))
    phases = (Phase(epochs=0.5, batch_size=64), Phase(epochs=0.5, batch_size=64))
    mesh = sharding.make_mesh(1)
    plan = make_plan(TrainingConfig(phases), data.task.num_train, mesh)
    rows = [
        np.asarray(batch.index) for batch in training.batches(data, plan, mesh, seed=0, start=0)
    ]
    assert len(rows) == 22
    first, second = np.concatenate(rows[:11]), np.concatenate(rows[11:])
    assert 0.3 < np.isin(second, first).mean() < 0.7
