"""Checkpoints: orbax behind one file.

A work directory holds `checkpoints/STEP/`, each with the items `model` (the variables that are
deployed), `optimizer` (what a resumed run needs besides) and `meta` (configuration, task, package
version). The last and the best are kept. A save is written beside the others and renamed when it
is whole, so one that is interrupted never costs the previous one.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import TypeVar

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from robust_jax import serialization
from robust_jax.evaluation.model import fingerprint
from robust_jax.experiment import meta, portable, reading
from robust_jax.experiment.config import MAY_CHANGE, Config
from robust_jax.experiment.meta import Checkpoint, Meta, part
from robust_jax.experiment.weights import check_architecture, check_arrays, check_function
from robust_jax.runtime import logging
from robust_jax.types import Task, Variables

__all__ = ["load", "save_file", "save_model"]

T = TypeVar("T")

Manager = ocp.CheckpointManager
"""What writes a work directory's checkpoints, from `open_manager`."""


def open_manager(workdir: str | pathlib.Path, *, best_by: str) -> Manager:
    """Returns orbax's manager of a work directory, which keeps the last and the best checkpoint.

    Args:
        workdir: the run's directory.
        best_by: metric whose largest value is the best.
    """

    def value(metrics: Mapping[str, float]) -> float:
        return metrics[best_by]

    policy = preservation_policy.AnyPreservationPolicy(
        [
            preservation_policy.LatestN(1),
            preservation_policy.BestN(
                get_metric_fn=value,
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        # Without it no metrics are written, and a resumed run would not know its best checkpoint.
        best_fn=value,
        cleanup_tmp_directories=True,
        # The step donates its state: a save must have read it before training goes on.
        enable_async_checkpointing=False,
    )
    try:
        return ocp.CheckpointManager(reading.root(workdir), options=options)
    except Exception as error:  # it reads the metrics of every step
        raise ValueError(
            f"Expected checkpoints {str(reading.root(workdir))!r} to be whole"
            f"{_torn_metrics(workdir)}: {reading.first_line(error)}"
        ) from error


def _torn_metrics(workdir: str | pathlib.Path) -> str:
    """Returns in words which steps' metrics are torn."""
    torn = []
    for file in sorted(reading.root(workdir).glob("*/metrics/metrics")):
        try:
            json.loads(file.read_bytes())
        except ValueError:
            torn.append(file.parent.parent.name)
    return f", found the metrics of {torn} torn" if torn else ""


def save(
    manager: Manager,
    step: int,
    *,
    model: Variables,
    optimizer: PyTree,
    config: Config,
    task: Task,
    class_names: tuple[str, ...],
    metrics: Mapping[str, float] | None = None,
    data: str | None = None,
) -> None:
    """Writes a checkpoint; an existing one of the same step is left as it is.

    Args:
        manager: from `open_manager`.
        step: training step.
        model: variables to deploy.
        optimizer: tree of arrays that a resumed run needs besides; None for none.
        config: the experiment.
        task: the task that the method was made for.
        class_names: names of the classes.
        metrics: validation metrics; None where none were measured.
        data: fingerprint of what was trained on; None where that is not known.

    Raises:
        OSError: it could not be written (a full disk); names the checkpoints that are kept.
    """
    if step in manager.all_steps():
        return
    described = meta.to_json(
        Checkpoint(config, task, class_names, step, dict(metrics or {}), model),
        optimizer=None if optimizer is None else fingerprint(optimizer), data=data,
    )  # fmt: skip
    items = {"model": ocp.args.StandardSave(model), "meta": ocp.args.JsonSave(described)}
    if optimizer is not None:
        items["optimizer"] = ocp.args.StandardSave(optimizer)
    args = ocp.args.Composite(**items)
    try:
        with logging.only_errors():
            manager.save(step, args=args, metrics=dict(metrics) if metrics else None)
            manager.wait_until_finished()
    except Exception as error:  # orbax and tensorstore raise every kind
        kept = [each for each in reading.steps_of(str(manager.directory.parent)) if each != step]
        raise OSError(
            f"Expected room to save step {step} in {str(manager.directory)!r} (kept: {kept}): "
            f"{reading.first_line(error)}"
        ) from error


def save_file(file: str | pathlib.Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint as one file, which `load` and every command take for a work directory.

    Of several hosts that call it the first one writes.

    Args:
        file: ends in .safetensors; is written anew.
        checkpoint: from `load`.

    Raises:
        ValueError: the file's name ends otherwise.

    Example:
        >>> from robust_jax.experiment import checkpoints
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.types import Task
        >>> config, task = load("quickstart"), Task((8, 8, 1), 10, 1242)
        >>> variables = config.method.make(task).init(key=jax.random.key(0))
        >>> checkpoints.save_model("runs/fresh", variables, config=config, task=task)
        >>> checkpoint = checkpoints.load("runs/fresh", sharding.make_mesh(1))
        >>> checkpoints.save_file("fresh.safetensors", checkpoint)
        >>> checkpoints.load("fresh.safetensors", sharding.make_mesh(1)).step
        0
    """
    if jax.process_index() == 0:
        portable.write(
            pathlib.Path(file), checkpoint.step, meta.to_json(checkpoint), checkpoint.variables
        )


def save_model(
    workdir: str | pathlib.Path,
    variables: Variables,
    *,
    config: Config,
    task: Task,
    class_names: tuple[str, ...] = (),
) -> None:
    """Writes variables that no run of train.py made as the checkpoint of a new work directory.

    Args:
        workdir: the directory.
        variables: as `config.method.make(task).init` gives them.
        config: what they are: its method is evaluated.
        task: of the images that they are for.
        class_names: of the classes, in order; none where nobody names them.

    Raises:
        ValueError: the directory holds checkpoints already.

    Example:
        >>> from robust_jax.experiment import checkpoints
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.types import Task
        >>> config, task = load("quickstart"), Task((8, 8, 1), 10, 1242)
        >>> variables = config.method.make(task).init(key=jax.random.key(0))
        >>> checkpoints.save_model("runs/mine", variables, config=config, task=task)
        >>> checkpoints.save_model("runs/mine", variables, config=config, task=task)
        Traceback (most recent call last):
            ...
        ValueError: Expected out='runs/mine' to hold no checkpoints yet.
    """
    if reading.steps_of(workdir):
        raise ValueError(f"Expected out={str(workdir)!r} to hold no checkpoints yet.")
    with open_manager(workdir, best_by="accuracy") as manager:
        save(
            manager, 0, model=variables, optimizer=None, config=config, task=task,
            class_names=class_names,
        )  # fmt: skip


def load(workdir: str | pathlib.Path, mesh: Mesh, *, step: int | None = None) -> Checkpoint:
    """Returns a checkpoint, its variables on the mesh, whatever devices wrote it.

    Args:
        workdir: directory of a run or of an import, or the file that `save_file` wrote.
        mesh: devices to restore to.
        step: which checkpoint; None for the best, or the last where no metric was measured.

    Raises:
        ValueError: the directory holds no checkpoint, or one that is damaged, of a newer
            format, or of another architecture than its configuration describes.

    Example:
        >>> from robust_jax.experiment import checkpoints
        >>> from robust_jax.runtime import sharding
        >>> checkpoints.load("runs/nothing", sharding.make_mesh(1))
        Traceback (most recent call last):
            ...
        ValueError: Expected checkpoint='runs/nothing' to hold checkpoints/STEP folders.
    """
    steps = _steps_of(workdir)
    if step is not None and step not in steps:
        raise ValueError(f"Expected step={step} to be one of {steps} in {str(workdir)!r}.")
    metas = {each: _meta(workdir, each) for each in (steps if step is None else [step])}
    if step is None:
        step = max(steps, key=lambda each: (metas[each].best_value, each))
    said = metas[step]
    config = serialization.from_json(Config, said.config)
    read = portable.read_model if portable.is_one(workdir) else reading.read_model
    variables = read(workdir, step, mesh)
    expected = jax.eval_shape(config.method.make(said.task).init, key=jax.random.key(0))
    check_architecture(variables, expected, name=f"checkpoint {str(workdir)!r}")
    check_arrays(variables, said.weights, name=f"checkpoint {str(workdir)!r}, step {step},")
    return Checkpoint(config, said.task, said.class_names, step, said.metrics, variables)


def config_of(workdir: str | pathlib.Path) -> Config:
    """Returns the configuration of the last checkpoint in a directory.

    Raises:
        ValueError: see `load`.
    """
    return serialization.from_json(Config, _meta(workdir, max(_steps_of(workdir))).config)


def _steps_of(workdir: str | pathlib.Path) -> list[int]:
    """Returns the steps of a directory's checkpoints, or a file's one, rising; at least one."""
    if portable.is_one(workdir):
        return [portable.read_meta(workdir)[0]]
    steps = reading.steps_of(workdir)
    if not steps:
        raise ValueError(f"Expected checkpoint={str(workdir)!r} to hold checkpoints/STEP folders.")
    return steps


def _meta(workdir: str | pathlib.Path, step: int) -> Meta:
    if portable.is_one(workdir):
        return portable.read_meta(workdir)[1]
    return reading.read_meta(workdir, step)


def with_method(checkpoint: Checkpoint, config: Config) -> Checkpoint:
    """Returns the checkpoint with the same weights under another configuration's method and name.

    Raises:
        ValueError: the weights are of another architecture than the method's, they make another
            network under it, or one of the two methods needs what the other's `fit` did not
            gather.
    """
    method = config.method.make(checkpoint.task)
    expected = jax.eval_shape(method.init, key=jax.random.key(0))
    check_architecture(checkpoint.variables, expected, name="checkpoint")
    fitted = method.fit is not None or "fitted" in checkpoint.variables
    if fitted and config.method != checkpoint.config.method:
        raise ValueError(
            f"Expected method={config.name!r} to be the checkpoint's own: one of the two is fitted "
            "to training images, which train.py with --training.init-from does anew."
        )
    own = checkpoint.config.method
    try:
        check_function(own, config.method, checkpoint.task, checkpoint.variables)
    except ValueError as error:
        raise ValueError(
            f"Expected method={config.name!r} to fit the checkpoint: {error}"
        ) from error
    changed = dataclasses.replace(checkpoint.config, method=config.method, name=config.name)
    return checkpoint._replace(config=changed)


def resumable_step(
    workdir: str | pathlib.Path, config: Config, *, data: str | None = None
) -> int | None:
    """Returns the step of the last checkpoint of a work directory, None where there is none.

    Args:
        workdir: of the run.
        config: of the run.
        data: fingerprint of the training split; None before it is opened.

    Raises:
        ValueError: the directory holds a run of another configuration; names the fields that
            differ (those of `MAY_CHANGE` may). Or a run that was trained on other images.
    """
    steps = reading.steps_of(workdir)
    if not steps:
        return None
    said = reading.read_meta(workdir, steps[-1])
    saved, wanted = said.config, serialization.to_json(config)
    for path in MAY_CHANGE:
        *parents, name = path.split(".")
        old, new = part(saved, parents), part(wanted, parents)
        old.pop(name, None)
        old |= {name: new[name]} if name in new else {}
    lines = serialization.differences(serialization.completed(Config, saved), wanted)
    if lines:
        raise ValueError(
            f"Expected workdir={str(workdir)!r} to be new or to hold this configuration; it has "
            + "; ".join(lines)
            + "."
        )
    if None not in (data, said.data) and data != said.data:
        raise ValueError(
            f"Expected workdir={str(workdir)!r} to hold a run on these training images "
            f"(fingerprint {data}); its own were others ({said.data})."
        )
    return steps[-1]


def kept_metrics(workdir: str | pathlib.Path) -> dict[int, dict[str, float]]:
    """Returns the validation metrics of each checkpoint that is kept, by step."""
    return {step: reading.read_meta(workdir, step).metrics for step in reading.steps_of(workdir)}
