"""Evaluates a checkpoint: python evaluate.py --checkpoint DIR [--config configs/eval/X.py].

Attacks it, judges by its deployed rule, prints a table, and writes records/ (a line per example
and attack) and summary.json. An evaluation that was stopped goes on where it was.
"""

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from robust_jax import evaluation, formats, serialization
from robust_jax.data import Data, fingerprint, open_data
from robust_jax.evaluation import (
    certification,
    claims,
    dry_run,
    environment,
    measurement,
    protocol,
    records,
    report,
    sanity,
)
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment import checkpoints, config
from robust_jax.runtime import command_line, compilation_cache, logging, sharding
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
    wanted = checkpoint.config.evaluation
    if arguments.config is not None:
        wanted = config.load_evaluation(arguments.config)
    names = ("split", "num_examples", "batch_size", "precision")
    named = {name: getattr(arguments, name) for name in names}
    wanted = serialization.check(
        dataclasses.replace(wanted, **{k: v for k, v in named.items() if v is not None})
    )
    if arguments.budget == "reduced":
        wanted = protocol.reduced(wanted)
    sources = {name: checkpoints.load(path, mesh) for name, path in arguments.sources.items()}
    data = open_data(config.with_data_dir(checkpoint.config.data, arguments.data_dir))
    if arguments.method is not None:
        checkpoint = checkpoints.with_method(checkpoint, config.load(arguments.method))
    names = [pathlib.Path(spec).name.replace(".py", "").replace(":", "-")
             for spec in (arguments.config or "default", arguments.method) if spec]  # fmt: skip
    names += [path.name for path in arguments.sources.values()]
    names += ["reduced"] if arguments.budget == "reduced" else []
    name = "-".join([*names, str(checkpoint.step)])
    out = arguments.out or arguments.checkpoint / "evaluations" / name
    progress = arguments.runtime.progress
    run(checkpoint, wanted, mesh, data=data, out=out, sources=sources, progress=progress)


def run(
    checkpoint: checkpoints.Checkpoint,
    wanted: Evaluation,
    mesh: Mesh,
    *,
    data: Data,
    out: pathlib.Path,
    sources: Mapping[str, checkpoints.Checkpoint] | None = None,
    evaluator: evaluation.Evaluator | None = None,
    progress: bool = True,
) -> None:
    """Runs an evaluation of a restored checkpoint; prints the table, writes summary and report.

    Args:
        checkpoint: what is evaluated.
        wanted: the protocol.
        mesh: devices.
        data: the dataset.
        out: directory of the evaluation.
        sources: checkpoints that attacks are transferred from, by name.
        evaluator: of this method and protocol, where it is made already.
        progress: show the progress bar?
    """
    sources = sources or {}
    method = checkpoint.config.method.make(checkpoint.task)
    source_methods = {name: s.config.method.make(s.task) for name, s in sources.items()}
    evaluator = evaluator or evaluation.make_evaluator(method, wanted, mesh, source_methods)
    split = {"test": data.test, "validation": data.validation, "train": data.train}[wanted.split]
    for found in (checkpoint, *sources.values()):
        dry_run.check_data(data, found.task, split)
    measurement.check(wanted, checkpoint, method, split)
    description = {
        "name": checkpoint.config.name,
        "step": checkpoint.step,
        "weights": checkpoints.fingerprint(checkpoint.variables),
        "method": serialization.to_json(checkpoint.config.method),
        "data": fingerprint(split),
        # What a paper prints, and what else is asked, changes no record.
        "evaluation": serialization.to_json(dataclasses.replace(wanted, printed=None, measures={})),
        "sources": {
            name: {
                "name": s.config.name,
                "step": s.step,
                "weights": checkpoints.fingerprint(s.variables),
                "method": serialization.to_json(s.config.method),
            }
            for name, s in sources.items()
        },
    }
    models = {None: (method, checkpoint.variables)}
    models |= {name: (source_methods[name], one.variables) for name, one in sources.items()}
    dry_run.check(evaluator, models, checkpoint.task, directory=out)
    claims.claim(out, description)
    environments = environment.remember(out, environment.describe(wanted.precision, mesh, split))
    with logging.progress_bar(enabled=progress) as bar:
        tasks = {
            name: bar.add_task(name, total=None, status="", visible=False)
            for name in [*evaluator.steps, *certification.names(wanted)]
        }

        def on_progress(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total, visible=True)

        found = evaluation.evaluate(
            evaluator, checkpoint.variables, split, directory=out,
            sources={name: source.variables for name, source in sources.items()},
            on_batch=on_progress,
        )  # fmt: skip
        rows = np.asarray(list(found["clean"]))
        certificates = {}
        for other in (None, *wanted.others):
            certificates |= certification.certify(
                wanted, *models[other], split, rows, mesh,
                directory=out, other=other, on_image=on_progress,
            )  # fmt: skip
    seconds = records.seconds_by_attack(out)  # also of attacks that the directory had before
    seconds = {name: seconds[name] for name in evaluator.steps if name in seconds}
    summary = records.summarize(found, wanted, seconds)
    if wanted.selection in protocol.BY_CORRECTNESS and jax.process_index() == 0:
        summary["candidates"] = records.candidates(out, wanted.judges)
    summary["environment"], summary["earlier_environments"] = environments[-1], environments[:-1]
    # Of the whole process so far, training included.
    summary["peak_bytes"] = sharding.peak_bytes(mesh.devices.flat)
    summary["command"] = shlex.join(["python", *sys.argv])
    summary["printed"] = records.beside_the_paper(summary, wanted, checkpoint.config.name)
    findings = sanity.check_records(found, wanted)
    findings += sanity.check_certificates(certificates, found, wanted)
    summary["certificates"] = {
        name: {
            "what": certification.describe(wanted.certificates[name.partition("@")[0]]),
            **certification.summarize(*one),
        }
        for name, one in certificates.items()
    }
    with jax.default_matmul_precision(wanted.precision):
        if wanted.sanity:
            findings += sanity.probe_split(method, checkpoint.variables, split, found, wanted)
        measured = measurement.measure(wanted, checkpoint, method, split, rows.tolist())
    summary["measures"] = {name: one.numbers for name, one in measured.items()}
    summary["sanity"] = [finding._asdict() for finding in findings]
    if jax.process_index() == 0:
        formats.write(out / "summary.json", summary)
    title = f"{checkpoint.config.name}, step {checkpoint.step}, {wanted.split} split"
    logging.print_summary(title, summary, protocol.describe(wanted))
    for line in measurement.say_printed(measured):
        logging.say(line)
    logging.print_findings(findings)
    report.write(
        out, checkpoint, split,
        title=title, summary=summary, config=wanted, records=found, findings=findings,
        certificates=certificates, measured=measured,
    )  # fmt: skip
    logging.say(f"Records, summary and report.html in {out}")


if __name__ == "__main__":
    with command_line.one_line_errors():
        main(command_line.parse(Arguments, description=__doc__))
