"""Evaluation: attack a checkpoint, judge it, write one record per example.

Every number that is reported is a reduction of the records (`records.py`), so the worst case over
attacks is taken per example, and an evaluation that was stopped goes on where it was. The harness,
not the attack, enforces the ball, measures the distance and judges.
"""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Key

from robust_jax import rng, serialization
from robust_jax.attacks import BoundedAttack, bind, eot
from robust_jax.certify import Margins
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.judging import Judgement, Panel, averaged, judge_images, panel
from robust_jax.evaluation.protocol import CLEAN, AttackRun, Evaluation, Judge
from robust_jax.evaluation.records import (
    Decision,
    Record,
    Records,
    append_lines,
    check_numbers,
    forget_seconds,
    resume,
    save_shown,
    set_aside,
)
from robust_jax.evaluation.selection import candidates_of, chosen_of
from robust_jax.evaluation.targets import images_to_begin_at, random_targets
from robust_jax.methods import Method
from robust_jax.runtime.compilation import Precision, at_precision, jitted
from robust_jax.runtime.sharding import (
    batched,
    check_batch_size,
    local,
    on_host,
    replicated,
    spread,
)
from robust_jax.types import Batch, Variables, View

StepFn = Callable[..., Judgement]


class Evaluator(NamedTuple):
    """The compiled parts of an evaluation; use them again and nothing is compiled anew.

    Attributes:
        config: what to measure.
        mesh: devices that every batch is split over.
        stochastic: does a decision or an attack depend on its key?
        steps: by name, jitted (variables, of the source or None, images to begin at or None, batch,
            attack labels, key) -> Judgement. `clean@NAME` judges the clean images by a source.
    """

    config: Evaluation
    mesh: Mesh
    stochastic: bool
    steps: dict[str, StepFn]


def make_evaluator(
    method: Method,
    config: Evaluation,
    mesh: Mesh,
    sources: Mapping[str, Method] | None = None,
) -> Evaluator:
    """Returns the evaluator of a method.

    Args:
        method: what is evaluated.
        config: what to measure.
        mesh: devices.
        sources: methods of the checkpoints that attacks are transferred from.

    Raises:
        ValueError: a field holds what it may not, an attack's view does not exist, its source is
            not given, margins are asked of a method that is random or has no vote, or the batch
            does not split over the mesh.
    """
    serialization.check(config, name="evaluation")
    check_batch_size(config.batch_size, mesh)
    sources = dict(sources or {})
    if sorted(sources) != config.sources:
        raise ValueError(
            f"Expected sources={sorted(sources)} to be {config.sources}, those that this "
            "evaluation transfers from (--sources NAME DIR)."
        )
    for title, certifier in config.certificates.items():
        certified = [method, *(sources[name] for name in config.others)]
        unknown = any(found.stochastic or found.vote is None for found in certified)
        if isinstance(certifier, Margins) and unknown:
            raise ValueError(f"Expected certificate={title!r} of votes without randomness.")
    judges = panel(method, config.judges, config.seed, config.adversary.num_submissions)
    steps = {CLEAN: _clean_step(judges, config, mesh)}
    for name, source in sources.items():
        steps[f"{CLEAN}@{name}"] = _source_step(source, config, mesh)
    for name, run in config.attacks.items():
        attacked = method if run.source is None else sources[run.source]
        steps[name] = _attack_step(attacked, run, name, judges, config, mesh)
    stochastic = any(found.stochastic for found in [method, *sources.values()])
    return Evaluator(config, mesh, stochastic, steps)


def _jitted(step: Callable[..., Judgement], mesh: Mesh, precision: Precision) -> StepFn:
    over_batch, everywhere = batched(mesh), replicated(mesh)
    return jitted(
        at_precision(step, precision),
        in_shardings=(everywhere, everywhere, everywhere, over_batch, over_batch, everywhere),
        out_shardings=everywhere,
    )


def _clean_step(judges: Panel, config: Evaluation, mesh: Mesh) -> StepFn:
    def step(variables, source, starts, batch, labels, key):
        del source, starts, labels
        return judge_images(judges, variables, batch, batch.image, key)

    return _jitted(step, mesh, config.precision)


