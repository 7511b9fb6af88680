"""Attacks that follow the gradient of a loss with steps of fixed length."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import BoundedAttack, start_keys
from robust_jax.attacks.runs import best_of, keep_better
from robust_jax.attacks.threat import expand

LossName = Literal["cross_entropy", "dlr", "margin"]


@dataclasses.dataclass(frozen=True)
class StepAttack(BoundedAttack):
    """An attack by repeated steps of fixed length; what FGSM, BIM, MIM and PGD have in common.

    Attributes:
        loss: what the steps raise (of a targeted attack: lower).
        targeted: the labels are classes to reach, not to leave.
    """

    loss: LossName = "cross_entropy"
    targeted: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown loss."""
        losses.named(self.loss)

    def loss_fn(self) -> losses.Loss:
        """Returns the loss to raise."""
        loss_fn = losses.named(self.loss)
        return losses.negated(loss_fn) if self.targeted else loss_fn

    def succeeded(self, logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Bool[Array, " b"]:
        """Returns where the attack has reached its goal."""
        return losses.misclassified(logits, labels) != self.targeted


def climb(
    attack: StepAttack,
    view: Any,
    images: Float[Array, "b *shape"],
    labels: Int[Array, " b"],
    *,
    key: Key[Array, ""],
    index: Int[Array, " b"],
    num_steps: int,
    step_size: Any,
    eps: Float[Array, " b"] | None = None,
    decay: float | None = None,
    random_start: bool = False,
    num_restarts: int = 1,
    keep: Literal["best", "last"] = "last",
    parallel_restarts: bool = False,
) -> Float[Array, "b *shape"]:
    """Returns the images after steps x <- project(x + step_size * steepest(direction)).

    The direction is the gradient, or with `decay` the running sum of gradients, each divided by
    its mean absolute value. Restarts keep the better end point (`keep_better`); with
    keep="best" every point on the way competes, the start included. `eps` and `step_size` may be
    one number per example.
    """
    return best_of(
        climber(
            attack,
            view,
            images,
            labels,
            key=key,
            index=index,
            num_steps=num_steps,
            step_size=step_size,
            eps=eps,
            decay=decay,
            random_start=random_start,
            compares=num_restarts > 1,
            keep=keep,
        ),
        num_restarts,
        images,
        parallel=parallel_restarts,
    )


def climber(
    attack: StepAttack,
    view: Any,
    images: Float[Array, "b *shape"],
    labels: Int[Array, " b"],
    *,
    key: Key[Array, ""],
    index: Int[Array, " b"],
    num_steps: int,
    step_size: Any,
    eps: Float[Array, " b"] | None,
    decay: float | None,
    random_start: bool,
    compares: bool,
    keep: str,
) -> Any:
    """Returns the function of a restart's number to the end of its steps, see `climb`.

    The end is (images, success, loss); with keep="last" the last two are None unless they are
    compared, which spares a forward pass.
    """
    threat, loss_fn = attack.threat, attack.loss_fn()
    if eps is not None:
        step_size = expand(jnp.broadcast_to(step_size, labels.shape), images)

    def judge(points, view_key):
        values, logits = losses.evaluate(loss_fn, view, points, labels, key=view_key)
        return points, attack.succeeded(logits, labels), values

    def run(restart) -> Any:
        view_key = rng.stream(key, "view", restart)
        start = images
        if random_start:
            start = threat.sample(images, start_keys(key, index, restart), eps=eps)

        def step(number, carry):
            points, momentum, best = carry
            slope, values, logits = losses.gradient(
                loss_fn, view, points, labels, key=rng.stream(view_key, "step", number)
            )
            if keep == "best":
                best = keep_better(best, (points, attack.succeeded(logits, labels), values))
            if decay is not None:
                size = jnp.mean(jnp.abs(slope.reshape(slope.shape[0], -1)), axis=1)
                momentum = decay * momentum + slope / expand(jnp.where(size > 0, size, 1), slope)
                slope = momentum
            points = threat.project(points + step_size * threat.steepest(slope), images, eps=eps)
            return points, momentum, best

        momentum = None if decay is None else jnp.zeros_like(images)
        best = nothing(start) if keep == "best" else None
        points, _, best = jax.lax.fori_loop(0, num_steps, step, (start, momentum, best))
        if best is None and not compares:
            return points, None, None
        end = judge(points, rng.stream(view_key, "end"))
        return end if best is None else keep_better(best, end)

    def nothing(start):
        shape = jax.eval_shape(lambda: judge(start, key)[2])
        return start, jnp.zeros(shape.shape, bool), jnp.full(shape.shape, -jnp.inf, shape.dtype)

    return run


@dataclasses.dataclass(frozen=True)
class FGSM(StepAttack):
    """One step of length eps.

    References:
        Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015.
    """

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
        return climb(
            self,
            view,
            images,
            labels,
            key=key,
            index=index,
            num_steps=1,
            step_size=self.threat.eps,
        )


def check_steps(num_steps: int, step_size: float | None) -> None:
    """Raises ValueError unless there are steps and they have a length."""
    if num_steps < 1:
        raise ValueError(f"Expected num_steps={num_steps} >= 1.")
    if step_size is not None and not 0 < step_size < float("inf"):
        raise ValueError(f"Expected step_size={step_size} > 0 and finite.")


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
        check_steps(self.num_steps, self.step_size)

    def length(self) -> float:
        """Returns the length of a step."""
        return self.threat.eps / self.num_steps if self.step_size is None else self.step_size

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
        return climb(
            self,
            view,
            images,
            labels,
            key=key,
            index=index,
            num_steps=self.num_steps,
            step_size=self.length(),
        )


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
        return climb(
            self,
            view,
            images,
            labels,
            key=key,
            index=index,
            num_steps=self.num_steps,
            step_size=self.length(),
            decay=self.decay,
        )


@dataclasses.dataclass(frozen=True)
class PGD(StepAttack):
    """Steps from random points of the ball.

    Attributes:
        num_steps: number of steps.
        step_size: length of a step; None is 2.5 * eps / num_steps (Madry et al.).
        random_start: start from a uniform draw of the ball rather than from the clean image.
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
    num_restarts: int = 1
    keep: Literal["best", "last"] = "best"
    parallel_restarts: bool = False
    min_probability: float = 0.0

    def succeeded(self, logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Bool[Array, " b"]:
        """Returns where the attack has reached its goal with the probability asked for."""
        reached = super().succeeded(logits, labels)
        if self.min_probability == 0:
            return reached
        return reached & (jnp.max(jax.nn.softmax(logits), axis=1) >= self.min_probability)

    def __post_init__(self) -> None:
        """Raises ValueError for steps or restarts that make no sense."""
        super().__post_init__()
        check_steps(self.num_steps, self.step_size)
        if self.num_restarts < 1:
            raise ValueError(f"Expected num_restarts={self.num_restarts} >= 1.")
        if self.num_restarts > 1 and not self.random_start:
            raise ValueError(
                f"Expected num_restarts={self.num_restarts} to be 1 where random_start=False: "
                "every restart would be the same."
            )
        if not 0 <= self.min_probability < 1:
            raise ValueError(f"Expected min_probability={self.min_probability} in [0, 1).")
        if self.keep not in ("best", "last"):
            raise ValueError(f"Expected keep={self.keep!r} to be one of ['best', 'last'].")

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
        step_size = self.step_size
        if step_size is None:
            step_size = 2.5 * self.threat.eps / self.num_steps
        return climb(
            self,
            view,
            images,
            labels,
            key=key,
            index=index,
            num_steps=self.num_steps,
            step_size=step_size,
            random_start=self.random_start,
            num_restarts=self.num_restarts,
            keep=self.keep,
            parallel_restarts=self.parallel_restarts,
        )
