"""What cannot work is refused before the first attack: an evaluation traced on shapes alone."""

import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree

from robust_jax import checks
from robust_jax.certify import Margins, Smoothing
from robust_jax.data import Split
from robust_jax.evaluation import certification
from robust_jax.evaluation.harness import Evaluator
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import CLEAN
from robust_jax.evaluation.targets import NUM_STARTS
from robust_jax.methods import Method
from robust_jax.runtime.dry_run import batch_of, dry_run
from robust_jax.runtime.sharding import batched, replicated
from robust_jax.types import Batch, Task, Variables

Models = Mapping[str | None, tuple[Method, Variables]]
"""Methods and their arrays, or shapes of them: None is the model, the others are sources."""


def trained(method: Method, task: Task, batch_size: int) -> Variables:
    """Returns the shapes of a method's variables after training and, where it fits, its fit.

    Raises:
        ValueError: it cannot be fitted on such a network, in one line.
    """
    variables = jax.eval_shape(method.init, key=jax.random.key(0))
    if method.fitted is None:
        return variables
    batch = batch_of((batch_size, *task.input_shape))
    dry_run(method.fitted, variables, batch, what="the fit")
    return jax.eval_shape(method.fitted, variables, batch)


def check_names(
    attacks: Iterable[str], certificates: Iterable[str], sources: Iterable[str]
) -> None:
    """Raises ValueError where one of an evaluation's names is no file's.

    A stored evaluation of such names is read all the same.
    """
    for names in ([CLEAN, *attacks], certificates, sources):
        checks.file_names(names)


def check(
    evaluator: Evaluator, models: Models, task: Task, *, directory: pathlib.Path | None = None
) -> None:
    """Traces every step and certificate of an evaluation; its steps keep what was traced.

    Args:
        evaluator: from `make_evaluator`.
        models: the model and every source.
        task: the dataset's shape.
        directory: where records are gone on with: steps that have some have worked, and are left
            out, but of a random method, whose earlier records may be set aside. None for all.

    Raises:
        ValueError: a step or certificate fails on such shapes, or cannot be called so; names it
            in one line.
    """
    config, mesh = evaluator.config, evaluator.mesh
    check_names(config.attacks, config.certificates, config.sources)

    def split(dtype: DTypeLike, *shape: int) -> PyTree:
        # How it lies on the devices is part of what a trace is found by.
        size = config.batch_size
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=batched(mesh))

    def everywhere(leaf: PyTree) -> PyTree:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))

    pool: PyTree = jax.ShapeDtypeStruct((NUM_STARTS, *task.input_shape), jnp.float32)
    starts = everywhere(pool) if config.takes_starts else None
    numbers = split(jnp.int32)
    batch = Batch(split(jnp.float32, *task.input_shape), numbers, split(jnp.bool_), numbers)
    key = jax.random.key(0)
    models = {
        name: (method, jax.tree.map(everywhere, variables))
        for name, (method, variables) in models.items()
    }
    for name, step in evaluator.steps.items():
        known = directory is not None and (directory / "records" / f"{name}.jsonl").is_file()
        if known and not evaluator.stochastic:
            continue
        run = config.attacks.get(name)
        named = name.partition("@")[2:] if run is None else run.sources
        variables, others = models[None][1], tuple(models[one][1] for one in named if one)
        what = "judging clean images" if run is None else f"attack {name!r}"
        attack, given = None, (variables, others, starts, batch, numbers, key)
        if run is not None:
            attack = run.attack
            dry_run(attack.check, batch.image, what=what)  # of a radius that is a number
        if attack is not None and attack.on_host:
            dry_run(functools.partial(step, attack), *given, what=what, on_host=True)
        else:
            dry_run(step, attack, *given, what=what)
    one: PyTree = jax.ShapeDtypeStruct((1, *task.input_shape), jnp.float32)
    label: PyTree = jax.ShapeDtypeStruct((1,), jnp.int32)
    for title, certifier in config.certificates.items():
        for other in (None, *config.others):
            traced = functools.partial(_trace, certifier, models[other][0], key)
            what = f"certificate {certification.with_source(title, other)!r}"
            dry_run(traced, models[other][1], one, label, what=what, on_host=True)


def can_certify(certifier: Margins, model: Model, shape: tuple[int, int, int]) -> bool:
    """Returns whether a certifier knows all operations of a model of images of this shape."""
    one: PyTree = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    label: PyTree = jax.ShapeDtypeStruct((1,), jnp.int32)
    traced = functools.partial(_trace, certifier, model.method, jax.random.key(0))
    try:
        dry_run(traced, model.variables, one, label, what="bounds", on_host=True)
    except ValueError:
        return False
    return True


def _trace(
    certifier: Smoothing | Margins,
    method: Method,
    key: Key[Array, ""],
    variables: Variables,
    image: Float[Array, "1 h w k"],
    label: Int[Array, " 1"],
) -> None:
    certify = certification.certifying(certifier, method, variables)
    certify(image, label, key=key, index=np.zeros(1, np.int32))


def check_data(split: Split, model: Model, *, source: str | None = None) -> None:
    """Checks that a split is one that a model takes.

    Args:
        split: the examples.
        model: what they are for.
        source: its name among the sources of an evaluation; None for what is evaluated.

    Raises:
        ValueError: another image shape or number of classes, or an empty split.
    """
    task = model.task(split.shape)
    whose = "the network's" if source is None else f"that of source {source!r},"
    given = {"input_shape": split.shape, "num_classes": split.num_classes}
    for name, value in given.items():
        if value != getattr(task, name):
            raise ValueError(
                f"Expected the dataset's {name}={value} to be {whose} {getattr(task, name)}."
            )
    if len(split) == 0:
        raise ValueError(f"Expected the {split.name} split not to be empty (validation_size=0?).")


def check_classes(names: Sequence[str], model: Model, *, source: str | None = None) -> None:
    """Checks that classes which a dataset and a model have in common have the same numbers.

    Args:
        names: of the dataset's classes, in label order.
        model: what it is for; one that names no classes is taken at its word.
        source: its name among the sources of an evaluation; None for what is evaluated.

    Raises:
        ValueError: a name that both have is of another class.
    """
    whose = "the network" if source is None else f"source {source!r}"
    ours, theirs = _numbers(model.class_names), _numbers(names)
    for name in [name for name in theirs if name in ours]:
        if theirs[name].isdisjoint(ours[name]):
            raise ValueError(
                f"Expected the dataset's class {name!r}, number {min(theirs[name])}, to be that of "
                f"{whose}, number {min(ours[name])}."
            )


def _numbers(names: Sequence[str]) -> dict[str, set[int]]:
    """Returns which classes are called so, by name: ImageNet has two cranes."""
    found: dict[str, set[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name.casefold(), set()).add(number)
    return found
