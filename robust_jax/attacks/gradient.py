"""Attacks that follow the gradient of a loss with steps of fixed length."""

import abc
import dataclasses
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Images, Index, KeyArray, Labels, LossAttack, start_keys
from robust_jax.attacks.checks import check_choice, check_counts, check_positive
from robust_jax.attacks.runs import best_of, keep_better
from robust_jax.attacks.threat import expand
from robust_jax.attacks.trajectories import Trajectory, empty_path, followed, noted
from robust_jax.types import View


class Steps(NamedTuple):
    """How a `StepAttack` climbs: x <- project(x + step_size * steepest(direction)).

    Attributes:
        num_steps: steps of one run, a number that may be traced unless the run is watched.
        step_size: length of a step, or one length per example.
        decay: the direction is the gradient, or with a decay the running sum of gradients, each
            divided by its mean absolute value.
        random_start: start from a draw of the ball?
        start_sigma: the draw is Gaussian around the clean image, with this standard deviation, and
            projected; None for a uniform one.
        num_restarts: runs, of which the better end is kept (`keep_better`).
        keep: "best": every point on the way competes, the start included; "last": the last one.
        parallel_restarts: all runs at once.
    """

    num_steps: Any
    step_size: Any
    decay: float | None = None
    random_start: bool = False
    start_sigma: float | None = None
    num_restarts: int = 1
    keep: Literal["best", "last"] = "last"
    parallel_restarts: bool = False


@dataclasses.dataclass(frozen=True)
class StepAttack(LossAttack):
    """An attack by repeated steps of fixed length; what FGSM, BIM, MIM and PGD have in common."""

    def __post_init__(self) -> None:
        """Raises ValueError for a loss without gradient at the start."""
        super().__post_init__()
        if self.loss == "kl" and not getattr(self, "random_start", False):
            raise ValueError(
                "Expected loss='kl' with random_start=True: it has no gradient at the clean image."
            )

    @abc.abstractmethod
    def steps(self) -> Steps:
        """Returns how the attack climbs."""

    def reduced(self) -> Self:
        """Returns the attack at the small budget of a trial."""
        return self

    def attacked(self, view: View, index: Index) -> Any:
        """Returns the view whose gradient is followed."""
        del index
        return view

    def perturb(
        self, view: View, images: Images, labels: Labels, *, key: KeyArray, index: Index
    ) -> Images:
        """Returns the adversarial images."""
        steps, view = self.steps(), self.attacked(view, index)
        run = climber(self, steps, view, images, labels, key=key, index=index)
        return best_of(run, steps.num_restarts, images, parallel=steps.parallel_restarts)

    def follow(
        self, view: View, images: Images, labels: Labels, *, key: KeyArray, index: Index
    ) -> Trajectory:
        """Returns the adversarial images and the way to them."""
        steps, view = self.steps(), self.attacked(view, index)
        run = climber(self, steps, view, images, labels, key=key, index=index, watched=True)
        return followed(run, steps.num_restarts, images)


def climber(
    attack: StepAttack,
    steps: Steps,
    view: View,
    images: Images,
    labels: Labels,
    *,
    key: KeyArray,
    index: Index,
    eps: Float[Array, " b"] | None = None,
    loss_fn: losses.Loss | None = None,
    watched: bool = False,
) -> Any:
    """Returns the function of a run's number to its end: images, success, loss.

    With keep="last" the last two are None unless runs are compared, which spares a forward pass.
    `eps` is the radius of each example's ball in place of the attack's, `loss_fn` what is raised
    in place of the attack's loss. Where it is `watched` the function returns (end, path).
    """
    threat, step_size = attack.threat, steps.step_size
    loss_fn = loss_fn or attack.loss_fn(view, images, key=key)
    if eps is not None:
        step_size = expand(jnp.broadcast_to(step_size, labels.shape), images)

    def judge(points, view_key):
        values, logits = losses.evaluate(loss_fn, view, points, labels, key=view_key)
        return points, attack.succeeded(logits, labels), values

    def run(restart) -> Any:
        view_key = rng.stream(key, "view", restart)
        start = images
        if steps.random_start:
            keys = start_keys(key, index, restart)
            if steps.start_sigma is None:
                start = threat.sample(images, keys, eps=eps)
            else:
                noise = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(
                    keys
                )
                start = threat.project(images + steps.start_sigma * noise, images, eps=eps)

        def step(number, carry):
            points, momentum, best, path = carry
            slope, values, logits = losses.gradient(
                loss_fn, view, points, labels, key=rng.stream(view_key, "step", number)
            )
            success = attack.succeeded(logits, labels)
            path = noted(path, number, values, success)
            if steps.keep == "best":
                best = keep_better(best, (points, success, values))
            if steps.decay is not None:
                size = jnp.mean(jnp.abs(slope.reshape(slope.shape[0], -1)), axis=1)
                slope = slope / expand(jnp.where(size > 0, size, 1), slope)
                slope = momentum = steps.decay * momentum + slope
            points = threat.project(points + step_size * threat.steepest(slope), images, eps=eps)
            return points, momentum, best, path

        momentum = None if steps.decay is None else jnp.zeros_like(images)
        best = nothing(start) if steps.keep == "best" else None
        path = empty_path(steps.num_steps, loss_type()) if watched else None
        points, _, best, path = jax.lax.fori_loop(
            0, steps.num_steps, step, (start, momentum, best, path)
        )
        if best is None and steps.num_restarts == 1 and path is None:
            return points, None, None
        end = judge(points, rng.stream(view_key, "end"))
        path = noted(path, steps.num_steps, end[2], end[1])
        end = end if best is None else keep_better(best, end)
        return end if path is None else (end, path)

    def loss_type():
        return jax.eval_shape(lambda: judge(images, key)[2])

    def nothing(start):
        shape = loss_type()
        return start, jnp.zeros(shape.shape, bool), jnp.full(shape.shape, -jnp.inf, shape.dtype)

    return run


