"""The training step and its state: the pieces that train.py loops over."""

import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from robust_jax import checkpoints, evaluation, records, rng
from robust_jax.attacks import bind
from robust_jax.config import Config, TrainingConfig
from robust_jax.data import Augmentation, Data, augment, eval_batches, train_batches
from robust_jax.methods import Method
from robust_jax.models import Normalization
from robust_jax.plan import Plan
from robust_jax.protocol import AttackRun, Evaluation, Judge
from robust_jax.sharding import batched, replicated
from robust_jax.types import Batch, Variables

Metrics = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """What changes from step to step; random keys and the data's position follow from `step`.

    Attributes:
        step: number of steps taken.
        variables: the network's arrays.
        optimizer: optax's state.
        average: moving average of the variables; empty where none is kept.
    """

    step: Int[Array, ""]
    variables: Variables
    optimizer: Any
    average: Variables

    @property
    def deployed(self) -> Variables:
        """Returns the variables that are validated and deployed."""
        return self.average or self.variables


def batches(data: Data, plan: Plan, mesh: Mesh, *, seed: int, start: int) -> Iterator[Batch]:
    """Yields the batches of the steps from `start` to the end of the plan."""
    for phase in range(plan.phase_at(start), len(plan.batch_sizes)):
        end = min(plan.starts[phase + 1], plan.num_steps)
        first = max(start, plan.starts[phase])
        stream = train_batches(
            data,
            plan.batch_sizes[phase],
            plan.image_sizes[phase],
            first - plan.starts[phase],
            batched(mesh),
            seed=seed,
            first_epoch=int(plan.epochs[phase]),
        )
        yield from itertools.islice(stream, max(0, end - first))


def init_variables(config: Config, data: Data, method: Method, mesh: Mesh) -> Variables:
    """Returns the variables that training starts from, replicated over the mesh.

    Fresh ones from the seed, with the training images' statistics where the network normalises by
    them; or those of `init_from`, of which a `fitted` collection is left behind.

    Raises:
        ValueError: `init_from` holds no checkpoint, or one of another architecture.
    """
    init = jax.jit(lambda key: method.init(key=key), out_shardings=replicated(mesh))
    source = config.training.init_from
    if source is not None:
        found = checkpoints.load(source, mesh).variables
        expected = jax.eval_shape(init, jax.random.key(0))
        checkpoints.check_architecture(found, expected, name=f"init_from {source!r}")
        return {name: found[name] for name in expected}
    variables = init(rng.stream(jax.random.key(config.seed), "init"))
    return _with_statistics(variables, config.method.normalization, data, mesh)


def _with_statistics(
    variables: Variables, normalization: Normalization, data: Data, mesh: Mesh
) -> Variables:
    if normalization.statistics == "given":
        return variables
    found = data.statistics
    constants = {"mean": found.pixel_mean, "std": jnp.ones_like(found.pixel_mean)}
    if normalization.statistics == "train_channel":
        constants = {"mean": found.channel_mean, "std": found.channel_std}
    return {**variables, "constants": jax.device_put(constants, replicated(mesh))}


