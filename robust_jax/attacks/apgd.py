"""APGD: projected gradient ascent that halves its own step where it stops improving."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import apgd_l1, losses
from robust_jax.attacks.bounded import SegmentedAttack, start_keys
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.runs import Found, Given, Number, Path, Run, keep_better, nothing
from robust_jax.attacks.threat import Norm, ThreatModel, expand, unit_l2
from robust_jax.types import Images, KeyArray, Labels, View

ALPHA = 0.75
"""Weight of the gradient step, of which 1 - alpha is left to the last change (momentum)."""


def checkpoints(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each step k whether k is a checkpoint w_j, and w_j - w_{j-1} there.

    The first checkpoint comes after 22 % of the steps; each later interval is shorter by 3 % of
    the steps, down to 6 %.
    """
    window = max(int(0.22 * num_steps), 1)
    shortest, shrink = max(int(0.06 * num_steps), 1), max(int(0.03 * num_steps), 1)
    is_checkpoint, length = np.zeros(num_steps, bool), np.ones(num_steps, np.int32)
    step = -1
    while step + window < num_steps:
        step += window
        is_checkpoint[step], length[step] = True, window
        window = max(window - shrink, shortest)
    return is_checkpoint, length


def random_start(threat: ThreatModel, images: Images, keys: Key[Array, " b"]) -> Images:
    """Returns a random point on the surface of each ball, clipped to the box.

    In L1, Gaussian noise brought into the ball: a point with few changes.
    """
    shape, dtype = images.shape[1:], images.dtype
    if threat.norm == "l1":
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
        return threat.project(images + noise, images)
    if threat.norm == "linf":
        noise = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1, 1))(keys)
        noise = noise / jnp.max(jnp.abs(noise), axis=tuple(range(1, noise.ndim)), keepdims=True)
    else:
        noise = unit_l2(jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys))
    return threat.project(images + threat.eps * noise, images)


class State(NamedTuple):
    """What algorithm 1 carries from step to step, in its letters; rows are examples."""

    x: Images  # x^(k)
    x_before: Images  # x^(k-1)
    gradient: Images  # of f at x^(k)
    f: Float[Array, " b"]  # f(x^(k))
    eta: Float[Array, " b"]
    x_max: Images
    gradient_max: Images  # at x_max
    f_max: Float[Array, " b"]
    num_rises: Int[Array, " b"]  # steps since the last checkpoint that raised f
    f_max_checkpoint: Float[Array, " b"]  # f_max at the last checkpoint
    eta_was_halved: Bool[Array, " b"]  # at the last checkpoint
    best: Found  # what is returned: a success before a failure, then the larger f
    path: Path | None

    @property
    def ended(self) -> Bool[Array, " b"]:
        """Returns no row: momentum and step belong to where it is, and are not compared."""
        return jnp.zeros(self.f.shape, bool)


def climb(
    view: View,
    images: Images,
    labels: Labels,
    start: Images,
    *,
    loss_fn: losses.Loss,
    threat: ThreatModel,
    num_steps: int,
    rho: float,
    key: KeyArray,
    decide_fn: losses.Decide | None = None,
    watched: bool = False,
) -> Found:
    """Returns the best point on the way of one run of algorithm 1 of Croce and Hein, 2020.

    At a checkpoint w_j the step eta is halved, and the search goes on from x_max, where

    1. sum_{i = w_{j-1}}^{w_j - 1} [f(x^(i+1)) > f(x^(i))] < rho (w_j - w_{j-1}), or
    2. eta and f_max are those of the checkpoint before.

    Args:
        view: the model under attack.
        images: clean images.
        labels: class of each image.
        start: x^(0), in the balls.
        loss_fn: f, which is raised.
        threat: the ball.
        num_steps: N_iter.
        rho: share of steps of an interval that must raise f.
        key: root of the view's draws.
        decide_fn: how a view of an ensemble's members decides, see `losses.evaluate`.
        watched: is the path noted?
    """
    f = jax.eval_shape(
        lambda: losses.evaluate(loss_fn, view, images, labels, key=key, decide_fn=decide_fn)[0]
    )
    state = first_state(start, threat, f, num_steps if watched else None)
    step = algorithm_1(
        view, images, labels, loss_fn=loss_fn, threat=threat, num_steps=num_steps, rho=rho,
        key=key, decide_fn=decide_fn,
    )  # fmt: skip
    state = jax.lax.fori_loop(-1, num_steps, step, state)
    return state.best._replace(path=state.path)


