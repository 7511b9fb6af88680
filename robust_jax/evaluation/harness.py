"""Evaluation: attack a checkpoint, judge it, write one record per example.

Every number that is reported is a reduction of the records (`records.py`), so the worst case over
attacks is taken per example, and an evaluation that was stopped goes on where it was. The harness,
not the attack, enforces the ball, measures the distance and judges.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from robust_jax import rng, serialization
from robust_jax.certify import Margins
from robust_jax.data import Split, eval_batches
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judging import Judgement, panel
from robust_jax.evaluation.protocol import CLEAN, Evaluation
from robust_jax.evaluation.records import (
    Decision,
    Record,
    Records,
    append_lines,
    check_numbers,
    forget_seconds,
    read_records,
    resume,
    save_shown,
    set_aside,
    with_skipped,
)
from robust_jax.evaluation.selection import candidates_of, chosen_of
from robust_jax.evaluation.steps import StepFn, attack_step, clean_step, source_step
from robust_jax.evaluation.targets import images_to_begin_at
from robust_jax.methods import Method
from robust_jax.runtime.sharding import (
    batched,
    check_batch_size,
    on_host,
)
from robust_jax.types import Batch, Variables

OnBatch = Callable[[str, int, int], None]
"""Is told after each batch of which attack it was, how many examples are done, and of how many."""


class Evaluator(NamedTuple):
    """The compiled parts of an evaluation; use them again and nothing is compiled anew.

    Attributes:
        config: what to measure.
        mesh: devices that every batch is split over.
        stochastic: does a decision or an attack depend on its key?
        steps: by name; `clean@NAME` judges the clean images by a source.

    Example:
        >>> from robust_jax.evaluation import Evaluation, Model, make_evaluator
        >>> from robust_jax.runtime import sharding
        >>> method = Model.of(lambda images: images[:, 0, 0], num_classes=3).method
        >>> evaluator = make_evaluator(method, Evaluation(batch_size=8), sharding.make_mesh(1))
        >>> list(evaluator.steps), evaluator.stochastic  # compiled at their first call, and kept
        (['clean'], False)
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

    Example:
        >>> from robust_jax.attacks import FGSM, ThreatModel
        >>> from robust_jax.evaluation import AttackRun, Evaluation, Model, make_evaluator
        >>> from robust_jax.runtime import sharding
        >>> wanted = Evaluation({"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.1)))}, batch_size=8)
        >>> method = Model.of(lambda images: images[:, 0, 0], num_classes=3).method
        >>> evaluator = make_evaluator(method, wanted, sharding.make_mesh(1))
        >>> list(evaluator.steps), evaluator.stochastic
        (['clean', 'fgsm'], False)
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
        unknown = any(one.stochastic or one.vote is None for one in certified)
        if isinstance(certifier, Margins) and unknown:
            raise ValueError(f"Expected certificate={title!r} of votes without randomness.")
    judges = panel(method, config.judges, config.seed, config.adversary.num_submissions)
    steps = {CLEAN: clean_step(judges, mesh, config.precision)}
    for name, source in sources.items():
        steps[f"{CLEAN}@{name}"] = source_step(source, mesh, config.precision, config.seed)
    for name, run in config.attacks.items():
        if run.after is not None and _is_another_ball(run, config.attacks[run.after]):
            steps[name] = steps[run.after]  # of the same draws too
            continue
        attacked = [sources[one] for one in run.sources] or [method]
        steps[name] = attack_step(name, run, attacked, judges, mesh, config.precision, config.seed)
    stochastic = any(one.stochastic for one in [method, *sources.values()])
    return Evaluator(config, mesh, stochastic, steps)


def _is_another_ball(run: AttackRun, before: AttackRun) -> bool:
    """Returns whether two rows differ in radius and step sizes alone: one program serves both."""
    same_program = jax.tree.structure(run.attack) == jax.tree.structure(before.attack)
    same_target = dataclasses.replace(run, attack=before.attack, after=before.after) == before
    return same_program and same_target


def evaluate(
    evaluator: Evaluator,
    variables: Variables,
    split: Split,
    *,
    sources: Mapping[str, Variables] | None = None,
    directory: pathlib.Path | None = None,
    on_batch: OnBatch = lambda name, done, total: None,
) -> Records:
    """Returns the records of every attack on the chosen examples of a split.

    Args:
        evaluator: from `make_evaluator`.
        variables: the method's arrays, replicated over the mesh.
        split: the examples.
        sources: arrays of the checkpoints that attacks are transferred from.
        directory: where records/ is kept and gone on with; None keeps nothing.
        on_batch: told (attack, examples done, examples) at the start, and after each batch.

    Guarantees:
        Every chosen example once. Records do not depend on the number of devices; for a
        deterministic method not on the batch size either, but for the passes of an attack that
        ends when all images of its batch have fallen.

    Raises:
        ValueError: nothing is chosen, a score of a clean image is NaN, or an attack returned
            images that are not finite.

    Example:
        >>> from robust_jax.data import from_arrays
        >>> from robust_jax.evaluation import Evaluation, Model, evaluate, make_evaluator
        >>> from robust_jax.runtime import sharding
        >>> model = Model.of(lambda images: images[:, 0, 0], num_classes=3)
        >>> images, labels = np.eye(3, dtype=np.float32)[:, None, None], np.array([0, 1, 1])
        >>> split, wanted = from_arrays(images, labels, num_classes=3), Evaluation(batch_size=3)
        >>> evaluator = make_evaluator(model.method, wanted, sharding.make_mesh(1))
        >>> records = evaluate(evaluator, model.variables, split)
        >>> [record.decisions["accuracy"].correct for record in records["clean"].values()]
        [True, True, False]
    """
    config, sources = evaluator.config, sources or {}
    conditional = config.selection.by_correctness
    candidates = candidates_of(config.selection, split, config.seed)
    starts = None
    if config.takes_starts:
        starts = images_to_begin_at(split, evaluator.mesh, config.seed)

    def judged(
        name: str,
        rows: np.ndarray,
        labels: np.ndarray | None = None,
        named: Iterable[str] = (),
    ) -> dict[int, Record]:
        file = None if directory is None else directory / "records" / f"{name}.jsonl"
        models = variables, tuple(sources[one] for one in named), starts
        return _gone_on_with(evaluator, name, models, split, rows, labels, file, on_batch)

    clean = {CLEAN: judged(CLEAN, candidates)}
    for source in config.sources:
        if conditional or config.adversary.labels == "predicted":
            clean[f"{CLEAN}@{source}"] = judged(f"{CLEAN}@{source}", candidates, named=[source])
    rows = candidates
    if conditional:
        rows = chosen_of(config.selection, candidates, clean, config.judges)
    records: Records = {CLEAN: {row: clean[CLEAN][row] for row in rows.tolist()}}
    for name, run in config.attacks.items():
        chosen, labels = rows, None
        before = records[run.after or CLEAN]
        if _skips(run, config):
            # What is wrong by a vote over draws a single one may have right.
            right = [
                row
                for row, record in before.items()
                if record.right_somewhere or (run.after is None and record.right_in_a_draw)
            ]
            chosen = np.asarray(right, np.int32)
        if config.adversary.labels == "predicted":
            known = clean["@".join([CLEAN, *run.sources])]  # of one at most
            labels = np.zeros(len(split), np.int32)
            labels[rows] = [known[row].headline(config.judges).prediction for row in rows.tolist()]
        attacked = judged(name, chosen, labels, run.sources)
        records[name] = with_skipped(run, before, attacked, config.judges)
    return records


def read_evaluated(directory: str | pathlib.Path, config: Evaluation) -> Records:
    """Returns the records of an evaluation that has ended, those of skipped images too.

    Every number of its summary is made of them: `reductions.summarize(records, config)`.

    Args:
        directory: of the evaluation.
        config: the protocol.

    Raises:
        ValueError: it has not ended: images that were to be attacked have no record.
    """
    found = read_records(directory)
    rows = np.asarray(list(found[CLEAN]))
    if config.selection.by_correctness:
        clean = {name: one for name, one in found.items() if name.partition("@")[0] == CLEAN}
        rows = chosen_of(config.selection, rows, clean, config.judges)
    records: Records = {CLEAN: {row: found[CLEAN][row] for row in rows.tolist()}}
    for name, run in config.attacks.items():
        before = records[run.after or CLEAN]
        asked = {row for row, one in before.items()
                 if one.right_somewhere or not _skips(run, config)}  # fmt: skip
        # What a draw alone has right is attacked too; earlier versions left it alone.
        drawn = {row for row, one in before.items() if run.after is None and one.right_in_a_draw}
        attacked = found.get(name, {})  # an attack that has nothing to do writes nothing
        asked |= drawn if (drawn - asked) & attacked.keys() else set()
        missing = asked - attacked.keys()
        if missing:
            raise ValueError(
                f"Expected {str(directory)!r} to hold an evaluation that has ended: {name!r} has "
                f"no record of {len(missing)} of {len(asked)} images."
            )
        records[name] = with_skipped(run, before, attacked, config.judges)
    return records


def _skips(run: AttackRun, config: Evaluation) -> bool:
    """Returns whether a run leaves alone what is wrong already."""
    return run.after is not None or (config.adversary.skip_misclassified and run.source is None)


def _gone_on_with(
    evaluator: Evaluator,
    name: str,
    models: tuple[Variables, tuple[Variables, ...], Array | None],
    split: Split,
    rows: np.ndarray,
    labels: np.ndarray | None,
    file: pathlib.Path | None,
    on_batch: OnBatch,
) -> dict[int, Record]:
    """Returns the records of one step, reading those that the file holds already."""
    config, mesh = evaluator.config, evaluator.mesh
    size, root = config.batch_size, jax.random.key(config.seed)
    if file is not None and evaluator.stochastic:
        set_aside(file)
    records = resume(file, rows, size)
    total, num_done = len(rows), len(records)
    on_batch(name, num_done, total)
    if num_done == total:
        return records
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
        row = config.attacks.get(name)
        attack = None if row is None else row.attack
        step = evaluator.steps[name]
        judgement = jax.device_get(step(attack, *models, batch, attack_labels, key))
        # Records need no pixels: labels in their place spare the copy from the devices.
        rows_of_batch = on_host(batch._replace(image=batch.label))
        lines = records_of(rows_of_batch, judgement, name)
        if name.split("@")[0] == CLEAN:
            check_numbers(lines, name)
        if file is not None:
            if number == 0:
                save_shown(file, lines, judgement.shown)
            append_lines(file, [record.to_json() for record in lines])
            took = {"seconds": time.perf_counter() - began, "num_done": len(records) + len(lines)}
            append_lines(file.parent.parent / "seconds.jsonl", [{"name": name, **took}])
        records |= {record.index: record for record in lines}
        on_batch(name, len(records), total)
    return records


def records_of(batch: Batch, judgement: Judgement, name: str) -> list[Record]:
    """Returns the record of each example of a batch; padding has none.

    Raises:
        ValueError: an image is not finite.
    """
    records = []
    for i in np.flatnonzero(batch.mask):
        index, label = int(batch.index[i]), int(batch.label[i])
        linf, l2, l1 = float(judgement.linf[i]), float(judgement.l2[i]), float(judgement.l1[i])
        if not np.isfinite(l2):
            raise ValueError(f"Expected {name} on example {index} to give finite images.")
        decisions = {
            judge: Decision(
                prediction=int(decided.prediction[i]),
                correct=int(decided.prediction[i]) == label,
                top5=decided.top5[i].tolist(),
                share_correct=round(float(decided.share_correct[i]), 6),
                share_rejudged=round(float(decided.share_rejudged[i]), 6),
            )
            for judge, decided in judgement.decisions.items()
        }
        fooled = bool(judgement.view_fooled[i])
        started = judgement.started is None or bool(judgement.started[i])
        counts = judgement.passes
        passes = None if counts is None else [int(counts.forward[i]), int(counts.backward[i])]
        l0 = int(judgement.l0[i])
        records.append(Record(index, label, linf, l2, fooled, decisions, started, passes, l1, l0))
    return records