@dataclasses.dataclass(frozen=True)
class FGSM(StepAttack):
    """One step of length eps.

    References:
        Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015.
    """

    def steps(self) -> Steps:
        """Returns the one step."""
        return Steps(1, self.threat.eps)


@dataclasses.dataclass(frozen=True)
class BIM(StepAttack):
    """Steps from the clean image; the last iterate.

    Attributes:
        num_steps: number of steps.
        step_size: length of a step; None is eps / num_steps.

    References:
        Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017.
    """

    num_steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for steps that make no sense."""
        super().__post_init__()
        check_steps(self)

    def steps(self) -> Steps:
        """Returns the steps."""
        length = self.threat.eps / self.num_steps if self.step_size is None else self.step_size
        return Steps(self.num_steps, length)


def check_steps(config: Any) -> None:
    """Raises ValueError unless there are steps and they have a length."""
    check_counts(config, "num_steps")
    if config.step_size is not None:
        check_positive(config, "step_size")


@dataclasses.dataclass(frozen=True)
class MIM(BIM):
    """BIM along a running sum of gradients, each divided by its mean absolute value.

    CleverHans divides by the mean, the paper by the sum of absolute values: the sum differs by a
    factor, and the steps not at all.

    Attributes:
        decay: what is left of the sum at each step.

    References:
        Dong et al., "Boosting adversarial attacks with momentum", 2018.
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a decay that makes no sense."""
        super().__post_init__()
        if not 0 <= self.decay < float("inf"):
            raise ValueError(f"Expected decay={self.decay} >= 0 and finite.")

    def steps(self) -> Steps:
        """Returns the steps, with momentum."""
        return super().steps()._replace(decay=self.decay)


@dataclasses.dataclass(frozen=True)
class PGD(StepAttack):
    """Steps from random points of the ball.

    Attributes:
        num_steps: number of steps.
        step_size: length of a step; None is 2.5 * eps / num_steps (Madry et al.).
        random_start: start from a draw of the ball rather than from the clean image.
        start_sigma: standard deviation of a Gaussian draw around the clean image (.001 in TRADES
            and MART); None for a uniform draw of the ball.
        num_restarts: number of starts, of which the best end is kept.
        keep: "best": of all points on the way the best one (a success before a failure, then the
            larger loss; one more forward pass); "last": the last point, as most papers did.
        parallel_restarts: all restarts at once. Costs `num_restarts` times the memory; in turn
            (the default) the memory is that of one batch.
        min_probability: softmax probability of the wrong (targeted: the reached) class that
            counts as success; high-confidence PGD has .9.

    References:
        Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.
    """

    num_steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    start_sigma: float | None = None
    num_restarts: int = 1
    keep: Literal["best", "last"] = "best"
    parallel_restarts: bool = False
    min_probability: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for steps or restarts that make no sense."""
        super().__post_init__()
        check_steps(self)
        check_counts(self, "num_restarts")
        if self.start_sigma is not None:
            check_positive(self, "start_sigma")
            if not self.random_start:
                raise ValueError(f"Expected start_sigma={self.start_sigma} with random_start=True.")
        if self.num_restarts > 1 and not self.random_start:
            raise ValueError(
                f"Expected num_restarts={self.num_restarts} to be 1 where random_start=False: "
                "every restart would be the same."
            )
        if not 0 <= self.min_probability < 1:
            raise ValueError(f"Expected min_probability={self.min_probability} in [0, 1).")
        check_choice(self, "keep", ("best", "last"))

    def reduced(self) -> Self:
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_restarts=1)

    def succeeded(self, logits: Float[Array, "b c"], labels: Labels) -> Bool[Array, " b"]:
        """Returns where the attack has reached its goal with the probability asked for."""
        reached = super().succeeded(logits, labels)
        if self.min_probability == 0:
            return reached
        return reached & (jnp.max(jax.nn.softmax(logits), axis=1) >= self.min_probability)

    def steps(self) -> Steps:
        """Returns the steps."""
        step_size = self.step_size
        if step_size is None:
            step_size = 2.5 * self.threat.eps / self.num_steps
        return Steps(
            self.num_steps,
            step_size,
            random_start=self.random_start,
            start_sigma=self.start_sigma,
            num_restarts=self.num_restarts,
            keep=self.keep,
            parallel_restarts=self.parallel_restarts,
        )
