"""Measures of an evaluation: which ones it asks, and their answers."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from robust_jax import rng
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.measures import Found, Measure, PrintedNumbers, Subject
from robust_jax.evaluation.model import Model
from robust_jax.runtime.dry_run import dry_run
from robust_jax.runtime.sharding import local
from robust_jax.runtime.wording import text
from robust_jax.types import Variables


class Questions(NamedTuple):
    """What an evaluation asks beside its attacks.

    Attributes:
        measures: by name.
        named: has the protocol named them? Those that every report shows are asked of a model that
            has what they need, and no others.
        batch_size: of the measures that go through the images in batches.
        seed: root of their keys.
    """

    measures: Mapping[str, Measure]
    named: bool
    batch_size: int
    seed: int


def check(questions: Questions, model: Model, split: Split, num_chosen: int) -> None:
    """Checks, before any work, that a model has what a protocol asks, and that it can be asked.

    Args:
        questions: what is asked.
        model: of whom.
        split: the examples.
        num_chosen: how many of them at most.

    Raises:
        ValueError: it lacks what a named measure needs, or the measure fails on such shapes.
    """
    subject = _nothing_yet(questions, model, split, model.variables)
    for name, measure in questions.measures.items():
        count = min(num_chosen, len(split), measure.num_examples or len(split))
        images: PyTree = jax.ShapeDtypeStruct((count, *subject.images.shape[1:]), jnp.float32)
        missing = measure.missing(subject._replace(images=images))
        if missing is not None and not questions.named:
            continue
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
    questions: Questions, model: Model, split: Split, rows: Sequence[int]
) -> dict[str, Found]:
    """Returns the answers, by name.

    Every host asks its own copy of the model.

    Args:
        questions: what is asked.
        model: of whom.
        split: the examples.
        rows: the chosen ones.
    """
    asked = questions.measures
    if not asked:
        return {}
    bare = _nothing_yet(questions, model, split, local(model.variables))
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
        elif questions.named:  # fewer images than hoped for: nothing is lost
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


def say_printed(answers: Mapping[str, Found], measures: Mapping[str, Measure]) -> list[str]:
    """Returns for the terminal a line on each number that a paper prints of the measures."""
    tables = {name: one.printed.table for name, one in measures.items() if one.printed}
    return [
        f"{name}, {place}: {number(one['ours'])} (printed, {tables[name]}: {number(one['paper'])})"
        for name, answer in answers.items()
        for place, one in answer.beside.items()
    ]


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


def _nothing_yet(questions: Questions, model: Model, split: Split, variables: Variables) -> Subject:
    """Returns whom measures ask, still without an image."""
    return Subject(
        method=model.method,
        config=model.config,
        variables=variables,
        images=jnp.zeros((0, *model.task(split.shape).input_shape)),
        labels=jnp.zeros(0, jnp.int32),
        class_names=model.labels,
        key=rng.stream(jax.random.key(questions.seed), "measures"),
        batch_size=questions.batch_size,
    )
