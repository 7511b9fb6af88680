"""A model under common corruptions: python -m robust_jax.commands.corruptions --data DIR.

    python -m robust_jax.commands.corruptions --checkpoint runs/x --data ~/CIFAR-10-C \
        [--reference runs/plain]

DIR holds the published files of CIFAR-10-C or CIFAR-100-C, or TFDS's cifar10_corrupted. Prints
the error of each corruption by severity, their mean, and relative to a reference the mean
corruption error; writes them to corruptions.json. Nothing is attacked: this is no worst case.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import rich.table
from jax.sharding import Mesh

from robust_jax import evaluation, experiment
from robust_jax.data import corrupted
from robust_jax.evaluation import Evaluation, Model, Selection
from robust_jax.experiment import checkpoints, models
from robust_jax.runtime import (
    command_line,
    compilation_cache,
    logging,
    python_file,
    sharding,
)
from robust_jax.runtime.sharding import RuntimeConfig
from robust_jax.runtime.wording import percent

Errors = dict[str, list[float]]
"""By corruption, the error at each severity."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the command.

    Attributes:
        data: folder of the corrupted test images.
        checkpoint: work directory of a run, or of an imported checkpoint; or a checkpoint's file.
        model: a model of a file in its place, FILE.py:NAME.
        reference: checkpoint that errors are relative to; None for no mean corruption error.
        num_classes: of the labels.
        num_examples: of each corruption and severity; None for all.
        batch_size: global batch size.
        out: file of the numbers; None for corruptions.json in the checkpoint's directory, beside
            its file, or here.
        runtime: devices and progress.
    """

    data: pathlib.Path
    checkpoint: pathlib.Path | None = None
    model: str | None = None
    reference: pathlib.Path | None = None
    num_classes: int = 10
    num_examples: int | None = None
    batch_size: int = 256
    out: pathlib.Path | None = None
    runtime: RuntimeConfig = RuntimeConfig()


def main(arguments: Arguments) -> dict[str, object]:
    """Judges the model on every corruption; returns what is written."""
    models.check_named(arguments.checkpoint, arguments.model)
    place = _place(arguments)
    if arguments.out is not None:  # before what takes hours
        place.parent.mkdir(parents=True, exist_ok=True)
    sharding.start_processes(arguments.runtime)
    compilation_cache.use(arguments.runtime.compilation_cache)
    mesh = sharding.make_mesh(arguments.runtime.num_devices)
    if arguments.checkpoint is None:
        model = models.load(str(arguments.model), num_classes=arguments.num_classes)
    else:
        model = experiment.as_model(checkpoints.load(arguments.checkpoint, mesh))
    found = errors(model, arguments, mesh)
    written: dict[str, object] = {
        "errors": found,
        "mean_error": mean_error(found),
        "num_examples": arguments.num_examples,  # None for all
    }
    if arguments.reference is not None:
        reference = experiment.as_model(checkpoints.load(arguments.reference, mesh))
        of_reference = errors(reference, arguments, mesh)
        written["reference_errors"] = of_reference
        written["mean_corruption_error"] = mean_corruption_error(found, of_reference)
    _show(model.name, found, written)
    if jax.process_index() == 0:
        place.write_text(json.dumps(written, indent=1) + "\n")
    return written


def _place(arguments: Arguments) -> pathlib.Path:
    """Returns the file of the numbers."""
    near = arguments.checkpoint or pathlib.Path()
    return arguments.out or (near.parent if near.is_file() else near) / "corruptions.json"


def errors(model: Model, arguments: Arguments, mesh: Mesh) -> Errors:
    """Returns the errors of a model."""
    wanted = Evaluation(
        selection=Selection(num_examples=arguments.num_examples),
        batch_size=arguments.batch_size, sanity=False, measures={},
    )  # fmt: skip
    evaluator = None
    if model.config is not None:  # of a function it may have changed
        evaluator = evaluation.make_evaluator(model.method, wanted, mesh)
    by_corruption: Errors = {}
    names = corrupted.found(arguments.data)
    with logging.Progress(enabled=arguments.runtime.progress) as progress:
        for number, name in enumerate(names):
            by_corruption[name] = []
            for severity in corrupted.SEVERITIES:
                split = corrupted.load(
                    arguments.data, name, severity, num_classes=arguments.num_classes
                )
                result = evaluation.run(model, split, wanted, mesh=mesh, evaluator=evaluator)
                by_corruption[name].append(1 - result.summary["clean_accuracy"])
                done = number * len(corrupted.SEVERITIES) + severity
                progress.update(model.name, done, len(names) * len(corrupted.SEVERITIES))
    return by_corruption


def mean_error(found: Errors) -> float:
    """Returns the mean over corruptions and severities.

    Example:
        >>> from robust_jax.commands.corruptions import mean_error
        >>> round(mean_error({"fog": [0.0, 0.2], "snow": [0.4, 0.6]}), 6)
        0.3
    """
    return float(np.mean([*found.values()]))


def mean_corruption_error(found: Errors, reference: Errors) -> float | None:
    """Returns mCE: of each corruption the errors' sum over that of a reference, the mean of these.

    Hendrycks and Dietterich, 2019, section 4.1; theirs is relative to AlexNet, over 15 corruptions.

    None where that makes no error on a corruption, by which it divides.

    Example:
        >>> from robust_jax.commands.corruptions import mean_corruption_error
        >>> found = {"fog": [0.1, 0.2], "snow": [0.4, 0.5]}
        >>> mean_corruption_error(found, reference={"fog": [0.2, 0.4], "snow": [0.4, 0.5]})
        0.75
    """
    if not all(sum(reference[name]) for name in found):
        return None
    return float(np.mean([sum(found[name]) / sum(reference[name]) for name in found]))


def _show(title: str, found: Errors, written: dict[str, object]) -> None:
    table = rich.table.Table("corruption", *map(str, corrupted.SEVERITIES), "mean", title=title)
    for name, each in found.items():
        table.add_row(name, *map(percent, each), percent(float(np.mean(each))))
    logging.console.print(table)
    for name in ("mean_error", "mean_corruption_error"):
        value = written.get(name)
        if isinstance(value, float):
            over = f"over {len(found)} corruption{'' if len(found) == 1 else 's'}"
            logging.say(f"{name.replace('_', ' ')} {over}: {percent(value)}")


def run() -> None:
    """Does what the command line says."""
    with command_line.one_line_errors():
        words = python_file.defined(sys.argv[1:])
        main(command_line.parse(Arguments, args=words, description=python_file.described(__doc__)))


if __name__ == "__main__":
    run()
