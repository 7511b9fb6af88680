"""Trains a configuration: python train.py [CONFIG[:VARIANT]] [--workdir DIR] [--overrides].

Without arguments it runs configs/quickstart.py. Starting again in the same work directory goes on
where the last checkpoint stands; at the end the best checkpoint is evaluated. `--seeds 0 1 2` does
so for each seed, and compares them. `--list` alone shows the library's configurations.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from robust_jax import evaluation, experiment, training
from robust_jax.data import Data, open_data
from robust_jax.evaluation import dry_run
from robust_jax.evaluation.compare import compare
from robust_jax.experiment import catalogue, checkpoints, config
from robust_jax.methods import Method
from robust_jax.runtime import (
    command_line,
    compilation_cache,
    interrupt,
    locks,
    logging,
    python_file,
    sharding,
)
from robust_jax.runtime.wording import gibibytes
from robust_jax.training.dry_run import check_phases
from robust_jax.training.plan import Plan, make_plan
from robust_jax.types import Budget

LOCK = "train.lock"
"""In a work directory: held by the program that trains there."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of train.py after the configuration.

    Attributes:
        config: the configuration, any field of it.
        workdir: where checkpoints and metrics go; None for runs/NAME.
        seeds: train and evaluate each of them, in the place of `seed`, in WORKDIR/seedN; what is
            finished is skipped, and at the end they are compared.
        budget: of the evaluation at the end: "reduced" for 64 examples and small attacks, stamped
            as not comparable.
        sources: work directories of the checkpoints that the evaluation's attacks are transferred
            from, by the names that it gives them: --sources surrogate DIR.
    """

    config: config.Config
    workdir: pathlib.Path | None = None
    seeds: tuple[int, ...] = ()
    budget: Budget = "full"
    sources: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)


class Parts(NamedTuple):
    """What the runs of one configuration have in common; none of it depends on the seed.

    Attributes:
        mesh: devices.
        data: the dataset.
        method: the defence.
        plan: steps of a run.
        optimizer: of its parameters.
        step_fn: the training step, compiled at its first call.
        evaluator: of the evaluation at the end.
        sources: models that its attacks are transferred from, by name.
    """

    mesh: Mesh
    data: Data
    method: Method
    plan: Plan
    optimizer: optax.GradientTransformation
    step_fn: training.TrainStep
    evaluator: evaluation.Evaluator
    sources: Mapping[str, evaluation.Model]


def make_parts(
    cfg: config.Config,
    mesh: Mesh,
    sources: Mapping[str, evaluation.Model] | None = None,
    budget: Budget = "full",
) -> Parts:
    """Returns the parts; what can be wrong with a configuration is found here."""
    sources = sources or {}
    wanted = cfg.evaluation.reduced() if budget == "reduced" else cfg.evaluation
    data = open_data(cfg.data)
    method = cfg.method.make(data.task)
    plan = make_plan(cfg.training, data.task.num_train, mesh)
    optimizer = cfg.optimizer.make(plan.step_at, plan.epochs[-1])
    step_fn = training.make_train_step(
        plan.in_run(method), optimizer, cfg.training, cfg.data.augmentation, mesh
    )
    check_phases(step_fn, plan, method, optimizer, cfg.training, data, mesh)
    others = {name: source.method for name, source in sources.items()}
    evaluator = evaluation.make_evaluator(method, wanted, mesh, others)
    shapes = dry_run.trained(method, data.task, wanted.batch_size)
    models = {name: (source.method, source.variables) for name, source in sources.items()}
    dry_run.check(evaluator, {None: (method, shapes), **models}, data.task)
    jax.eval_shape(optimizer.init, shapes["params"])  # knows the names of parameters
    return Parts(mesh, data, method, plan, optimizer, step_fn, evaluator, sources)


def main(arguments: Arguments) -> None:
    """Trains, or goes on training, and evaluates the best checkpoint; of every seed."""
    cfg, seeds = arguments.config, arguments.seeds
    workdir = arguments.workdir or pathlib.Path("runs") / cfg.name
    runs = experiment.of_seeds(cfg, workdir, seeds) if seeds else {workdir: cfg}
    sharding.start_processes(cfg.runtime)
    compilation_cache.use(cfg.runtime.compilation_cache)
    mesh = sharding.make_mesh(cfg.runtime.num_devices)
    for place, one in runs.items():
        checkpoints.resumable_step(place, one)
    sources = {
        name: experiment.as_model(checkpoints.load(path, mesh))
        for name, path in arguments.sources.items()
    }
    parts, validator = make_parts(cfg, mesh, sources, arguments.budget), None
    for place, one in runs.items():
        asked = dataclasses.replace(one, evaluation=parts.evaluator.config)
        if seeds and experiment.is_done(asked, place, parts.plan, parts.data, sources):
            logging.say(f"Seed {one.seed} is trained and evaluated: {place}")
            continue
        validator = experiment.make_validator(parts.method, one, parts.data, mesh, like=validator)
        with locks.alone(place / LOCK):
            finished = train(one, place, parts, validator)
        if not finished:
            return
    if seeds and jax.process_index() == 0:
        compare(list(runs), workdir / "compare.html")


def train(
    cfg: config.Config,
    workdir: pathlib.Path,
    parts: Parts,
    validator: evaluation.Evaluator | None,
) -> bool:
    """Trains, or goes on training, and evaluates the best checkpoint; False if it was stopped."""
    mesh, data, method, plan, optimizer, step_fn, evaluator, sources = parts
    last = checkpoints.resumable_step(workdir, cfg, data=data.fingerprint)
    image_shape = plan.image_shape_at(max(0, (last or 0) - 1), data.task)
    state = training.init_state(
        experiment.init_variables(cfg, data, method, mesh, gone_on_with=last is not None),
        optimizer,
        cfg.training,
        mesh,
        image_shape,
    )
    for line in experiment.header(cfg, data, plan, state, mesh):
        logging.say(line)

    manager = checkpoints.open_manager(workdir, best_by=cfg.training.best_by)
    monitor = cfg.training.overfitting
    stops = monitor is not None and monitor.action == "stop"
    finished = experiment.is_trained(cfg, workdir, plan)
    if last is not None and not finished:
        state = experiment.restore(manager, workdir, last, state, mesh)
    if plan.num_steps == 0 and last is None:
        experiment.save(manager, state, config=cfg, data=data)  # nothing to train: fitted as it is
    start = last or 0
    if start:
        logging.say(f"Going on from step {start}.")
    key = jax.random.key(cfg.seed)
    validate_at = set(plan.validation_steps(cfg.training.validate_every))
    pending: list[tuple[int, training.Metrics]] = []
    rate = logging.Rate()

    with (
        logging.MetricWriter(workdir, start=start) as writer,
        logging.Progress(enabled=cfg.runtime.progress) as progress,
        interrupt.Watch(agree_every=cfg.runtime.log_every) as watch,
    ):
        first = plan.num_steps if finished else start
        stream = training.batches(data, plan, mesh, seed=cfg.seed, start=first)
        for step, batch in enumerate(stream, start=start + 1):
            state, metrics = step_fn(state, batch, key)
            pending.append((step, metrics))
            rate.add(len(batch.label))
            stop, validate = watch.requested(step), step in validate_at
            if stop or validate or step % cfg.runtime.log_every == 0:
                line = training.fetch(pending, last)
                pending.clear()
                line |= {"epoch": plan.epoch_at(step), "images_per_second": rate.read()}
                writer.write(step, line)
                progress.update("train", step, plan.num_steps, status=logging.status(line))
            if validate or stop:
                training.check_finite(state, last)
                found = experiment.validate(validator, state, data) if validate else {}
                writer.write(step, {f"validation/{name}": value for name, value in found.items()})
                experiment.save(manager, state, config=cfg, data=data, metrics=found)
                last = step
                rate.read()
                warning = experiment.overfits(cfg.training, workdir) if validate else None
                if warning:
                    logging.say(warning)
                if warning and stops:
                    break
            if stop:
                logging.say(f"Stopped and saved at step {step}; the same command goes on.")
                return False

    peak = sharding.peak_bytes(mesh.devices.flat)
    if peak is not None:
        logging.say(f"Trained with at most {gibibytes(peak)} of a device's memory in use.")
    del state  # the best checkpoint, not the last, is evaluated: one copy on the devices
    checkpoint = experiment.fit(manager, workdir, method, cfg, data, plan, mesh)
    experiment.judge(
        experiment.as_model(checkpoint), evaluator.config, mesh,
        data=data, out=workdir, sources=sources, evaluator=evaluator,
        progress=cfg.runtime.progress,
    )  # fmt: skip
    return True


def run() -> None:
    """Does what the command line says."""
    with command_line.one_line_errors():
        if sys.argv[1:] == ["--list"]:
            catalogue.show(evaluations=False)
            return
        given = python_file.defined(sys.argv[1:])
        spec = given.pop(0) if given and not given[0].startswith("-") else "configs/quickstart.py"
        default = Arguments(config.load(spec))
        arguments = command_line.parse(
            Arguments, args=given, default=default, flat="config",
            description=python_file.described(__doc__),
        )  # fmt: skip
        named = config.renamed(arguments.config, default.config)
        main(dataclasses.replace(arguments, config=named))


if __name__ == "__main__":
    run()
