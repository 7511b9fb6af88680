"""A run around its steps: what it says first, validation, the fit at the end."""

import dataclasses
import pathlib

import jax
from jax.sharding import Mesh

from robust_jax import evaluation, rng
from robust_jax.data import Data, eval_batches, select
from robust_jax.evaluation import reductions
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Judge, Selection
from robust_jax.evaluation.selection import check_mixed
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.methods import Method
from robust_jax.runtime.compilation import at_precision
from robust_jax.runtime.sharding import batched
from robust_jax.training import TrainState
from robust_jax.training.config import TrainingConfig
from robust_jax.training.plan import Plan

FEW = 1000
"""Rows of the training split that are to be of all classes: a fit counts on them."""


def header(config: Config, data: Data, plan: Plan, state: TrainState, mesh: Mesh) -> list[str]:
    """Returns the lines that say what a run is about to do.

    Args:
        config: of the run.
        data: what it trains on.
        plan: its phases in steps.
        state: from `init_state`.
        mesh: its devices.

    Example:
        >>> import optax
        >>> from robust_jax import experiment, training
        >>> from robust_jax.data import open_data
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training.plan import make_plan
        >>> config, mesh = load("quickstart"), sharding.make_mesh(1)
        >>> data, weights = open_data(config.data), {"params": {"kernel": jnp.zeros((3, 3, 1, 16))}}
        >>> plan = make_plan(config.training, data.task.num_train, mesh)
        >>> state = training.init_state(weights, optax.sgd(0.1), config.training, mesh)
        >>> lines = experiment.header(config, data, plan, state, mesh)
        >>> lines[1]
        '1,242 training, 200 validation, 355 test images of 8 x 8 x 1, 10 classes'
    """
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))
    sizes = ", ".join(
        f"{size} (global; {size // mesh.size} per device)"
        for size in dict.fromkeys(plan.batch_sizes)
    )
    height, width, channels = data.task.input_shape
    return [
        f"{config.name}: {type(config.method).__name__} on {type(config.data.source).__name__}, "
        f"{num_parameters:,} parameters",
        f"{data.task.num_train:,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images of {height} x {width} x {channels}, "
        f"{data.task.num_classes} classes",
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}, batch size {sizes or 'none'}",
        f"{plan.num_steps:,} steps, {plan.epoch_at(plan.num_steps):g} epochs",
    ]


def make_validator(
    method: Method,
    config: Config,
    data: Data,
    mesh: Mesh,
    *,
    like: evaluation.Evaluator | None = None,
) -> evaluation.Evaluator | None:
    """Returns the evaluator of the validation split; None where the split is empty.

    Args:
        method: what is validated.
        config: of the run.
        data: the dataset.
        mesh: devices.
        like: that of the same configuration with another seed, whose compiled steps are used again
            where no seed is in them.

    Raises:
        ValueError: the best checkpoint is chosen by robust accuracy and there is no split.

    Example:
        >>> from robust_jax import experiment
        >>> from robust_jax.data import open_data
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.runtime import sharding
        >>> config = load("quickstart")
        >>> data = open_data(config.data)
        >>> method = config.method.make(data.task)
        >>> validator = experiment.make_validator(method, config, data, sharding.make_mesh(1))
        >>> list(validator.steps), len(data.validation)
        (['clean', 'validation'], 200)
    """
    runs = {} if like is None else like.config.attacks
    if like is not None and not any([like.stochastic, *(r.attack.targeted for r in runs.values())]):
        return like._replace(config=dataclasses.replace(like.config, seed=config.seed))
    attack = config.training.validation_attack
    if len(data.validation) == 0:
        if attack is not None:
            raise ValueError("Expected validation_size=0 > 0 to validate by an attack.")
        return None
    check_mixed(data.validation, select(data.validation, config.training.validation_examples))
    # What decides only once it is fitted, as REGroup's layers, is validated by its network.
    judge, view = Judge(num_draws=1), "deployed"
    if method.fit is not None and "surrogate" in method.views:
        judge, view = Judge(view="surrogate", rule="paper"), "surrogate"
    return evaluation.make_evaluator(
        method,
        Evaluation(
            attacks={} if attack is None else {"validation": AttackRun(attack, view=view)},
            selection=Selection("validation", num_examples=config.training.validation_examples),
            batch_size=config.evaluation.batch_size,
            judges={"accuracy": judge},
            adversary=Adversary(num_submissions=0),
            precision=config.training.precision,
            seed=config.seed,
        ),
        mesh,
    )


def validate(
    validator: evaluation.Evaluator | None, state: TrainState, data: Data
) -> dict[str, float]:
    """Returns accuracy, and accuracy under the validation attack; nothing without a split.

    Args:
        validator: from `make_validator`; None without a validation split.
        state: of the training; its averaged weights are judged, where it has them.
        data: whose validation split is taken.

    Example:
        >>> import optax
        >>> from robust_jax import experiment, training
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> from robust_jax.experiment.config import Config
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.runtime import sharding
        >>> network = CNNConfig(widths=(4,), strides=(2,))
        >>> data_config = DataConfig(Blobs(num_train=64, image_size=4), validation_size=16)
        >>> config = Config("blobs", data_config, Standard(network))
        >>> data, mesh = open_data(config.data), sharding.make_mesh(1)
        >>> method = config.method.make(data.task)
        >>> shapes = jax.eval_shape(method.init, key=jax.random.key(0))
        >>> weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        >>> state = training.init_state(weights, optax.sgd(0.1), config.training, mesh)
        >>> validator = experiment.make_validator(method, config, data, mesh)
        >>> list(experiment.validate(validator, state, data))
        ['accuracy']
    """
    if validator is None:
        return {}
    found = evaluation.evaluate(validator, state.deployed, data.validation)
    summary = reductions.summarize(found, validator.config)
    values = {"accuracy": summary["clean_accuracy"]}
    robust = summary["robust_accuracy"].get("validation")
    if robust is not None:
        values["robust_accuracy"] = robust
    return values


