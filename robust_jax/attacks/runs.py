"""What an attack is given, its runs (restarts, targets), and which of their ends is kept."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from robust_jax.attacks.threat import expand
from robust_jax.types import Images, Index, KeyArray, Labels, Starts, View

Number = Int[Array, ""] | int
"""How many, or which: a number that may be traced."""


class Given(NamedTuple):
    """What an attack is called with, checked and prepared; a tree of arrays.

    Attributes:
        view: the model under attack.
        images: clean images, in the box.
        labels: class of each image; of a targeted attack the class to reach.
        key: root of all draws.
        index: dataset row of each image, from which its own draws are derived.
        starts: images of many classes that one which `takes_starts` may begin at.
    """

    view: View
    images: Images
    labels: Labels
    key: KeyArray
    index: Index  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple's own)
    starts: Starts | None = None


class Run(NamedTuple):
    """One run of an attack: one restart, towards one class where there are targets.

    Attributes:
        number: which of all runs, from 0.
        restart: which of the restarts, from 0.
        target: class to reach of each example; None to leave the label.
        watched: is the way noted, in `Found.path`? Only by attacks that are `in_steps`.
    """

    number: Number
    restart: Number
    target: Labels | None = None
    watched: bool = False


class Path(NamedTuple):
    """The way of one run, at its start and after every step.

    Attributes:
        losses: what is raised.
        successes: where the goal is reached.
    """

    losses: Float[Array, "t b"]
    successes: Bool[Array, "t b"]

    @classmethod
    def empty(cls, num_steps: Number, loss: jax.ShapeDtypeStruct) -> "Path":
        """Returns a path with room for the start and every step; `loss` is like those of one."""
        shape = (int(num_steps) + 1, *loss.shape)
        return cls(jnp.zeros(shape, loss.dtype), jnp.zeros(shape, bool))

    def noted(self, number: Number, loss: Array, success: Array) -> "Path":
        """Returns the path with what was found after so many steps."""
        return Path(self.losses.at[number].set(loss), self.successes.at[number].set(success))


class Found(NamedTuple):
    """What a run ends with, or has met on its way.

    Attributes:
        images: the points.
        success: where they reach the goal.
        loss: by which points compare that are equal in that.
        path: the way to them, of a run that was watched.
    """

    images: Images
    success: Bool[Array, " b"]
    loss: Float[Array, " b"]
    path: Path | None = None


def nothing(images: Images, loss: jax.ShapeDtypeStruct) -> Found:
    """Returns what every other point is better than; `loss` is like those of a point."""
    return Found(images, jnp.zeros(loss.shape, bool), jnp.full(loss.shape, -jnp.inf, loss.dtype))


def keep_better(best: Found, other: Found) -> Found:
    """Returns, example by example, the better of two, without their paths.

    A success beats a failure; among equals the larger loss wins, and a draw keeps the first.
    """
    better = jnp.where(best.success == other.success, other.loss > best.loss, other.success)
    return Found(
        jnp.where(expand(better, best.images), other.images, best.images),
        jnp.where(better, other.success, best.success),
        jnp.where(better, other.loss, best.loss),
    )


def best_of(
    run: Callable[[Number], Found], num_runs: int, images: Images, *, parallel: bool
) -> Images:
    """Returns the images of the best (`keep_better`) of several runs.

    Args:
        run: function of the run's number to its end.
        num_runs: number of runs.
        images: the clean images, kept where every run gives a loss that is no number.
        parallel: all runs at once by `vmap`, not one after the other.
    """
    if num_runs == 1:
        return run(0).images
    best = nothing(images, jax.eval_shape(run, 0).loss)
    if parallel:
        return best_among(jax.vmap(run)(jnp.arange(num_runs)), best).images
    return jax.lax.fori_loop(
        0, num_runs, lambda number, best: keep_better(best, run(number)), best
    ).images


def best_among(ends: Found, best: Found) -> Found:
    """Returns the best of a point and of the ends of runs, stacked along a leading axis."""
    return jax.lax.scan(lambda best, end: (keep_better(best, end), None), best, ends)[0]
