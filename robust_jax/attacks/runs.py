"""Runs (restarts, targets) of an attack, of which the best end is kept."""

import abc
import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import BoundedAttack, Images, Index, KeyArray, Labels
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.threat import expand
from robust_jax.types import View


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


Found = tuple[Images, Bool[Array, " b"], Float[Array, " b"]]
"""The end of a run: images, success, and the loss by which runs compare."""


@dataclasses.dataclass(frozen=True)
class AttackInRuns(BoundedAttack):
    """A bounded attack made of runs (restarts, targets), of which the best end is kept.

    A suite makes the runs one by one, each on the examples that still stand.

    Attributes:
        num_restarts: runs, each with draws of its own.
        parallel: all runs at once, at so many times the memory; in turn (the default) the memory
            is that of one batch.
    """

    num_restarts: int = 1
    parallel: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where there are no runs."""
        super().__post_init__()
        check_counts(self, "num_restarts")

    def reduced(self) -> Self:
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_restarts=1)

    @property
    def num_runs(self) -> int:
        """Returns the number of runs."""
        return self.num_restarts

    def run(
        self,
        number: Any,
        view: View,
        images: Images,
        labels: Labels,
        *,
        key: KeyArray,
        index: Index,
        **watched: bool,
    ) -> Any:
        """Returns the end of one run; of an attack in steps that is `watched` also its path."""
        key = rng.stream(key, "restart", number)
        return self.restart(number, view, images, labels, None, key=key, index=index, **watched)

    @abc.abstractmethod
    def restart(
        self,
        number: Any,
        view: View,
        images: Images,
        labels: Labels,
        targets: Labels | None,
        *,
        key: KeyArray,
        index: Index,
    ) -> Found:
        """Returns the end of one restart, towards a class per example if any is given."""

    def perturb(
        self, view: View, images: Images, labels: Labels, *, key: KeyArray, index: Index
    ) -> Images:
        """Returns the adversarial images."""
        return best_of(
            lambda number: self.run(number, view, images, labels, key=key, index=index),
            self.num_runs,
            images,
            parallel=self.parallel,
        )


@dataclasses.dataclass(frozen=True)
class TargetsInTurn(AttackInRuns):
    """An attack in runs towards each of the likeliest other classes in turn.

    Attributes:
        num_targets: how many classes are tried.
    """

    num_targets: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError where there are no targets."""
        super().__post_init__()
        check_counts(self, "num_targets")

    @property
    def num_runs(self) -> int:
        """Returns the number of targets times that of restarts."""
        return self.num_targets * self.num_restarts

    def run(
        self,
        number: Any,
        view: View,
        images: Images,
        labels: Labels,
        *,
        key: KeyArray,
        index: Index,
        **watched: bool,
    ) -> Any:
        """Returns the end of one restart towards one target."""
        logits = losses.decision(view(images, key=rng.stream(key, "targets")))
        targets = losses.ranked_targets(logits, labels, self.num_targets)
        target, restart = targets[:, number // self.num_restarts], number % self.num_restarts
        key = rng.stream(key, "restart", number)
        return self.restart(restart, view, images, labels, target, key=key, index=index, **watched)
