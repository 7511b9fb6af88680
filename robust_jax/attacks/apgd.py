"""APGD: projected gradient ascent that halves its own step where it stops improving."""

import abc
import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Images, Index, KeyArray, Labels, start_keys
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.runs import AttackInRuns, TargetsInTurn, keep_better
from robust_jax.attacks.threat import ThreatModel, expand, unit_l2
from robust_jax.attacks.trajectories import Path, Trajectory, empty_path, followed, noted
from robust_jax.types import View


def checkpoints(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each step whether the step size is reviewed after it, and over how many steps.

    The first review comes after 22 % of the steps; each later interval is shorter by 3 % of the
    steps, down to 6 %.
    """
    window = max(int(0.22 * num_steps), 1)
    shortest, shrink = max(int(0.06 * num_steps), 1), max(int(0.03 * num_steps), 1)
    review, length = np.zeros(num_steps, bool), np.ones(num_steps, np.int32)
    step = -1
    while step + window < num_steps:
        step += window
        review[step], length[step] = True, window
        window = max(window - shrink, shortest)
    return review, length


def random_start(threat: ThreatModel, images: Images, keys: Key[Array, " b"]) -> Images:
    """Returns a random point on the surface of each ball, clipped to the box."""
    shape, dtype = images.shape[1:], images.dtype
    if threat.norm == "linf":
        noise = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1, 1))(keys)
        noise = noise / jnp.max(jnp.abs(noise), axis=tuple(range(1, noise.ndim)), keepdims=True)
    else:
        noise = unit_l2(jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys))
    return threat.project(images + threat.eps * noise, images)


class _State(NamedTuple):
    """What APGD carries from step to step; the rows of every array are examples."""

    points: Array
    previous: Array
    slope: Array
    step_size: Array
    best: tuple[Array, Array, Array]  # images, success, loss: what is returned
    highest: tuple[Array, ...]  # images, gradient, loss of the largest loss so far
    last_loss: Array
    num_rises: Array
    was_reduced: Array
    reviewed_loss: Array
    path: Path | None


def climb(
    view: View,
    images: Images,
    labels: Labels,
    start: Images,
    *,
    loss_fn: Any,
    threat: ThreatModel,
    num_steps: int,
    rho: float,
    key: KeyArray,
    decide_fn: Any = None,
    watched: bool = False,
) -> Any:
    """Returns the best point on the way of one run, whether it is misclassified, and its loss.

    Where the run is `watched`: these three, and its path.
    """
    review, window = checkpoints(num_steps)
    # Counts are whole: n <= rho * window is n <= its floor.
    review, few = jnp.asarray(review), jnp.asarray(np.floor(rho * window).astype(np.int32))
    rows = images.shape[:1]
    dtype = images.dtype

    def move(state, number):
        inertia = jnp.where(number > 0, 0.25, 0.0).astype(dtype)
        step = expand(state.step_size, images) * threat.steepest(state.slope)
        ahead = threat.project(state.points + step, images) - state.points
        return threat.project(
            state.points + (1 - inertia) * ahead + inertia * (state.points - state.previous),
            images,
        )

    def pick(mask, yes, no):
        return jnp.where(expand(mask, yes), yes, no)

    def step(number, state):
        # Number -1 only evaluates the start, so that the network is compiled once.
        points = jnp.where(number < 0, start, move(state, number))
        slope, loss, logits = losses.gradient(
            loss_fn,
            view,
            points,
            labels,
            key=rng.stream(key, "step", number + 1),
            decide_fn=decide_fn,
        )
        success = losses.misclassified(logits, labels)
        best = keep_better(state.best, (points, success, loss))
        higher = loss > state.highest[2]
        highest = tuple(
            pick(higher, new, old)
            for new, old in zip((points, slope, loss), state.highest, strict=True)
        )
        # The official code compares the first step's loss with zero, not with the start's.
        last_loss = jnp.where(number == 0, 0, state.last_loss)
        num_rises = jnp.where(loss > last_loss, state.num_rises + 1, state.num_rises)
        num_rises = jnp.where(number < 0, 0, num_rises)
        now = (number >= 0) & review[number]
        stalled = num_rises <= few[number]
        stuck = ~state.was_reduced & (state.reviewed_loss >= highest[2])
        reduce = now & (stalled | stuck)
        first = number < 0
        return _State(
            points=pick(reduce, highest[0], points),
            previous=jnp.where(first, start, state.points),
            slope=pick(reduce, highest[1], slope),
            step_size=jnp.where(reduce, state.step_size / 2, state.step_size),
            best=best,
            highest=highest,
            last_loss=loss,
            num_rises=jnp.where(now, 0, num_rises),
            was_reduced=jnp.where(now, stalled | stuck, state.was_reduced),
            reviewed_loss=jnp.where(now | first, highest[2], state.reviewed_loss),
            path=noted(state.path, number + 1, loss, success),
        )

    loss_type = jax.eval_shape(
        lambda: losses.evaluate(loss_fn, view, images, labels, key=key, decide_fn=decide_fn)[0]
    )
    lowest = jnp.full(rows, -jnp.inf, loss_type.dtype)
    state = _State(
        points=start,
        previous=start,
        slope=jnp.zeros_like(images),
        step_size=jnp.full(rows, 2 * threat.eps, dtype),
        best=(start, jnp.zeros(rows, bool), lowest),
        highest=(start, jnp.zeros_like(images), lowest),
        last_loss=lowest,
        num_rises=jnp.zeros(rows, jnp.int32),
        was_reduced=jnp.ones(rows, bool),
        reviewed_loss=lowest,
        path=empty_path(num_steps, loss_type) if watched else None,
    )
    state = jax.lax.fori_loop(-1, num_steps, step, state)
    return (state.best, state.path) if watched else state.best


@dataclasses.dataclass(frozen=True)
class APGDBase(AttackInRuns):
    """What APGD and APGDT have in common; every restart is from another random point.

    Attributes:
        num_steps: steps of one run.
        rho: the step is halved unless more than this share of the steps since the last review
            raised the loss.
    """

    num_steps: int = 100
    rho: float = 0.75

    def __post_init__(self) -> None:
        """Raises ValueError for steps, restarts or a share that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        if not 0 < self.rho < 1:
            raise ValueError(f"Expected rho={self.rho} in (0, 1).")

    @abc.abstractmethod
    def loss_fn(self, targets: Labels | None) -> losses.Loss:
        """Returns the loss to raise, towards a class per example if any is given."""

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
        watched: bool = False,
    ) -> Any:
        """Returns the best point of one run from one random start, its success and its loss."""
        del number  # every start is a draw
        loss_fn = self.loss_fn(targets)
        return self.raise_loss(
            view, images, labels, loss_fn=loss_fn, key=key, index=index, watched=watched
        )

    def follow(
        self, view: View, images: Images, labels: Labels, *, key: KeyArray, index: Index
    ) -> Trajectory:
        """Returns the adversarial images and the way to them."""

        def run(number: Any) -> Any:
            return self.run(number, view, images, labels, key=key, index=index, watched=True)

        return followed(run, self.num_runs, images)

    def raise_loss(
        self,
        view: View,
        images: Images,
        labels: Labels,
        *,
        loss_fn: Any,
        key: KeyArray,
        index: Index,
        decide_fn: Any = None,
        watched: bool = False,
    ) -> Any:
        """Returns the same for any loss, and any decision of a view of members."""
        return climb(
            view,
            images,
            labels,
            random_start(self.threat, images, start_keys(key, index)),
            loss_fn=loss_fn,
            threat=self.threat,
            num_steps=self.num_steps,
            rho=self.rho,
            key=rng.stream(key, "view"),
            decide_fn=decide_fn,
            watched=watched,
        )


@dataclasses.dataclass(frozen=True)
class APGD(APGDBase):
    """Auto-PGD: momentum, a step that starts at 2 eps and is halved at reviews, best point kept.

    For a random model attack `eot(view, 20, average="gradients")`, as AutoAttack's version
    "rand" does.

    Attributes:
        loss: what the steps raise.

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020 (algorithm 1).
    """

    loss: Literal["cross_entropy", "dlr", "margin"] = "cross_entropy"

    def loss_fn(self, targets: Labels | None) -> losses.Loss:
        """Returns the loss to raise."""
        del targets  # there are none
        return losses.named(self.loss)


@dataclasses.dataclass(frozen=True)
class APGDT(TargetsInTurn, APGDBase):
    """APGD on the targeted DLR loss, towards each of the likeliest other classes in turn.

    References:
        Croce and Hein, 2020, as for `APGD` (section 4.1).
    """

    def loss_fn(self, targets: Labels | None) -> losses.Loss:
        """Returns the loss to raise."""
        assert targets is not None  # every run has some
        return losses.targeted_dlr(targets)
