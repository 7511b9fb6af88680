"""Measures of an evaluation: which ones it asks, and their answers."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from robust_jax import rng
from robust_jax.attacks import BoundedAttack, ThreatModel
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.measures import Found, Measure, PrintedNumbers, Subject, standard
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import Evaluation
from robust_jax.runtime.compilation import dry_run
from robust_jax.runtime.sharding import local
from robust_jax.runtime.wording import text
from robust_jax.types import Variables


def check(config: Evaluation, model: Model, split: Split) -> None:
    """Checks, before any work, that a model has what a protocol asks, and that it can be asked.

    Raises:
        ValueError: it lacks what a named measure needs, or the measure fails on such shapes.
    """
    subject = _nothing_yet(config, model, split, model.variables)
    chosen = config.selection.num_examples or len(split)
    if config.selection.rule == "correct_per_class":
        chosen *= model.num_classes
    for name, measure in named(config).items():
        count = min(chosen, len(split), measure.num_examples or len(split))
        images: PyTree = jax.ShapeDtypeStruct((count, *subject.images.shape[1:]), jnp.float32)
        missing = measure.missing(subject._replace(images=images))
        if missing is not None and config.measures is None:
            continue  # those that every report shows, of a model that has it
        if missing is not None:
            raise ValueError(
                f"Expected measures={name!r} of a model with {missing}, found {model.kind}."
            )
        labels: PyTree = jax.ShapeDtypeStruct((count,), jnp.int32)

        def ask(
            variables: Variables, images: Array, labels: Array, *, measure: Measure = measure
        ) -> None:
            measure(subject._replace(variables=variables, images=images, labels=labels))

        shapes = (local(subject.variables), images, labels)
        dry_run(ask, *shapes, what=f"measures={name!r}", on_host=True)


def measure(
    config: Evaluation, model: Model, split: Split, rows: Sequence[int]
) -> dict[str, Found]:
    """Returns the answers, by name.

    Where a protocol leaves them open the standard ones are answered, as far as the model has what
    they need. Every host asks its own copy of the model.

    Args:
        config: the protocol.
        model: what is evaluated.
        split: the examples.
        rows: the chosen ones.
    """
    asked = named(config)
    if not asked:
        return {}
    bare = _nothing_yet(config, model, split, local(model.variables))
    counts = {name: len(rows[: one.num_examples]) for name, one in asked.items()}
    images, labels = load(split, rows[: max(counts.values())])
    answers = {}
    for name, one in asked.items():
        subject = bare._replace(images=images[: counts[name]], labels=labels[: counts[name]])
        missing = one.missing(subject)
        if missing is None:
            answer = one(subject)
            numbers = {key: _finite(value) for key, value in answer.numbers.items()}
            answer = answer._replace(numbers=numbers)
            answers[name] = _beside_the_paper(answer, one.printed, model.name)
        elif config.measures is not None:  # fewer images than hoped for: nothing is lost
            words = f"not asked: needs {missing}"
            answers[name] = Found(one.section, {"not asked": words}, ((text(name), text(words)),))
    return answers


def _beside_the_paper(answer: Found, printed: PrintedNumbers | None, name: str) -> Found:
    """Returns the answer with a paper's numbers for this checkpoint, in `numbers` and `lines`."""
    beside = {} if printed is None else printed.beside(answer.numbers, name)
    if printed is None or not beside:
        return answer
    lines = tuple(
        (text(place), f"{number(one['ours'])} <small>printed, {text(printed.table)}: "
                      f"{number(one['paper'])}</small>")
        for place, one in beside.items()
    )  # fmt: skip
    numbers = {**answer.numbers, "printed": {"table": printed.table, "rows": beside}}
    return answer._replace(numbers=numbers, lines=(*answer.lines, *lines), beside=beside)


def number(value: float | None) -> str:
    """Returns a measure's number as papers write it; a dash where it is undefined."""
    return "-" if value is None else f"{value:.4g}"


def say_printed(answers: Mapping[str, Found], config: Evaluation) -> list[str]:
    """Returns for the terminal a line on each number that a paper prints of the measures."""
    tables = {name: one.printed.table for name, one in named(config).items() if one.printed}
    return [
        f"{name}, {place}: {number(one['ours'])} (printed, {tables[name]}: {number(one['paper'])})"
        for name, answer in answers.items()
        for place, one in answer.beside.items()
    ]


def named(config: Evaluation) -> Mapping[str, Measure]:
    """Returns the measures of a protocol, by name."""
    return standard(_smallest_ball(config)) if config.measures is None else config.measures


def load(split: Split, rows: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Returns the images and labels of some rows, in one batch."""
    (batch,) = eval_batches(split, len(rows), np.asarray(rows, np.int32), None)
    return batch.image, batch.label


def _finite(numbers: object) -> object:
    """Returns numbers as JSON has them: None where one is undefined (an agreement of all right)."""
    if isinstance(numbers, dict):
        return {key: _finite(value) for key, value in numbers.items()}
    if isinstance(numbers, list):
        return [_finite(value) for value in numbers]
    return None if isinstance(numbers, float) and not math.isfinite(numbers) else numbers


def _nothing_yet(config: Evaluation, model: Model, split: Split, variables: Variables) -> Subject:
    """Returns whom measures ask, still without an image."""
    return Subject(
        method=model.method,
        config=model.config,
        variables=variables,
        images=jnp.zeros((0, *model.task(split.shape).input_shape)),
        labels=jnp.zeros(0, jnp.int32),
        class_names=model.labels,
        key=rng.stream(jax.random.key(config.seed), "measures"),
        batch_size=config.batch_size,
    )


def _smallest_ball(config: Evaluation) -> ThreatModel | None:
    threats = [
        run.attack.threat
        for run in config.attacks.values()
        if isinstance(run.attack, BoundedAttack)
    ]
    return min(threats, key=lambda threat: (threat.norm == "l2", threat.eps), default=None)