def overfits(config: TrainingConfig, workdir: str | pathlib.Path) -> str | None:
    """Returns a line that says so where the last checkpoint lies far below the best; None else.

    Args:
        config: its `overfitting` says how far below is too far; None for never.
        workdir: of the run, whose checkpoints kept their validation accuracies.

    Example:
        >>> import dataclasses
        >>> from robust_jax.attacks import PGD, ThreatModel
        >>> from robust_jax.experiment import checkpoints, overfits
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.training import OverfittingMonitor, TrainingConfig
        >>> from robust_jax.types import Task
        >>> pgd, monitor = PGD(ThreatModel("linf", eps=8 / 255)), OverfittingMonitor(drop=0.2)
        >>> monitored = TrainingConfig(
        ...     best_by="robust_accuracy", validation_attack=pgd, overfitting=monitor
        ... )
        >>> run = dataclasses.replace(load("quickstart"), training=monitored)
        >>> weights, task = {"params": {"kernel": jnp.zeros(3)}}, Task((8, 8, 1), 10, 1242)
        >>> with checkpoints.open_manager("runs/fast", best_by="robust_accuracy") as manager:
        ...     for step, robust in ((100, 0.4), (200, 0.05)):
        ...         checkpoints.save(
        ...             manager, step, model=weights, optimizer=None, config=run, task=task,
        ...             class_names=(), metrics={"robust_accuracy": robust},
        ...         )
        >>> overfits(monitored, "runs/fast")
        'Catastrophic overfitting: robust validation accuracy fell from 0.400 at step 100 to 0.050
        at step 200.'
    """
    kept = checkpoints.kept_metrics(workdir)
    monitor, name = config.overfitting, "robust_accuracy"
    if monitor is None or not kept or name not in kept[max(kept)]:
        return None
    best = max(kept, key=lambda step: kept[step].get(name, -1.0))
    now, highest = kept[max(kept)][name], kept[best][name]
    if highest - now <= monitor.drop:
        return None
    return (
        f"Catastrophic overfitting: robust validation accuracy fell from {highest:.3f} at step "
        f"{best} to {now:.3f} at step {max(kept)}."
    )


def fit(
    manager: checkpoints.Manager,
    workdir: str | pathlib.Path,
    method: Method,
    config: Config,
    data: Data,
    plan: Plan,
    mesh: Mesh,
) -> checkpoints.Checkpoint:
    """Returns the best checkpoint, fitted where the method fits.

    The fitted checkpoint is saved as the step after the last, with the metrics of the one that it
    was fitted on, and so becomes the best.

    Args:
        manager: of the work directory, from `checkpoints.open_manager`.
        workdir: the run's directory.
        method: what is fitted.
        config: of the run.
        data: the dataset, whose training split is gone through once.
        plan: the steps of the run.
        mesh: devices.

    Raises:
        ValueError: the directory holds no checkpoint; or see the method's `fit`.

    Example:
        >>> from robust_jax import experiment
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> from robust_jax.experiment import checkpoints
        >>> from robust_jax.experiment.config import Config
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training.plan import make_plan
        >>> network = CNNConfig(widths=(4,), strides=(2,))
        >>> config = Config("blobs", DataConfig(Blobs(image_size=4)), Standard(network))
        >>> data, mesh = open_data(config.data), sharding.make_mesh(1)
        >>> method, plan = config.method.make(data.task), make_plan(config.training, 256, mesh)
        >>> shapes = jax.eval_shape(method.init, key=jax.random.key(0))
        >>> weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        >>> checkpoints.save_model("blobs", weights, config=config, task=data.task)
        >>> with checkpoints.open_manager("blobs", best_by="accuracy") as manager:
        ...     best = experiment.fit(manager, "blobs", method, config, data, plan, mesh)
        >>> best.step, "fitted" in best.variables  # a method without a `fit` stays as it is
        (0, False)
    """
    best = checkpoints.load(workdir, mesh)
    if method.fit is None or "fitted" in best.variables:
        return best
    check_mixed(data.train, select(data.train, min(len(data.train), FEW)))
    train_batches_once = eval_batches(data.train, config.evaluation.batch_size, None, batched(mesh))
    key = rng.stream(jax.random.key(config.seed), "fit")
    fit_once = at_precision(method.fit, config.training.precision)
    fitted = fit_once(best.variables, train_batches_once, key=key)
    checkpoints.save(
        manager,
        plan.num_steps + 1,
        model=fitted,
        optimizer=None,
        config=config,
        task=data.task,
        class_names=data.class_names,
        metrics=best.metrics,
        data=data.fingerprint,
    )
    return checkpoints.load(workdir, mesh)
