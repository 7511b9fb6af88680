"""Runs of one configuration that differ in the seed alone, and which of them are done."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from robust_jax.data import Data, fingerprint
from robust_jax.evaluation import Model, claims, descriptions
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.experiment.run import overfits
from robust_jax.training.plan import Plan


def of_seeds(
    config: Config, workdir: pathlib.Path, seeds: Sequence[int]
) -> dict[pathlib.Path, Config]:
    """Returns the runs of some seeds, by their work directories WORKDIR/seedN.

    Raises:
        ValueError: a seed is there twice, or is none of a key; or the directory is one run's own.

    Args:
        config: of each, but for its seed.
        workdir: that holds the runs' directories.
        seeds: roots of their keys.

    Example:
        >>> import pathlib
        >>> from robust_jax.experiment import of_seeds
        >>> from robust_jax.experiment.config import load
        >>> runs = of_seeds(load("quickstart"), pathlib.Path("runs/quickstart"), seeds=(0, 1))
        >>> {workdir.name: config.seed for workdir, config in runs.items()}
        {'seed0': 0, 'seed1': 1}
    """
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected seeds={tuple(seeds)} to differ.")
    if (workdir / "checkpoints").is_dir():
        raise ValueError(f"Expected workdir={str(workdir)!r} of seeds to be no single run's.")
    return {workdir / f"seed{seed}": dataclasses.replace(config, seed=seed) for seed in seeds}


def is_trained(
    config: Config, workdir: pathlib.Path, plan: Plan, *, data: str | None = None
) -> bool:
    """Returns whether a run has taken its last step, or its monitor has ended it.

    Args:
        config: of the run.
        workdir: the run's directory.
        plan: its steps.
        data: fingerprint of the training split; None for any.

    Raises:
        ValueError: the directory holds a run of another configuration, or on other images.

    Example:
        >>> import pathlib
        >>> from robust_jax.experiment import is_trained
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training.plan import make_plan
        >>> config = load("quickstart")
        >>> plan = make_plan(config.training, 1242, sharding.make_mesh(1))
        >>> is_trained(config, pathlib.Path("runs/quickstart"), plan)
        False
    """
    last = checkpoints.resumable_step(workdir, config, data=data)
    if last is None:
        return False
    monitor = config.training.overfitting
    stops = monitor is not None and monitor.action == "stop"
    return last >= plan.num_steps or (stops and overfits(config.training, workdir) is not None)


def is_done(
    config: Config,
    workdir: pathlib.Path,
    plan: Plan,
    data: Data,
    sources: Mapping[str, Model] | None = None,
) -> bool:
    """Returns whether a run is trained, and its evaluation, as it is configured, has ended.

    Args:
        config: of the run.
        workdir: the run's directory.
        plan: its steps.
        data: what it is trained and evaluated on.
        sources: models that its attacks are transferred from, by name.

    Raises:
        ValueError: the directory holds a run of another configuration, or on other images.

    Example:
        >>> import pathlib
        >>> from robust_jax.data import open_data
        >>> from robust_jax.experiment import is_done
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.runtime import sharding
        >>> from robust_jax.training.plan import make_plan
        >>> config, mesh = load("quickstart"), sharding.make_mesh(1)
        >>> data, workdir = open_data(config.data), pathlib.Path("runs/quickstart")
        >>> plan = make_plan(config.training, data.task.num_train, mesh)
        >>> is_done(config, workdir, plan, data)  # nothing was trained there
        False
    """
    if not is_trained(config, workdir, plan, data=data.fingerprint):
        return False
    split = data.split(config.evaluation.selection.split)
    return claims.has_ended(
        workdir, descriptions.of_evaluation(config.evaluation), data=fingerprint(split),
        sources=descriptions.of_sources(sources or {}, split),
    )  # fmt: skip
