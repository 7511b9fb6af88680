"""Runs (restarts, targets) of an attack, of which the best end is kept."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax.attacks.base import BoundedAttack
from robust_jax.attacks.threat import expand


def keep_better(best: tuple, other: tuple) -> tuple:
    """Returns, example by example, the better of two (images, success, loss).

    A success beats a failure; among equals the larger loss wins, and a draw keeps the first.
    """
    (images, success, loss), (images2, success2, loss2) = best, other
    better = jnp.where(success == success2, loss2 > loss, success2)
    return (
        jnp.where(expand(better, images), images2, images),
        jnp.where(better, success2, success),
        jnp.where(better, loss2, loss),
    )


def best_of(run: Any, num_runs: int, images: Array, *, parallel: bool) -> Array:
    """Returns the images of the best (`keep_better`) of several runs.

    Args:
        run: function of the run's number to (images, success, loss).
        num_runs: number of runs.
        images: the clean images, kept where every run gives a loss that is no number.
        parallel: all runs at once by `vmap`, not one after the other.
    """
    if num_runs == 1:
        return run(0)[0]
    loss = jax.eval_shape(run, 0)[2]
    best = images, jnp.zeros(loss.shape, bool), jnp.full(loss.shape, -jnp.inf, loss.dtype)
    if parallel:
        runs = jax.vmap(run)(jnp.arange(num_runs))
        return jax.lax.scan(lambda best, end: (keep_better(best, end), None), best, runs)[0][0]
    return jax.lax.fori_loop(
        0, num_runs, lambda number, best: keep_better(best, run(number)), best
    )[0]


@dataclasses.dataclass(frozen=True)
class AttackInRuns(BoundedAttack):
    """A bounded attack made of runs (restarts, targets), of which the best end is kept.

    A suite makes the runs one by one, each on the examples that still stand.
    """

    @property
    def num_runs(self) -> int:
        """Returns the number of runs."""
        raise TypeError(f"Expected {type(self).__name__} to define num_runs.")

    @property
    def runs_in_parallel(self) -> bool:
        """Returns whether a call makes all runs at once."""
        return False

    def run(
        self,
        number: Any,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> tuple[Float[Array, "b *shape"], Bool[Array, " b"], Float[Array, " b"]]:
        """Returns the end of one run: images, success, and the loss by which runs compare."""
        raise TypeError(f"Expected {type(self).__name__} to define run(...).")

    def perturb(
        self,
        view: Any,
        images: Float[Array, "b *shape"],
        labels: Int[Array, " b"],
        *,
        key: Key[Array, ""],
        index: Int[Array, " b"],
    ) -> Float[Array, "b *shape"]:
        """Returns the adversarial images."""
        return best_of(
            lambda number: self.run(number, view, images, labels, key=key, index=index),
            self.num_runs,
            images,
            parallel=self.runs_in_parallel,
        )