def _source_step(method: Method, config: Evaluation, mesh: Mesh) -> StepFn:
    judges = panel(method, {"source": Judge()}, config.seed, num_submissions=0)

    def step(variables, source, starts, batch, labels, key):
        del variables, starts, labels
        return judge_images(judges, source, batch, batch.image, key)

    return _jitted(step, mesh, config.precision)


def _attack_step(
    attacked: Method, run: AttackRun, name: str, judges: Panel, config: Evaluation, mesh: Mesh
) -> StepFn:
    method_view = attacked.view(run.view)
    if run.draws == "fixed":
        method_view = averaged(method_view, run.eot_samples, config.seed)

    def attacked_view(variables, source) -> Any:
        view: View = bind(method_view, variables if run.source is None else source)
        return eot(view, run.eot_samples) if run.eot_samples > 1 and run.draws == "fresh" else view

    def attack(variables, source, starts, batch: Batch, labels, key: Key[Array, ""]):
        view = attacked_view(variables, source)
        given: dict[str, Any] = {"key": rng.stream(key, f"attack {name}"), "index": batch.index}
        if run.attack.targeted:
            labels = random_targets(view, batch, config.seed)
        if run.attack.on_host and isinstance(batch.image, Tracer):
            return run.attack.dry_run(view, batch.image, labels, **given), None
        if not run.attack.takes_starts:
            return run.attack(view, batch.image, labels, **given), None
        started = run.attack.started(view, batch.image, labels, **given, starts=starts)
        return run.attack(view, batch.image, labels, **given, starts=starts), started

    def judge(variables, source, batch: Batch, images, key: Key[Array, ""]) -> Judgement:
        if isinstance(run.attack, BoundedAttack):
            images = run.attack.threat.project(images, batch.image)
        key = rng.stream(key, f"judge {name}")
        return judge_images(judges, variables, batch, images, key, attacked_view(variables, source))

    def step(variables, source, starts, batch, labels, key):
        images, started = attack(variables, source, starts, batch, labels, key)
        return judge(variables, source, batch, images, key)._replace(started=started)

    if not run.attack.on_host:
        return _jitted(step, mesh, config.precision)

    def judge_on(variables, source, starts, batch, images, key):
        del starts
        return judge(variables, source, batch, images, key)

    judge_step = _jitted(judge_on, mesh, config.precision)

    def attack_here(variables, source, batch, labels, key):
        if isinstance(batch.image, Tracer):  # a dry run
            return attack(variables, source, None, batch, labels, key)[0]
        if jax.process_count() > 1:  # each host attacks the whole batch, on its own copies
            variables, source = local((variables, source))
            batch, labels = jax.device_put(on_host((batch, labels)))
        return spread(attack(variables, source, None, batch, labels, key)[0], mesh)

    def host_step(variables, source, starts, batch, labels, key):
        images = attack_here(variables, source, batch, labels, key)
        return judge_step(variables, source, starts, batch, images, key)

    return at_precision(host_step, config.precision)


