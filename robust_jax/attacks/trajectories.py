"""The way that an attack in steps takes: its loss at every step, for plots and for doubts."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax.attacks.base import Attack
from robust_jax.attacks.runs import keep_better
from robust_jax.runtime.live import compiled
from robust_jax.types import View


class Trajectory(NamedTuple):
    """What an attack in steps returns, and how it came to it.

    Attributes:
        images: the adversarial images, as a call gives them.
        losses: what is raised, of each run (restart, target) at its start and after every step.
        successes: where the goal is reached, likewise.
    """

    images: Float[Array, "b ..."]
    losses: Float[Array, "r t b"]
    successes: Bool[Array, "r t b"]


def trajectory(
    attack: Attack, view: View, images: Any, labels: Any, *, key: Any, index: Any = None
) -> Trajectory:
    """Returns the adversarial images that a call gives, and the loss at every step.

    Args:
        attack: one in steps: FGSM, BIM, MIM, PGD, MDI2FGSM, APGD, APGDT, MORA.
        view: as in a call.
        images: as in a call.
        labels: as in a call.
        key: as in a call.
        index: as in a call.

    Raises:
        ValueError: another attack, or shapes and dtypes do not fit.
    """
    if not has_trajectory(attack):
        raise ValueError(
            f"Expected attack={type(attack).__name__} to be one in steps (FGSM, BIM, MIM, PGD, "
            "MDI2FGSM, APGD, APGDT, MORA)."
        )
    *given, _ = attack._prepared(view, images, labels, key, index, None)
    return Trajectory(*_follow(attack, *given))


def has_trajectory(attack: Attack) -> bool:
    """Returns whether an attack goes in steps that can be watched."""
    return hasattr(attack, "follow")


@functools.partial(compiled, static_argnames=("attack",))
def _follow(attack, view, images, labels, key, index):
    view, images = jax.lax.stop_gradient((view, images))
    return tuple(attack.follow(view, images, labels, key=key, index=index))


Path = tuple[Float[Array, "t b"], Bool[Array, "t b"]]
"""Losses and successes of one run."""


def empty_path(num_steps: int, loss: Any) -> Path:
    """Returns a path with room for the start and every step; `loss` has shape and dtype of one."""
    shape = (num_steps + 1, *loss.shape)
    return jnp.zeros(shape, loss.dtype), jnp.zeros(shape, bool)


def noted(path: Path | None, number: Any, loss: Array, success: Array) -> Path | None:
    """Returns the path with what was found after so many steps; None stays None."""
    if path is None:
        return None
    return path[0].at[number].set(loss), path[1].at[number].set(success)


def followed(run: Any, num_runs: int, images: Array) -> Trajectory:
    """Returns the trajectory of several runs, as `best_of` chooses between them.

    Args:
        run: function of a run's number to its end (images, success, loss) and its path.
        num_runs: number of runs.
        images: the clean images.
    """
    ends, (values, successes) = jax.lax.map(run, jnp.arange(num_runs))
    if num_runs == 1:
        return Trajectory(ends[0][0], values, successes)
    lowest = jnp.full(ends[2].shape[1:], -jnp.inf, ends[2].dtype)
    best = images, jnp.zeros(lowest.shape, bool), lowest
    best, _ = jax.lax.scan(lambda best, end: (keep_better(best, end), None), best, ends)
    return Trajectory(best[0], values, successes)