def first_state(
    start: Images, threat: ThreatModel, f: jax.ShapeDtypeStruct, num_watched: int | None = None
) -> State:
    """Returns what algorithm 1 begins with at x^(0); `f` has its losses' shape and dtype."""
    rows, dtype = start.shape[:1], start.dtype
    lowest = jnp.full(rows, -jnp.inf, f.dtype)
    return State(
        x=start,
        x_before=start,
        gradient=jnp.zeros_like(start),
        f=lowest,
        eta=jnp.full(rows, 2 * threat.eps, dtype),
        x_max=start,
        gradient_max=jnp.zeros_like(start),
        f_max=lowest,
        num_rises=jnp.zeros(rows, jnp.int32),
        f_max_checkpoint=lowest,
        eta_was_halved=jnp.ones(rows, bool),
        best=nothing(start, f),
        path=None if num_watched is None else Path.empty(num_watched, f),
    )


def algorithm_1(
    view: View,
    images: Images,
    labels: Labels,
    *,
    loss_fn: losses.Loss,
    threat: ThreatModel,
    num_steps: int,
    rho: float,
    key: KeyArray,
    decide_fn: losses.Decide | None = None,
) -> Callable[[Number, State], State]:
    """Returns step k of algorithm 1, from -1, which evaluates the start alone; see `climb`."""
    is_checkpoint, interval = checkpoints(num_steps)
    # Counts are whole: n <= rho * interval is n <= its floor.
    few = jnp.asarray(np.floor(rho * interval).astype(np.int32))
    is_checkpoint = jnp.asarray(is_checkpoint)
    dtype = images.dtype

    def pick(mask, yes, no):
        return jnp.where(expand(mask, yes), yes, no)

    def moved(k, state):
        alpha = jnp.where(k > 0, ALPHA, 1.0).astype(dtype)  # the first step has no momentum
        climbed = expand(state.eta, images) * threat.steepest(state.gradient)
        z = threat.project(state.x + climbed, images)
        inertia = (1 - alpha) * (state.x - state.x_before)
        return threat.project(state.x + alpha * (z - state.x) + inertia, images)

    def step(k, state):
        # Step -1 only evaluates the start, so that the network is compiled once.
        is_start = k < 0
        x = jnp.where(is_start, state.x, moved(k, state))
        gradient, f, logits = losses.gradient(
            loss_fn, view, x, labels, key=rng.stream(key, "step", k + 1), decide_fn=decide_fn
        )
        success = losses.misclassified(logits, labels)
        higher = f > state.f_max
        x_max = pick(higher, x, state.x_max)
        gradient_max = pick(higher, gradient, state.gradient_max)
        f_max = jnp.where(higher, f, state.f_max)
        # The official code compares the first step's loss with zero, not with the start's.
        rises = f > jnp.where(k == 0, 0, state.f)
        num_rises = jnp.where(rises, state.num_rises + 1, state.num_rises)
        num_rises = jnp.where(is_start, 0, num_rises)

        reviewed = is_checkpoint[k] & ~is_start
        condition_1 = num_rises <= few[k]
        condition_2 = ~state.eta_was_halved & (state.f_max_checkpoint >= f_max)
        stalled = condition_1 | condition_2
        halve = reviewed & stalled
        return State(
            x=pick(halve, x_max, x),
            x_before=state.x,
            gradient=pick(halve, gradient_max, gradient),
            f=f,
            eta=jnp.where(halve, state.eta / 2, state.eta),
            x_max=x_max,
            gradient_max=gradient_max,
            f_max=f_max,
            num_rises=jnp.where(reviewed, 0, num_rises),
            f_max_checkpoint=jnp.where(reviewed | is_start, f_max, state.f_max_checkpoint),
            eta_was_halved=jnp.where(reviewed, stalled, state.eta_was_halved),
            best=keep_better(state.best, Found(x, success, f)),
            path=None if state.path is None else state.path.noted(k + 1, f, success),
        )

    return step


def check_share(rho: float) -> None:
    """Raises ValueError unless rho is a share."""
    if not 0 < rho < 1:
        raise ValueError(f"Expected rho={rho} in (0, 1).")