def evaluate(
    evaluator: Evaluator,
    variables: Variables,
    split: Split,
    *,
    sources: Mapping[str, Variables] | None = None,
    directory: pathlib.Path | None = None,
    on_batch: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Records:
    """Returns the records of every attack on the chosen examples of a split.

    Args:
        evaluator: from `make_evaluator`.
        variables: the method's arrays, replicated over the mesh.
        split: the examples.
        sources: arrays of the checkpoints that attacks are transferred from.
        directory: where records/ is kept and gone on with; None keeps nothing.
        on_batch: told (attack, examples done, examples) after each batch.

    Guarantees:
        Every chosen example once. Records do not depend on the number of devices; for a
        deterministic method not on the batch size either.

    Raises:
        ValueError: nothing is chosen, a score of a clean image is NaN, or an attack returned
            images that are not finite.
    """
    config, sources = evaluator.config, sources or {}
    conditional = config.selection.by_correctness
    candidates = candidates_of(config, split)

    starts = images_to_begin_at(config, split, evaluator.mesh)

    def run(name, rows, labels=None, source=None):
        file = None if directory is None else directory / "records" / f"{name}.jsonl"
        models = variables, None if source is None else sources[source], starts
        return _run(evaluator, name, models, split, rows, labels, file, on_batch)

    clean = {CLEAN: run(CLEAN, candidates)}
    for source in config.sources:
        if conditional or config.adversary.labels == "predicted":
            clean[f"{CLEAN}@{source}"] = run(f"{CLEAN}@{source}", candidates, source=source)
    rows = chosen_of(config, candidates, clean) if conditional else candidates
    records: Records = {CLEAN: {row: clean[CLEAN][row] for row in rows.tolist()}}
    for name, attack in config.attacks.items():
        chosen, labels = rows, None
        if config.adversary.skip_misclassified and attack.source is None:
            judged = records[CLEAN]
            right = [row for row, found in judged.items() if found.right_somewhere]
            chosen = np.asarray(right, np.int32)
        if config.adversary.labels == "predicted":
            known = clean[CLEAN if attack.source is None else f"{CLEAN}@{attack.source}"]
            labels = np.zeros(len(split), np.int32)
            labels[rows] = [known[row].headline(config.judges).prediction for row in rows.tolist()]
        found = run(name, chosen, labels, attack.source)
        # An example that was already wrong is not robust, whatever was done to it.
        records[name] = {row: found.get(row) or records[CLEAN][row] for row in rows.tolist()}
    return records


def _run(
    evaluator: Evaluator,
    name: str,
    models: tuple[Variables, Variables | None, Array | None],
    split: Split,
    rows: np.ndarray,
    labels: np.ndarray | None,
    file: pathlib.Path | None,
    on_batch: Callable[[str, int, int], None],
) -> dict[int, Record]:
    """Returns the records of one step, reading those that the file holds already."""
    config, mesh = evaluator.config, evaluator.mesh
    size, root = config.batch_size, jax.random.key(config.seed)
    if file is not None and evaluator.stochastic:
        set_aside(file)
    found = resume(file, rows, size)
    total, num_done = len(rows), len(found)
    on_batch(name, num_done, total)
    if num_done == total:
        return found
    if file is not None:
        forget_seconds(file.parent.parent, name, num_done)
    for number, batch in enumerate(
        eval_batches(split, size, rows[num_done:], batched(mesh)), start=num_done // size
    ):
        attack_labels = batch.label
        if labels is not None:
            chosen = labels[np.asarray(on_host(batch.index))]
            attack_labels = jax.device_put(chosen, batched(mesh))
        # Rows of a deterministic method are told apart by their index alone, so that the batch
        # they come in does not matter.
        key = rng.stream(root, "evaluation", number if evaluator.stochastic else 0)
        began = time.perf_counter()
        judgement = jax.device_get(evaluator.steps[name](*models, batch, attack_labels, key))
        lines = _records(on_host(batch._replace(image=batch.label)), judgement, name)
        if name.split("@")[0] == CLEAN:
            check_numbers(lines, name)
        if file is not None:
            if number == 0:
                save_shown(file, lines, judgement.shown)
            append_lines(file, [record.to_json() for record in lines])
            took = {"seconds": time.perf_counter() - began, "num_done": len(found) + len(lines)}
            append_lines(file.parent.parent / "seconds.jsonl", [{"name": name, **took}])
        found |= {record.index: record for record in lines}
        on_batch(name, len(found), total)
    return found


def _records(batch: Batch, judgement: Judgement, name: str) -> list[Record]:
    records = []
    for i in np.flatnonzero(batch.mask):
        index, label = int(batch.index[i]), int(batch.label[i])
        linf, l2 = float(judgement.linf[i]), float(judgement.l2[i])
        if not np.isfinite(l2):
            raise ValueError(f"Expected {name} on example {index} to give finite images.")
        decisions = {
            judge: Decision(
                prediction=int(found.prediction[i]),
                correct=int(found.prediction[i]) == label,
                top5=found.top5[i].tolist(),
                share_correct=round(float(found.share_correct[i]), 6),
                share_rejudged=round(float(found.share_rejudged[i]), 6),
            )
            for judge, found in judgement.decisions.items()
        }
        fooled = bool(judgement.view_fooled[i])
        started = judgement.started is None or bool(judgement.started[i])
        records.append(Record(index, label, linf, l2, fooled, decisions, started))
    return records
