"""Evaluates a checkpoint: python evaluate.py --checkpoint DIR [--config configs/eval/X.py].

Attacks it, judges by its deployed rule, prints a table, and writes records/ (a line per example
and attack) and summary.json. An evaluation that was stopped goes on where it was.
"""

import dataclasses
import pathlib
from typing import Literal

from robust_jax import experiment, serialization
from robust_jax.data import open_data
from robust_jax.experiment import checkpoints, config
from robust_jax.runtime import command_line, compilation_cache, sharding
from robust_jax.runtime.compilation import Precision
from robust_jax.runtime.sharding import RuntimeConfig


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of evaluate.py.

    Attributes:
        checkpoint: work directory of a run, or of an imported checkpoint.
        config: evaluation to run, a file of configs/eval; None for the one that the checkpoint's
            own configuration names.
        method: configuration whose method is used on the checkpoint's weights, file[:variant]:
            other noise switches, another vote (table A6 of the KAP paper); None for the method
            that the checkpoint was trained with.
        step: which checkpoint; None for the best.
        out: where records and summary go; None for CHECKPOINT/evaluations/NAME-STEP.
        data_dir: where the dataset lies on this machine; None for the place that training used.
        split: another split than the evaluation names.
        num_examples: fewer examples than the evaluation names.
        batch_size: another global batch size than the evaluation names.
        precision: another precision of products of float32, in JAX's names: "default" is the
            device's quickest, "highest" is float32.
        sources: work directories of the checkpoints that attacks are transferred from, by the
            names that the evaluation gives them: --sources surrogate DIR.
        budget: "reduced" for 64 examples and small attacks, stamped as not comparable.
        runtime: devices and progress.
    """

    checkpoint: pathlib.Path
    config: str | None = None
    method: str | None = None
    step: int | None = None
    out: pathlib.Path | None = None
    data_dir: str | None = None
    split: str | None = None
    num_examples: int | None = None
    batch_size: int | None = None
    precision: Precision | None = None
    sources: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    budget: Literal["full", "reduced"] = "full"
    runtime: RuntimeConfig = RuntimeConfig()


def main(arguments: Arguments) -> None:
    """Evaluates the checkpoint as the arguments say."""
    sharding.start_processes(arguments.runtime)
    compilation_cache.use(arguments.runtime.compilation_cache)
    mesh = sharding.make_mesh(arguments.runtime.num_devices)
    checkpoint = checkpoints.load(arguments.checkpoint, mesh, step=arguments.step)
    spec = arguments.config
    wanted = config.load_evaluation(spec) if spec else checkpoint.config.evaluation
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    chosen = {name: given[name] for name in ("split", "num_examples") if name in given}
    named = {name: given[name] for name in ("batch_size", "precision") if name in given}
    named["selection"] = dataclasses.replace(wanted.selection, **chosen)
    wanted = serialization.check(dataclasses.replace(wanted, **named))
    wanted = wanted.reduced() if arguments.budget == "reduced" else wanted
    sources = {name: checkpoints.load(path, mesh) for name, path in arguments.sources.items()}
    data = open_data(config.with_data_dir(checkpoint.config.data, arguments.data_dir))
    if arguments.method is not None:
        checkpoint = checkpoints.with_method(checkpoint, config.load(arguments.method))
    names = [pathlib.Path(spec).name.replace(".py", "").replace(":", "-")
             for spec in (spec or "default", arguments.method) if spec]  # fmt: skip
    names += [path.name for path in arguments.sources.values()]
    names += [*(["reduced"] if arguments.budget == "reduced" else []), str(checkpoint.step)]
    out = arguments.out or arguments.checkpoint / "evaluations" / "-".join(names)
    experiment.judge(
        checkpoint, wanted, mesh,
        data=data, out=out, sources=sources, progress=arguments.runtime.progress,
    )  # fmt: skip


def run() -> None:
    """Does what the command line says."""
    with command_line.one_line_errors():
        main(command_line.parse(Arguments, description=__doc__))


if __name__ == "__main__":
    run()