@dataclasses.dataclass(frozen=True)
class APGD(SegmentedAttack[State]):
    """Auto-PGD: momentum, a step that starts at 2 eps and is halved where it stalls.

    Every restart is from another random point. For a random model attack
    `eot(view, 20, average="gradients")`, as AutoAttack's version "rand" does.

    In L1 it is another algorithm (`apgd_l1.py`): steps of few values, without momentum, in balls
    of three, two and one times eps, as AutoAttack has it. rho has no part in it.

    Attributes:
        threat: the ball.
        num_restarts: runs, each with draws of its own; of so many towards each target.
        parallel: all runs at once, at so many times the memory.
        num_steps: steps of one run (N_iter).
        rho: share of the steps since a checkpoint that must raise the loss, or the step is halved.
        loss: what the steps raise, towards a target in its targeted form.
        num_targets: likeliest other classes that are tried in turn; 0 to leave the label.
        target_order: which of them come first, see `BoundedAttack`.

    Raises:
        ValueError: there is no step, rho is not in (0, 1), or there is no such loss.

    Example:
        >>> from robust_jax.attacks import APGD, ThreatModel, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5], [0.9, 0.5]]), jnp.asarray([0, 0])
        >>> attack = APGD(ThreatModel("l2", eps=0.1), loss="margin", num_steps=20)
        >>> adversarial = attack(view, images, labels, key=jax.random.key(0))
        >>> (view(adversarial, key=None).argmax(1) == labels).mean().item()  # robust accuracy
        0.5

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", 2020 (algorithm 1). "Mind the box: l1-APGD for sparse adversarial
        attacks on image classifiers", 2021.
    """

    in_steps: ClassVar[bool] = True
    first_step: ClassVar[int] = -1  # which evaluates the start
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    num_restarts: int = 1
    parallel: bool = False
    num_steps: int = 100
    rho: float = 0.75
    loss: Literal["cross_entropy", "dlr", "margin", "probability_margin"] = "cross_entropy"
    num_targets: int = 0
    target_order: Literal["logits", "malt"] = "logits"

    def __post_init__(self) -> None:
        """Raises ValueError for steps, restarts, a share or a loss that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_share(self.rho)
        losses.named(self.loss)

    def reduced(self) -> "APGD":
        """Returns the attack with one restart."""
        return self.at_most(num_restarts=1)

    @property
    def in_segments(self) -> bool:
        """Returns whether a run is one of algorithm 1: in L1 it is another, which is not parted."""
        return self.threat.norm != "l1"

    def begin(self, run: Run, given: Given) -> State:
        """Returns what a run begins with, to be gone on with by `advance` from step -1."""
        view, images, labels, root, *_ = given
        key, loss_fn = rng.stream(root, "restart", run.number), losses.named(self.loss, run.target)
        f = jax.eval_shape(
            lambda: losses.evaluate(loss_fn, view, images, labels, key=rng.stream(key, "view"))[0]
        )
        start = random_start(self.threat, given.images, start_keys(key, given.index))
        return first_state(start, self.threat, f, self.num_steps if run.watched else None)

    def advance(self, state: State, first: Number, last: Number, run: Run, given: Given) -> State:
        """Returns the state after the steps from `first` to before `last`, as a run makes them."""
        view, images, labels, key, *_ = given
        key = rng.stream(key, "restart", run.number)
        step = algorithm_1(
            view, images, labels, loss_fn=losses.named(self.loss, run.target), threat=self.threat,
            num_steps=self.num_steps, rho=self.rho, key=rng.stream(key, "view"),
        )  # fmt: skip
        return jax.lax.fori_loop(first, last, step, state)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the best point of one run from one random start."""
        if self.threat.norm != "l1":
            state = self.begin(run, given)
            state = self.advance(state, self.first_step, self.num_steps, run, given)
            return state.best._replace(path=state.path)
        view, images, labels, key, index, _ = given
        key = rng.stream(key, "restart", run.number)
        return apgd_l1.climb(
            view, images, labels, start_keys(key, index), threat=self.threat,
            loss_fn=losses.named(self.loss, run.target), num_steps=self.num_steps,
            key=rng.stream(key, "view"), watched=run.watched,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class APGDT(APGD):
    """APGD on the targeted DLR loss, towards each of the likeliest other classes in turn.

    Attributes:
        num_targets: likeliest other classes tried in turn; the other fields are those of `APGD`.

    Example:
        >>> from robust_jax.attacks import APGDT, ThreatModel
        >>> attack = APGDT(ThreatModel("linf", 8 / 255), num_restarts=2)  # called as `APGD`
        >>> attack.loss, attack.num_targets, attack.num_runs  # a run each restart and target
        ('dlr', 9, 18)

    References:
        Croce and Hein, 2020, as for `APGD` (section 4.1).
    """

    loss: Literal["cross_entropy", "dlr", "margin", "probability_margin"] = "dlr"
    num_targets: int = 9

    def __post_init__(self) -> None:
        """Raises ValueError where there are no targets, too."""
        super().__post_init__()
        check_counts(self, "num_targets")
