"""Suites: attacks one after the other, each on the examples that still stand.

A suite runs on the host over compiled runs of a few fixed batch sizes, so fallen examples cost
nothing and nothing is compiled per batch.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import BoundedAttack, SegmentedAttack
from robust_jax.attacks.checks import check_finite
from robust_jax.attacks.dataset import Batches
from robust_jax.attacks.passes import Passes, counted, marked
from robust_jax.attacks.square import Square
from robust_jax.attacks.standing import add_passes, in_runs, in_segments
from robust_jax.attacks.threat import l2_norm, unit_l2
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
        standing: examples that no attack changed the decision on; their share is the robust
            accuracy.
        fallen_to: number of the attack that each example fell to; -1 where it stands, and -2
            where the clean image is misclassified and was left alone.
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
    spare_wrong: bool = True,
) -> Report:
    """Returns what the attacks leave of the examples, run by run, and how it came to that.

    Args:
        attacks: in their order.
        view: the model under attack.
        batches: the examples.
        key: root of all draws.
        for_random: is the suite made for random models? Else one is warned of.
        progress_fn: called with one line after every batch.
        drop_every: an image that has fallen to APGD or PGD, or on which PGD goes in circles of so
            many steps at most, is left out after so many steps at most, and its place is taken;
            None for the end of the run, as after every other attack.
        starts: images for those that begin at other ones.
        spare_wrong: are clean images left alone that the view has wrong?
    """
    images, standing = np.array(batches.images), np.zeros(len(batches), bool)
    fallen_to = np.full(len(standing), -2, np.int32)
    is_random, num_flat = False, 0
    passes = Passes(*(np.zeros(len(standing), np.int64) for _ in Passes._fields))
    for rows, (part, labels, _) in batches.of(np.arange(len(standing))):
        inspected = _inspect(tuple(attacks), view, part, labels, rng.stream(key, "inspect"))
        seen, cost = jax.device_get(inspected)
        add_passes(passes, rows, cost)
        right, differs, flat, logits = (values[: len(rows)] for values in seen)
        check_finite(logits, batches.index[rows])
        standing[rows] = right if spare_wrong else True
        is_random |= bool(np.any(differs))
        num_flat += int(np.sum(flat))
    fallen_to[standing] = -1
    stages = []
    for number, attack in enumerate(attacks):
        began, spent = time.perf_counter(), total_of(passes)
        going = (view, batches, standing, passes)
        attack_key = rng.stream(key, "attack", number)
        if drop_every is not None and isinstance(attack, SegmentedAttack) and attack.in_segments:
            found = in_segments(attack, *going, key=attack_key, every=drop_every, draws=is_random)
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


def total_of(passes: Passes) -> int:
    """Returns the passes of all images, forward and backward."""
    return int(sum(np.sum(each) for each in passes))


class _Inspected(NamedTuple):
    """What is asked of the clean images."""

    right: Bool[Array, " b"]  # by what one of the attacks goes by
    differs: Bool[Array, " b"]  # from call to call
    flat: Bool[Array, " b"]  # without a gradient
    logits: Float[Array, "b c"]


@compiled
def _inspect(
    attacks: tuple[BoundedAttack, ...], view: View, images: Images, labels: Labels, key: KeyArray
) -> tuple[_Inspected, Passes]:
    def inspect(view: View) -> _Inspected:
        def total(images: Images) -> tuple[Float[Array, ""], Float[Array, "*m b c"]]:
            scores = view(images, key=rng.stream(key, "call", 0))
            scores = scores.astype(jnp.float32) if scores.dtype.itemsize < 4 else scores
            return jnp.sum(losses.margin(losses.decision(scores), labels)), scores

        gradient, scores = jax.grad(total, has_aux=True)(images)
        gradient = jnp.where(jnp.isnan(gradient), 0, gradient)
        logits = losses.decision(scores)
        again = losses.decision(view(images, key=rng.stream(key, "call", 1)))
        apart = l2_norm(unit_l2(logits) - unit_l2(again))
        by_attack = [losses.misclassified(one.success_scores(scores), labels) for one in attacks]
        right = ~jnp.all(jnp.stack(by_attack), axis=0)
        return _Inspected(right, apart > 1e-4, l2_norm(gradient) == 0, logits)

    return counted(inspect, images)(marked(view))