def init_state(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
) -> TrainState:
    """Returns the state before the first step."""

    def build(variables):
        # Copies, so that no two donated arrays are the same buffer.
        copy = jax.tree.map(jnp.copy, variables)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            variables=variables,
            optimizer=optimizer.init(variables["params"]),
            average=copy if config.ema_decay is not None else {},
        )

    return jax.jit(build, out_shardings=replicated(mesh))(variables)


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    augmentation: Augmentation,
    mesh: Mesh,
) -> Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Metrics]]:
    """Returns the jitted step (state, batch, root key) -> (state, metrics).

    The batch is split over the mesh, the state replicated and donated; XLA sums gradients and
    BatchNorm statistics over all devices, so the number of devices does not change the result.
    The keys of a step are folded from the root key, by name and step.

    Raises:
        ValueError: adversarial training of a view that the method does not have.
    """
    adversarial = config.adversarial
    attacked_view = method.view("train" if adversarial is None else adversarial.view)

    def step_fn(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        def stream(name: str) -> Key[Array, ""]:
            return rng.stream(key, name, state.step)

        images = augment(augmentation, batch.image, key=stream("augment"))
        if adversarial is not None:
            view = bind(attacked_view, state.variables)
            images = adversarial.attack(
                view, images, batch.label, key=stream("attack"), index=batch.index
            )
        batch = batch._replace(image=images)
        params, rest = _split(state.variables)

        def loss_fn(params):
            return method.loss(
                {"params": params, **rest}, batch, key=stream("loss"), step=state.step
            )

        (loss, (moved, metrics)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, state.optimizer, params)
        variables = {"params": optax.apply_updates(params, updates), **rest, **moved}
        average = state.average
        if config.ema_decay is not None:
            average = _moved_average(average, variables, 1 - config.ema_decay)
        metrics = {"loss": loss, **metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, variables, moments, average), metrics

    everywhere = replicated(mesh)
    return jax.jit(
        step_fn,
        in_shardings=(everywhere, batched(mesh), everywhere),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )


def _moved_average(average: Variables, variables: Variables, share: float) -> Variables:
    """Returns the average moved towards the parameters and running statistics."""
    names = variables.keys() & {"params", "batch_stats"}
    return {
        name: optax.incremental_update(value, average[name], share) if name in names else value
        for name, value in variables.items()
    }


def _split(variables: Variables) -> tuple[Variables, Mapping[str, Any]]:
    rest = {name: value for name, value in variables.items() if name != "params"}
    return variables["params"], rest


def save(
    manager: Any,
    state: TrainState,
    *,
    config: Config,
    data: Data,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Writes a checkpoint of the state: what is deployed, and what resuming needs besides."""
    resume = {"step": state.step, "optimizer": state.optimizer}
    if state.average:
        resume["variables"] = state.variables
    checkpoints.save(
        manager,
        int(state.step),
        model=state.deployed,
        optimizer=resume,
        config=config,
        task=data.task,
        class_names=data.class_names,
        metrics=metrics,
    )


def restore(
    manager: Any, workdir: str | pathlib.Path, step: int, state: TrainState, mesh: Mesh
) -> TrainState:
    """Returns the state of a checkpoint that `save` wrote, bit for bit, on this mesh.

    Args:
        manager: the work directory's.
        workdir: the work directory.
        step: which checkpoint.
        state: a state of the same shapes.
        mesh: devices to restore to; another number of them than wrote it is fine.
    """
    model = checkpoints.load(workdir, mesh, step=step).variables
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        {"step": state.step, "optimizer": state.optimizer},
    )
    if state.average:
        abstract["variables"] = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
            dict(state.variables),
        )
    found = checkpoints.restore_optimizer(manager, step, abstract)
    model = {name: model[name] for name in state.variables}
    variables = found.get("variables", model)
    return TrainState(found["step"], variables, found["optimizer"], model if state.average else {})


def fetch(pending: list[tuple[int, Metrics]], last_good: int | None) -> dict[str, float]:
    """Returns the mean metrics of some steps, read from the device.

    Args:
        pending: (step, metrics) of each; at least one.
        last_good: step of the last checkpoint; None where there is none.

    Raises:
        FloatingPointError: a loss is not finite; names the step and the last good checkpoint.
    """
    values = jax.device_get([metrics for _, metrics in pending])
    for (step, _), value in zip(pending, values, strict=True):
        if not np.isfinite(value["loss"]):
            kept = "none yet" if last_good is None else f"that of step {last_good}"
            raise FloatingPointError(
                f"Expected loss={value['loss']} at step {step} to be finite; the last good "
                f"checkpoint is {kept}."
            )
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}


def header(config: Config, data: Data, plan: Plan, state: TrainState, mesh: Mesh) -> list[str]:
    """Returns the lines that say what a run is about to do."""
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
    method: Method, config: Config, data: Data, mesh: Mesh
) -> evaluation.Evaluator | None:
    """Returns the evaluator of the validation split; None where the split is empty.

    Raises:
        ValueError: the best checkpoint is chosen by robust accuracy and there is no split.
    """
    attack = config.training.validation_attack
    if len(data.validation) == 0:
        if attack is not None:
            raise ValueError("Expected validation_size=0 > 0 to validate by an attack.")
        return None
    return evaluation.make_evaluator(
        method,
        Evaluation(
            attacks={} if attack is None else {"validation": AttackRun(attack)},
            split="validation",
            num_examples=config.training.validation_examples,
            batch_size=config.evaluation.batch_size,
            judges={"accuracy": Judge(num_draws=1)},
            seed=config.seed,
        ),
        mesh,
    )


def validate(
    validator: evaluation.Evaluator | None, state: TrainState, data: Data
) -> dict[str, float]:
    """Returns accuracy, and accuracy under the validation attack; nothing without a split."""
    if validator is None:
        return {}
    found = evaluation.evaluate(validator, state.deployed, data.validation)
    summary = records.summarize(found, validator.config)
    values = {"accuracy": summary["clean_accuracy"]}
    if "validation" in summary["robust_accuracy"]:
        values["robust_accuracy"] = summary["robust_accuracy"]["validation"]
    return values


def fit(
    manager: Any,
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
    """
    best = checkpoints.load(workdir, mesh)
    if method.fit is None or "fitted" in best.variables:
        return best
    train_batches_once = eval_batches(data.train, config.evaluation.batch_size, None, batched(mesh))
    key = rng.stream(jax.random.key(config.seed), "fit")
    fitted = method.fit(best.variables, train_batches_once, key=key)
    checkpoints.save(
        manager,
        plan.num_steps + 1,
        model=fitted,
        optimizer=None,
        config=config,
        task=data.task,
        class_names=data.class_names,
        metrics=best.metrics,
    )
    return checkpoints.load(workdir, mesh)
