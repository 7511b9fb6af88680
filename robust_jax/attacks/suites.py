"""Suites: attacks one after the other, each on the examples that still stand.

A suite runs on the host over compiled runs of a few fixed batch sizes, so fallen examples cost
nothing and nothing is compiled per batch.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.apgd import APGD, State
from robust_jax.attacks.bounded import BoundedAttack
from robust_jax.attacks.checks import check_finite
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.passes import Passes, counted, marked
from robust_jax.attacks.runs import Given, Number
from robust_jax.attacks.square import Square
from robust_jax.attacks.threat import l2_norm, unit_l2, without_nan
from robust_jax.runtime.live import compiled
from robust_jax.types import Images, KeyArray, Labels, Starts, View


class Stage(NamedTuple):
    """What one attack of a suite did.

    Attributes:
        attack: its configuration.
        num_standing: examples still right after it.
        seconds: wall time, compilation included.
        num_passes: forward and backward passes of all examples together.
    """

    attack: BoundedAttack
    num_standing: int
    seconds: float
    num_passes: int


class Report(NamedTuple):
    """What a suite found.

    Attributes:
        images: the adversarial image of each fallen example, the clean one of each other.
        standing: examples that no attack changed the decision on.
        fallen_to: number of the attack that each example fell to; -1 where it stands, and -2
            where the clean image is misclassified.
        stages: one per attack that ran.
        warnings: why the result may overstate robustness, in words.
        passes: of each example, what is asked of the clean images included.
    """

    images: np.ndarray
    standing: np.ndarray
    fallen_to: np.ndarray
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]
    passes: Passes


def run_suite(
    attacks: Sequence[BoundedAttack],
    view: View,
    batches: Batches,
    *,
    key: KeyArray,
    for_random: bool,
    progress_fn: Callable[[str], None],
    drop_every: int | None = None,
    starts: Starts | None = None,
) -> Report:
    """Returns what the attacks leave of the examples, run by run, and how it came to that.

    Args:
        attacks: in their order.
        view: the model under attack.
        batches: the examples.
        key: root of all draws.
        for_random: is the suite made for random models? Else one is warned of.
        progress_fn: called with one line after every batch.
        drop_every: an image that has fallen to APGD is left out after so many steps at most, and
            its place is taken; None for the end of the run, as after every other attack.
        starts: images for those that begin at other ones.
    """
    images, standing = np.array(batches.images), np.zeros(len(batches), bool)
    fallen_to = np.full(len(standing), -2, np.int32)
    is_random, num_flat = False, 0
    passes = Passes(*(np.zeros(len(standing), np.int64) for _ in Passes._fields))
    for rows, (part, labels, _) in batches.of(np.arange(len(standing))):
        seen, cost = jax.device_get(_inspect(view, part, labels, rng.stream(key, "inspect")))
        add_passes(passes, rows, cost)
        right, differs, flat, logits = (values[: len(rows)] for values in seen)
        check_finite(logits, batches.index[rows])
        standing[rows] = right
        is_random |= bool(np.any(differs))
        num_flat += int(np.sum(flat))
    fallen_to[standing] = -1
    stages = []
    for number, attack in enumerate(attacks):
        began, spent = time.perf_counter(), total_of(passes)
        going = (view, batches, standing, passes)
        attack_key = rng.stream(key, "attack", number)
        # In L1 it is another algorithm, in balls that shrink: a run of it is not parted.
        if drop_every is not None and isinstance(attack, APGD) and attack.threat.norm != "l1":
            found = in_segments(attack, *going, key=attack_key, every=drop_every)
        else:
            begin_at = starts if attack.takes_starts else None
            found = in_runs(attack, *going, key=attack_key, starts=begin_at)
        for run, rows, points in found:
            images[rows], standing[rows], fallen_to[rows] = points, False, number
            progress_fn(
                f"{type(attack).__name__} {number + 1}/{len(attacks)}, run {run + 1}"
                f"/{attack.num_runs}: {standing.sum()} of {len(standing)} standing"
            )
        seconds, cost = time.perf_counter() - began, total_of(passes) - spent
        stages.append(Stage(attack, int(standing.sum()), seconds, cost))
    warnings = []
    if is_random and not for_random:
        warnings.append("randomized: the view's scores change from call to call; use 'rand'.")
    if num_flat:
        warnings.append(
            f"zero gradient: the margin has none at {num_flat} of {len(standing)} images; "
            "rescale the logits or use float64."
        )
    for before, after in itertools.pairwise(stages):
        won = before.num_standing - after.num_standing
        if isinstance(after.attack, Square) and won > 0.002 * len(standing):
            warnings.append(
                f"Square fooled {won} images that the attacks before it could not: gradients "
                "may be masked; add queries, restarts or an adaptive attack."
            )
    return Report(images, standing, fallen_to, tuple(stages), tuple(warnings), passes)


def add_passes(passes: Passes, rows: np.ndarray, cost: Passes) -> None:
    """Adds what a batch cost to the passes of its rows; the rows behind them are padding."""
    for total, added in zip(passes, jax.device_get(cost), strict=True):
        total[rows] += added[: len(rows)]


def total_of(passes: Passes) -> int:
    """Returns the passes of all images, forward and backward."""
    return int(sum(np.sum(each) for each in passes))


def judge(
    attack: BoundedAttack, points: Images, number: Number, given: Given
) -> tuple[Images, Bool[Array, " b"]]:
    """Returns the points in the balls, and which are misclassified under a key of their own."""
    points = attack.threat.project(without_nan(points, given.images), given.images)
    logits = losses.decision(given.view(points, key=rng.stream(given.key, "judge", number)))
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
    attack: APGD,
    view: View,
    batches: Batches,
    standing: np.ndarray,
    passes: Passes,
    *,
    key: KeyArray,
    every: int,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields the run, the rows that have fallen and their images, after every few steps.

    Between these steps the batches are made anew of the rows that stand: none costs more than
    `every` steps after its fall. What stands is attacked as by `attack.run`.

    Args:
        attack: the attack.
        view: as of `in_runs`.
        batches: likewise.
        standing: likewise.
        passes: likewise.
        key: likewise.
        every: steps.
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
        for first in range(-1, attack.num_steps, every):
            last = min(first + every, attack.num_steps)
            for rows, (part, labels, index) in batches.of(np.flatnonzero(standing)):
                given = Given(view, part, labels, key, index)
                ranked = None if targets is None else taken(targets, rows, len(part))
                state = None if first < 0 else taken(pool, rows, len(part))
                state, cost = _segment(attack, run, ranked, state, first, last, given)
                pool = kept(pool, rows, state)
                add_passes(passes, rows, cost)
            if pool is None:
                return
            for rows, arrays in batches.of(np.flatnonzero(standing & pool.best.success)):
                part, labels, index = arrays
                given = Given(view, part, labels, key, index)
                points = taken(pool.best.images, rows, len(part))
                (points, fallen), cost = _judged(attack, points, run, given)
                add_passes(passes, rows, cost)
                fallen = np.asarray(fallen)[: len(rows)]
                yield run, rows[fallen], np.asarray(points)[: len(rows)][fallen]


@compiled
def _targets(attack: APGD, given: Given) -> tuple[Int[Array, "b t"] | None, Passes]:
    return counted(attack.targets, given.images)(given._replace(view=marked(given.view)))


@compiled
def _segment(
    attack: APGD,
    number: Number,
    targets: Int[Array, "b t"] | None,
    state: State | None,
    first: Number,
    last: Number,
    given: Given,
) -> tuple[State, Passes]:
    """Returns the state after some steps of a run, from its beginning where there is none."""

    def segment(state: State | None, given: Given) -> State:
        run = attack.planned(number, targets)
        state = attack.begin(run, given) if state is None else state
        return attack.advance(state, first, last, run, given)

    return counted(segment, given.images)(state, given._replace(view=marked(given.view)))


@compiled
def _judged(
    attack: APGD, points: Images, number: Number, given: Given
) -> tuple[tuple[Images, Bool[Array, " b"]], Passes]:
    """Returns what `judge` does, and its passes."""
    given = given._replace(view=marked(given.view))
    return counted(judge, given.images)(attack, points, number, given)


class _Inspected(NamedTuple):
    """What is asked of the clean images."""

    right: Bool[Array, " b"]
    differs: Bool[Array, " b"]  # from call to call
    flat: Bool[Array, " b"]  # without a gradient
    logits: Float[Array, "b c"]


@compiled
def _inspect(
    view: View, images: Images, labels: Labels, key: KeyArray
) -> tuple[_Inspected, Passes]:
    def inspect(view: View) -> _Inspected:
        gradient, _, logits = losses.gradient(
            losses.margin, view, images, labels, key=rng.stream(key, "call", 0)
        )
        again = losses.decision(view(images, key=rng.stream(key, "call", 1)))
        apart = l2_norm(unit_l2(logits) - unit_l2(again))
        right = ~losses.misclassified(logits, labels)
        return _Inspected(right, apart > 1e-4, l2_norm(gradient) == 0, logits)

    return counted(inspect, images)(marked(view))
