"""A checkpoint judged: as a model, by a protocol, with its table and report."""

import pathlib
from collections.abc import Mapping

from jax.sharding import Mesh

from robust_jax import evaluation
from robust_jax.data import Data
from robust_jax.evaluation import dry_run
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.experiment import checkpoints
from robust_jax.runtime import logging


def judge(
    model: evaluation.Model,
    wanted: Evaluation,
    mesh: Mesh,
    *,
    data: Data,
    out: pathlib.Path,
    sources: Mapping[str, evaluation.Model] | None = None,
    evaluator: evaluation.Evaluator | None = None,
    progress: bool = True,
) -> evaluation.Result:
    """Returns what an evaluation finds of a model; prints the table, writes summary and report.

    Args:
        model: what is evaluated, `as_model` of a checkpoint.
        wanted: the protocol.
        mesh: devices.
        data: the dataset.
        out: directory of the evaluation.
        sources: models that attacks are transferred from, by name.
        evaluator: of this method and protocol, where it is made already.
        progress: show the progress bar?

    Raises:
        ValueError: see `evaluation.run`; or classes of the dataset have other numbers in a model.

    Example:
        >>> import pathlib
        >>> from robust_jax import experiment
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> from robust_jax.evaluation import Evaluation, Model
        >>> from robust_jax.runtime import sharding
        >>> data, mesh = open_data(DataConfig(Blobs(num_test=8))), sharding.make_mesh(1)
        >>> model = Model.of(lambda images: jnp.tile(images[:, 0, 0, :1], 4), num_classes=4)
        >>> wanted = Evaluation(batch_size=8, sanity=False, measures={})
        >>> result = experiment.judge(
        ...     model, wanted, mesh, data=data, out=pathlib.Path("judged"), progress=False
        ... )
        function, step 0, test split
        ...
        Records, summary and report.html in judged
        >>> result.summary["clean_accuracy"], pathlib.Path("judged/report.html").is_file()
        (0.25, True)
    """
    for name, one in {None: model, **(sources or {})}.items():
        dry_run.check_classes(data.class_names, one, source=name)
    result = evaluation.run(
        model, data.split(wanted.selection.split), wanted,
        out=out, sources=sources, mesh=mesh, evaluator=evaluator, progress=progress,
    )  # fmt: skip
    result.show()
    result.report(out / "report.html")
    logging.say(f"Records, summary and report.html in {out}")
    return result


def as_model(checkpoint: checkpoints.Checkpoint) -> evaluation.Model:
    """Returns what a checkpoint deploys, as evaluations take it.

    Example:
        >>> from robust_jax.experiment import as_model, checkpoints
        >>> from robust_jax.experiment.config import load
        >>> from robust_jax.types import Task
        >>> task, digits = Task((8, 8, 1), 10, 1242), tuple("0123456789")
        >>> found = checkpoints.Checkpoint(load("quickstart"), task, digits, 900, {}, variables={})
        >>> model = as_model(found)  # `checkpoints.load(workdir, mesh)` reads one
        >>> model.name, model.kind, model.step
        ('quickstart', 'KAP', 900)
    """
    return evaluation.Model(
        name=checkpoint.config.name,
        method=checkpoint.config.method.make(checkpoint.task),
        variables=checkpoint.variables,
        num_classes=checkpoint.task.num_classes,
        input_shape=checkpoint.task.input_shape,
        class_names=checkpoint.class_names,
        config=checkpoint.config.method,
        step=checkpoint.step,
    )
