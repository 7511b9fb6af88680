"""Evaluation: attack a checkpoint, judge by the deployed rule, write one record per example.

Every number that is reported is a reduction of the records (`records.py`), so the worst case over
attacks is taken per example, and an evaluation that was stopped goes on where it was. The harness,
not the attack, enforces the ball, measures the distance and judges.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from robust_jax import metrics, rng, serialization
from robust_jax.attacks import BoundedAttack, bind, eot
from robust_jax.config import AttackRun, Evaluation
from robust_jax.data import Data, Split, eval_batches, select
from robust_jax.methods import Method
from robust_jax.records import CLEAN, Record, Records, append_lines, resume
from robust_jax.sharding import batched, check_batch_size, replicated
from robust_jax.types import Batch, Task, Variables


class Judgement(NamedTuple):
    """What the harness finds on a batch of images, clean or attacked.

    Attributes:
        prediction: class of the largest score.
        top5: classes of the five largest scores (fewer where there are fewer classes).
        linf: largest change of a pixel.
        l2: Euclidean norm of the change.
    """

    prediction: Int[Array, " b"]
    top5: Int[Array, "b n"]
    linf: Float[Array, " b"]
    l2: Float[Array, " b"]


JudgeFn = Callable[..., Judgement]


class Evaluator(NamedTuple):
    """The compiled parts of an evaluation; use them again and nothing is compiled anew.

    Attributes:
        config: what to measure.
        mesh: devices that every batch is split over.
        steps: by name, jitted (variables, batch, attack labels, key) -> Judgement.
    """

    config: Evaluation
    mesh: Mesh
    steps: dict[str, JudgeFn]


def make_evaluator(method: Method, config: Evaluation, mesh: Mesh) -> Evaluator:
    """Returns the evaluator of a method.

    Raises:
        ValueError: an attack's view does not exist, a name is taken, or the batch does not split
            over the mesh.
    """
    check_batch_size(config.batch_size, mesh)
    if CLEAN in config.attacks:
        raise ValueError(f"Expected attacks to leave the name {CLEAN!r} to the clean images.")
    runs: dict[str, AttackRun | None] = {CLEAN: None, **config.attacks}
    steps = {name: _make_step(method, run, name, config, mesh) for name, run in runs.items()}
    return Evaluator(config, mesh, steps)


def _make_step(
    method: Method, run: AttackRun | None, name: str, config: Evaluation, mesh: Mesh
) -> JudgeFn:
    judge = judge_fn(method, config)
    attacked_view = method.view("deployed" if run is None else run.view)

    def attacked(variables: Variables, batch: Batch, labels: Any, key: Key[Array, ""]) -> Any:
        if run is None:
            return batch.image
        view = bind(attacked_view, variables)
        if run.eot_samples > 1:
            view = eot(view, run.eot_samples)
        attack_key = rng.stream(key, f"attack {name}")
        return run.attack(view, batch.image, labels, key=attack_key, index=batch.index)

    def judged(variables: Variables, batch: Batch, images: Any, key: Key[Array, ""]) -> Judgement:
        if run is not None and isinstance(run.attack, BoundedAttack):
            images = run.attack.threat.project(images, batch.image)
        scores = judge(variables, images, key=rng.stream(key, f"judge {name}"))
        delta = (images - batch.image).reshape(len(images), -1)
        return Judgement(
            prediction=jnp.argmax(scores, axis=-1).astype(jnp.int32),
            top5=metrics.top_classes(scores, 5).astype(jnp.int32),
            linf=jnp.max(jnp.abs(delta), axis=-1),
            l2=jnp.sqrt(jnp.sum(jnp.square(delta), axis=-1)),
        )

    def step(variables: Variables, batch: Batch, labels: Any, key: Key[Array, ""]) -> Judgement:
        return judged(variables, batch, attacked(variables, batch, labels, key), key)

    over_batch, everywhere = batched(mesh), replicated(mesh)
    shardings: Any = {
        "in_shardings": (everywhere, over_batch, over_batch, everywhere),
        "out_shardings": everywhere,
    }
    if run is None or not run.attack.on_host:
        return jax.jit(step, **shardings)
    if jax.process_count() > 1:
        raise ValueError(f"Expected one process: {name} runs on the host.")
    judged = jax.jit(judged, **shardings)

    def host_step(variables, batch, labels, key):
        images = attacked(variables, batch, labels, key)
        return judged(variables, batch, jax.device_put(images, over_batch), key)

    return host_step


def judge_fn(method: Method, config: Evaluation) -> Callable[..., Float[Array, "b c"]]:
    """Returns the scores that decide, (variables, images, *, key) -> [b c].

    See `Evaluation.judge`; the mean of several draws is that of their softmax.
    """
    predict = method.predict if config.judged_view is None else method.view(config.judged_view)
    if not method.stochastic:
        return lambda variables, images, *, key: predict(variables, images, key=None)

    def honest(variables, images, *, key):
        def draw(number):
            scores = predict(variables, images, key=rng.stream(key, "draw", number))
            return jax.nn.softmax(scores, axis=-1)

        num_draws = 1 if config.judge == "paper" else config.num_draws
        return jnp.mean(jax.lax.map(draw, jnp.arange(num_draws)), axis=0)

    def fixed(variables, images, *, key):
        del key  # the same noise for every image and every attack: a deterministic predictor
        root = rng.stream(jax.random.key(config.seed), "fixed judge")

        def one(image):
            return honest(variables, image[None], key=root)[0]

        return jax.vmap(one)(images)

    return fixed if config.judge == "fixed" else honest


def evaluate(
    evaluator: Evaluator,
    method: Method,
    variables: Variables,
    split: Split,
    *,
    directory: pathlib.Path | None = None,
    on_batch: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Records:
    """Returns the records of every attack on a split.

    Args:
        evaluator: from `make_evaluator` for this method.
        method: what is evaluated.
        variables: its arrays, replicated over the mesh.
        split: the examples.
        directory: where records/ is kept and gone on with; None keeps nothing.
        on_batch: told (attack, examples done, examples) after each batch.

    Guarantees:
        Every example once. Records do not depend on the number of devices; for a deterministic
        method not on the batch size either.

    Raises:
        ValueError: the split is empty, or an attack returned images that are not finite.
    """
    config = evaluator.config
    rows = select(split, config.num_examples)
    records: Records = {}
    for name in evaluator.steps:
        chosen, labels = rows, None
        if name != CLEAN:
            clean = records[CLEAN]
            if config.skip_misclassified:
                chosen = np.asarray([row for row in rows if clean[row].correct], np.int32)
            if config.attack_labels == "predicted":
                labels = np.zeros(len(split), np.int32)
                labels[rows] = [clean[row].prediction for row in rows]
        file = None if directory is None else directory / "records" / f"{name}.jsonl"
        found = _run(evaluator, name, method, variables, split, chosen, labels, file, on_batch)
        # An example that was already wrong is not robust, whatever was done to it.
        records[name] = {row: found.get(row) or records[CLEAN][row] for row in rows.tolist()}
    return records


def _run(
    evaluator: Evaluator,
    name: str,
    method: Method,
    variables: Variables,
    split: Split,
    rows: np.ndarray,
    labels: np.ndarray | None,
    file: pathlib.Path | None,
    on_batch: Callable[[str, int, int], None],
) -> dict[int, Record]:
    """Returns the records of one attack, reading those that the file holds already."""
    config, mesh = evaluator.config, evaluator.mesh
    size, root = config.batch_size, jax.random.key(config.seed)
    found = resume(file, rows, size)
    total, num_done = len(rows), len(found)
    on_batch(name, num_done, total)
    if num_done == total:
        return found
    for number, batch in enumerate(
        eval_batches(split, size, rows[num_done:], batched(mesh)), start=num_done // size
    ):
        attack_labels = batch.label
        if labels is not None:
            chosen = labels[np.asarray(_local(batch.index))]
            attack_labels = jax.device_put(chosen, batched(mesh))
        # Rows of a deterministic method are told apart by their index alone, so that the batch
        # they come in does not matter.
        key = rng.stream(root, "evaluation", number if method.stochastic else 0)
        began = time.perf_counter()
        judgement = jax.device_get(evaluator.steps[name](variables, batch, attack_labels, key))
        lines = _records(_local(batch._replace(image=batch.label)), judgement, name)
        if file is not None:
            append_lines(file, [record._asdict() for record in lines])
            seconds = time.perf_counter() - began
            append_lines(file.parent.parent / "seconds.jsonl", [{"name": name, "seconds": seconds}])
        found |= {record.index: record for record in lines}
        on_batch(name, len(found), total)
    return found


def _local(tree: Any) -> Any:
    """Returns the arrays on this host, whole, also where several hosts hold parts of them."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def _records(batch: Batch, judgement: Judgement, name: str) -> list[Record]:
    records = []
    for i in np.flatnonzero(batch.mask):
        index, label = int(batch.index[i]), int(batch.label[i])
        prediction, linf, l2 = (
            int(judgement.prediction[i]), float(judgement.linf[i]), float(judgement.l2[i])
        )  # fmt: skip
        if not np.isfinite(l2):
            raise ValueError(f"Expected {name} on example {index} to give finite images.")
        top5 = judgement.top5[i].tolist()
        records.append(Record(index, label, prediction, prediction == label, top5, linf, l2))
    return records


def describe(config: Evaluation) -> dict[str, str]:
    """Returns a line on each attack: its class, its fields, its view."""
    lines = {}
    for name, run in config.attacks.items():
        fields = serialization.to_json(run.attack)
        threat = fields.pop("threat", None)
        words = [fields.pop("type")]
        if threat is not None:
            words.append(f"{threat['norm']} eps {threat['eps']:.4g}")
        words += [f"{k} {v}" for k, v in fields.items() if k in ("num_steps", "num_restarts")]
        words.append(f"on {run.view}")
        if run.eot_samples > 1:
            words.append(f"EOT {run.eot_samples}")
        lines[name] = ", ".join(words)
    return lines


def check_data(data: Data, task: Task, split: Split) -> None:
    """Checks that a dataset is one that a checkpoint's network takes.

    Raises:
        ValueError: another image shape or number of classes, or an empty split.
    """
    for name in ("input_shape", "num_classes"):
        found, wanted = getattr(data.task, name), getattr(task, name)
        if found != wanted:
            raise ValueError(f"Expected the dataset's {name}={found} to be the network's {wanted}.")
    if len(split) == 0:
        raise ValueError(f"Expected the {split.name} split not to be empty (validation_size=0?).")
