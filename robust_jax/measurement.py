"""Measures of an evaluation: which ones it asks, and their answers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from robust_jax import rng
from robust_jax.attacks import BoundedAttack, ThreatModel
from robust_jax.checkpoints import Checkpoint
from robust_jax.data import Split, eval_batches
from robust_jax.measures import Found, Measure, Subject, standard
from robust_jax.measures.base import lacks_networks
from robust_jax.methods import Method
from robust_jax.protocol import Evaluation
from robust_jax.sharding import local
from robust_jax.types import Variables


def check(config: Evaluation, checkpoint: Checkpoint, method: Method) -> None:
    """Checks, before any work, that a model has what a protocol asks.

    Raises:
        ValueError: it lacks what a named measure needs.
    """
    for name, measure in (config.measures or {}).items():
        wanted = measure.num_examples or config.num_examples or config.batch_size
        shape = (wanted, *checkpoint.task.input_shape)
        subject = _subject(config, checkpoint, method, checkpoint.variables)._replace(
            images=jax.ShapeDtypeStruct(shape, jnp.float32),  # type: ignore[arg-type]
        )
        _check_one(name, measure, subject)


def _check_one(name: str, measure: Measure, subject: Subject) -> None:
    missing = measure.missing(subject)
    if missing is not None:
        kind = type(subject.config).__name__
        raise ValueError(f"Expected measures={name!r} of a model with {missing}, found {kind}.")


def measure(
    config: Evaluation,
    checkpoint: Checkpoint,
    method: Method,
    split: Split,
    rows: Sequence[int],
) -> dict[str, Found]:
    """Returns the answers, by name; from process 0 alone, on its own copy of the model.

    Where a protocol names no measures and asks for sanity checks the standard ones are answered,
    as far as the model has what they need.

    Args:
        config: the protocol.
        checkpoint: what is evaluated.
        method: its method.
        split: the examples.
        rows: the chosen ones.

    Raises:
        ValueError: the model lacks what a named measure needs.
    """
    asked = config.measures
    if asked is None:
        asked = standard(_smallest_ball(config)) if config.sanity else {}
    if jax.process_index() != 0 or not asked:
        return {}
    bare = _subject(config, checkpoint, method, local(checkpoint.variables))
    found = {}
    for name, one in asked.items():
        images, labels = load(split, rows[: one.num_examples])
        subject = bare._replace(images=images, labels=labels)
        if config.measures is not None:
            _check_one(name, one, subject)
        elif one.missing(subject) or (
            one.section.startswith("Members") and lacks_networks(subject)
        ):
            continue
        found[name] = one(subject)
    return found


def load(split: Split, rows: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Returns the images and labels of some rows, in one batch."""
    (batch,) = eval_batches(split, len(rows), np.asarray(rows, np.int32), None)
    return batch.image, batch.label


def _subject(
    config: Evaluation, checkpoint: Checkpoint, method: Method, variables: Variables
) -> Subject:
    num_classes = checkpoint.task.num_classes
    return Subject(
        method=method,
        config=checkpoint.config.method,
        variables=variables,
        images=jnp.zeros((0, *checkpoint.task.input_shape)),
        labels=jnp.zeros(0, jnp.int32),
        class_names=checkpoint.class_names or [str(n) for n in range(num_classes)],
        key=rng.stream(jax.random.key(config.seed), "measures"),
        batch_size=config.batch_size,
    )


def _smallest_ball(config: Evaluation) -> ThreatModel | None:
    threats = [
        run.attack.threat
        for run in config.attacks.values()
        if isinstance(run.attack, BoundedAttack)
    ]
    return min(threats, key=lambda found: (found.norm == "l2", found.eps), default=None)
