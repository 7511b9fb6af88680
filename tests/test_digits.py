"""Every `configs/*_digits.py` trains: a few dozen steps of what train.py would run."""

import dataclasses
import itertools
import pathlib

import jax
import numpy as np
import pytest

from robust_jax import experiment, training
from robust_jax.data import eval_batches, open_data
from robust_jax.experiment import config
from robust_jax.runtime.sharding import make_mesh
from robust_jax.training import plan

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
SPECS = [
    f"{file}:{variant}"
    for file in sorted(CONFIGS.glob("*_digits.py"))
    for variant in config.load_module(str(file))[0].VARIANTS
]
# Others train the same parts, or take long.
SLOW = (
    "batch_ensemble_digits.py:default", "combined_digits.py:regroup_on_kap",
    "lpd_digits.py:default", "rls_digits.py:default",
)  # fmt: skip


def train(spec, num_steps):
    """Returns the metrics of the first steps, one array each, and the test accuracy after them."""
    found, mesh = config.load(spec), make_mesh(1)
    data = open_data(found.data)
    method = found.method.make(data.task)
    if found.training.init_from is not None:  # REGroup of what another variant trains
        trained = f"{spec.partition(':')[0]}:{found.training.init_from.rpartition('-')[2]}"
        source = config.load(trained)
        found = dataclasses.replace(source, method=dataclasses.replace(found.method))
    steps = plan.make_plan(found.training, data.task.num_train, mesh)
    optimizer = found.optimizer.make(steps.step_at, steps.epochs[-1])
    variables = experiment.init_variables(found, data, method, mesh)
    state = training.init_state(variables, optimizer, found.training, mesh)
    step = training.make_train_step(
        method, optimizer, found.training, found.data.augmentation, mesh
    )
    batches = training.batches(data, steps, mesh, seed=0, start=0)
    lines = []
    # optax's Adam raises a float to an integer power, which strict promotion forbids.
    promotion = "strict" if found.optimizer.name == "sgd" else "standard"
    for batch in itertools.islice(batches, num_steps):
        with jax.numpy_dtype_promotion(promotion):
            state, metrics = step(state, batch, jax.random.key(0))
        lines.append(metrics)
    lines = jax.device_get(lines)
    variables = state.variables
    if method.fit is not None:
        variables = method.fit(variables, eval_batches(data.train, 256), key=jax.random.key(0))
    images, labels = zip(*(data.test[row] for row in range(len(data.test))), strict=True)
    logits = jax.jit(method.views["noise_off"])(
        variables, np.stack(images).astype(np.float32) / 255, key=None
    )
    accuracy = float(np.mean(np.argmax(logits, -1) == np.asarray(labels)))
    return {name: np.asarray([line[name] for line in lines]) for name in lines[0]}, accuracy


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=pytest.mark.slow if spec.endswith(SLOW) else pytest.mark.nightly)
        for spec in SPECS
    ],
    ids=lambda spec: pathlib.Path(spec).name,
)
def test_digits_are_learned(spec):
    # Noise in every layer takes its time.
    noisy = spec.endswith(("combined_digits.py:default", ":kap", ":regroup_on_kap", ":rls_kap"))
    found, accuracy = train(spec, 250 if noisy else 60)
    assert np.all(np.isfinite(found["loss"]))
    assert found["loss"][-10:].mean() < found["loss"][:5].mean()
    assert accuracy > 0.3  # 0.1 by chance
    if spec.endswith("parl_digits.py:default"):
        assert found["gradient_cosine"][-10:].mean() < found["gradient_cosine"][:5].mean() - 0.1
