"""One attack on the examples that still stand: run by run, or run and segment by segment.

Between two parts of an attack the batches are made anew of the examples that are left.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import BoundedAttack, SegmentedAttack, Underway
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.passes import Passes, counted, marked
from robust_jax.attacks.runs import Given, Number
from robust_jax.attacks.threat import without_nan
from robust_jax.runtime.live import compiled
from robust_jax.types import Images, KeyArray, Starts, View


def add_passes(passes: Passes, rows: np.ndarray, cost: Passes) -> None:
    """Adds what a batch cost to the passes of its rows; the rows behind them are padding."""
    for total, added in zip(passes, jax.device_get(cost), strict=True):
        total[rows] += added[: len(rows)]


def judge(
    attack: BoundedAttack, points: Images, number: Number, given: Given
) -> tuple[Images, Bool[Array, " b"]]:
    """Returns the points in the balls, and which succeed under a key of their own."""
    points = attack.threat.project(without_nan(points, given.images), given.images)
    logits = attack.success_scores(given.view(points, key=rng.stream(given.key, "judge", number)))
    return points, losses.misclassified(logits, given.labels)


@compiled
def _one_run(
    attack: BoundedAttack, number: Number, given: Given
) -> tuple[Images, Bool[Array, " b"], Passes]:
    """Returns the images of one run, which are in the ball and misclassified, and its passes."""

    def one_run(number: Number, given: Given) -> tuple[Images, Bool[Array, " b"]]:
        points = attack.run(attack.planned(number, attack.targets(given)), given).images
        return judge(attack, points, number, given)

    given = given._replace(view=marked(given.view))
    (points, fallen), passes = counted(one_run, given.images)(number, given)
    return points, fallen, passes


def in_runs(
    attack: BoundedAttack,
    view: View,
    batches: Batches,
    standing: np.ndarray,
    passes: Passes,
    *,
    key: KeyArray,
    starts: Starts | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields the run, the rows that have fallen and their images, after every batch of a run.

    Args:
        attack: the attack.
        view: the model under attack.
        batches: the examples.
        standing: which are attacked, changed by the caller as they fall.
        passes: so far, to which those of each row are added.
        key: of the attack.
        starts: images that it may begin at.
    """
    for run in range(attack.num_runs):
        for rows, (part, labels, index) in batches.of(np.flatnonzero(standing)):
            given = Given(view, part, labels, key, index, starts)
            points, fallen, cost = _one_run(attack, jnp.asarray(run), given)
            add_passes(passes, rows, cost)
            fallen = np.asarray(fallen)[: len(rows)]
            yield run, rows[fallen], np.asarray(points)[: len(rows)][fallen]


def in_segments(
    attack: SegmentedAttack,
    view: View,
    batches: Batches,
    standing: np.ndarray,
    passes: Passes,
    *,
    key: KeyArray,
    every: int,
    draws: bool,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields the run, the rows that have fallen and their images, after every few steps.

    Between these steps the batches are made anew of the rows that stand and have not ended: none
    costs more than `every` steps after its fall. What stands is attacked as by `attack.run`.

    Args:
        attack: the attack.
        view: as of `in_runs`.
        batches: likewise.
        standing: likewise.
        passes: likewise.
        key: likewise.
        every: steps.
        draws: does the view draw? Then a row that has come back to an earlier point goes on.
    """
    pool = targets = None

    def taken(tree, rows, size):
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        return jax.tree.map(lambda leaf: jax.device_put(leaf[padded], batches.sharding), tree)

    def kept(tree, rows, part):
        part = jax.device_get(part)
        if tree is None:
            n = len(standing)
            tree = jax.tree.map(lambda leaf: np.zeros((n, *leaf.shape[1:]), leaf.dtype), part)
        for whole, leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(part), strict=True):
            whole[rows] = leaf[: len(rows)]
        return tree

    if attack.num_targets:
        for rows, (part, labels, index) in batches.of(np.flatnonzero(standing)):
            found, cost = _targets(attack, Given(view, part, labels, key, index))
            targets = kept(targets, rows, found)
            add_passes(passes, rows, cost)
    for run in range(attack.num_runs):
        ended = np.zeros(len(standing), bool)
        for first in range(attack.first_step, attack.num_steps, every):
            last = min(first + every, attack.num_steps)
            for rows, (part, labels, index) in batches.of(np.flatnonzero(standing & ~ended)):
                given = Given(view, part, labels, key, index)
                ranked = None if targets is None else taken(targets, rows, len(part))
                begun = first > attack.first_step
                state = taken(pool, rows, len(part)) if begun else None
                state, cost = _segment(attack, run, ranked, state, first, last, given)
                pool = kept(pool, rows, state)
                add_passes(passes, rows, cost)
            if pool is None:
                return
            if not draws:
                ended = np.array(pool.ended)
            for rows, arrays in batches.of(np.flatnonzero(standing & pool.best.success)):
                part, labels, index = arrays
                given = Given(view, part, labels, key, index)
                points = taken(pool.best.images, rows, len(part))
                (points, fallen), cost = _judged(attack, points, run, given)
                add_passes(passes, rows, cost)
                fallen = np.asarray(fallen)[: len(rows)]
                yield run, rows[fallen], np.asarray(points)[: len(rows)][fallen]


@compiled
def _targets(attack: SegmentedAttack, given: Given) -> tuple[Int[Array, "b t"] | None, Passes]:
    return counted(attack.targets, given.images)(given._replace(view=marked(given.view)))


@compiled
def _segment(
    attack: SegmentedAttack,
    number: Number,
    targets: Int[Array, "b t"] | None,
    state: Underway | None,
    first: Number,
    last: Number,
    given: Given,
) -> tuple[Underway, Passes]:
    """Returns the state after some steps of a run, from its beginning where there is none."""

    def segment(state: Underway | None, given: Given) -> Underway:
        run = attack.planned(number, targets)
        state = attack.begin(run, given) if state is None else state
        return attack.advance(state, first, last, run, given)

    return counted(segment, given.images)(state, given._replace(view=marked(given.view)))


@compiled
def _judged(
    attack: SegmentedAttack, points: Images, number: Number, given: Given
) -> tuple[tuple[Images, Bool[Array, " b"]], Passes]:
    """Returns what `judge` does, and its passes."""
    given = given._replace(view=marked(given.view))
    return counted(judge, given.images)(attack, points, number, given)
