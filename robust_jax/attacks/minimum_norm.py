"""Attacks that seek the nearest adversarial image, with no bound on its distance."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.base import Attack, BoundedAttack
from robust_jax.attacks.threat import ThreatModel, check_bounds, distance, expand


@dataclasses.dataclass(frozen=True)
class MinimumNormAttack(Attack):
    """An attack that makes the distance small and knows no bound.

    Guarantees:
        Also: where it fails, the clean image is returned, so the distance of every success is
        that of the images returned.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: the labels are classes to reach, not to leave.
    """

    norm: ClassVar[Literal["linf", "l2", "l0"]] = "l2"

    bounds: tuple[float, float] = (0.0, 1.0)
    targeted: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError unless `bounds` is a box."""
        check_bounds(self.bounds)

    @property
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""
        return self.bounds

    def within(self, eps: float, *, norm: Literal["linf", "l2"] | None = None) -> "WithinBall":
        """Returns the bounded attack that keeps what this one finds inside a ball.

        Args:
            eps: radius of the ball.
            norm: its norm; default the norm that the attack makes small.

        Raises:
            ValueError: that is L0, which has no balls here, and no other is given.
        """
        chosen = norm or self.norm
        if chosen == "l0":
            raise ValueError(f"Expected norm={chosen!r} to be one of ['l2', 'linf'].")
        return WithinBall(ThreatModel(chosen, eps, self.bounds), self)

    def succeeded(
        self, logits: Float[Array, "b c"], labels: Int[Array, " b"], confidence: float = 0.0
    ) -> Bool[Array, " b"]:
        """Returns where the goal is reached, by a margin of at least `confidence`."""
        reached = losses.misclassified(logits, labels) != self.targeted
        if confidence == 0:
            return reached
        return reached & (self.margin(logits, labels) >= confidence)

    def margin(self, logits: Float[Array, "b c"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
        """Returns by how much the goal is reached, in logits; negative where it is not."""
        sign = -1 if self.targeted else 1
        return sign * losses.margin(logits, labels)


@dataclasses.dataclass(frozen=True)
class WithinBall(BoundedAttack):
    """A minimum-norm attack's finds inside a ball; elsewhere the clean image.

    Attributes:
        attack: the minimum-norm attack.
    """

    attack: MinimumNormAttack

    def __post_init__(self) -> None:
        """Raises ValueError where the two boxes differ."""
        if self.attack.bounds != self.threat.bounds:
            raise ValueError(f"Expected bounds={self.attack.bounds} to be {self.threat.bounds}.")

    @property
    def targeted(self) -> bool:
        """Returns whether the labels are classes to reach."""
        return self.attack.targeted

    @property
    def needs_logits(self) -> bool:  # type: ignore[override]
        """Returns whether a view that gives probabilities is an error."""
        return self.attack.needs_logits

    def check(self, images: Any) -> None:
        """Raises ValueError where images of this shape do not suit the attack."""
        super().check(images)
        self.attack.check(images)

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
        found = self.attack.perturb(view, images, labels, key=key, index=index)
        inside = self.threat.distance(found, images) <= self.threat.eps
        return jnp.where(expand(inside, images), found, images)


def search_constant(
    run: Any, num_searches: int, initial: float, like: Array, *, growth: float = 10.0
) -> Array:
    """Returns the images of least size over a binary search for a constant per example.

    A constant that succeeded is followed by the mean of it and the largest that failed; one that
    failed by the mean of it and the least that succeeded, or by `growth` times itself where none
    has.

    Args:
        run: function of the search's number and the constants [b] to (images, size), size
            infinite where nothing was found.
        num_searches: number of constants tried.
        initial: the first constant.
        like: the clean images, kept where nothing is found.
        growth: factor while nothing is found.
    """
    rows, dtype = like.shape[:1], like.dtype

    def search(number, carry):
        constant, low, high, best, best_size = carry
        found, size = run(number, constant)
        better = size < best_size
        best = jnp.where(expand(better, best), found, best)
        success = jnp.isfinite(size)
        low = jnp.where(success, low, constant)
        high = jnp.where(success, constant, high)
        constant = jnp.where(jnp.isfinite(high), (low + high) / 2, growth * constant)
        return constant, low, high, best, jnp.where(better, size, best_size)

    infinite = jnp.full(rows, jnp.inf, dtype)
    start = jnp.full(rows, initial, dtype), jnp.zeros(rows, dtype), infinite, like, infinite
    return jax.lax.fori_loop(0, num_searches, search, start)[3]


@dataclasses.dataclass(frozen=True)
class ConstantSearchAttack(MinimumNormAttack):
    """What C&W and EAD have in common: a penalty whose weight is searched for.

    Attributes:
        num_searches: constants tried per example; 1 keeps `initial_constant`.
        num_steps: steps for each constant.
        initial_constant: weight of the classification term in the first search (c).
        confidence: margin of the logits that counts as success (kappa).
    """

    num_searches: int = 9
    num_steps: int = 1000
    initial_constant: float = 1e-3
    confidence: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        for name in ("num_searches", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if not 0 < self.initial_constant < math.inf:
            raise ValueError(f"Expected initial_constant={self.initial_constant} > 0 and finite.")
        if not self.confidence >= 0:
            raise ValueError(f"Expected confidence={self.confidence} >= 0.")

    def shortfall(
        self, logits: Float[Array, "b c"], labels: Int[Array, " b"]
    ) -> Float[Array, " b"]:
        """Returns the logits still missing to success with confidence; never negative."""
        return jnp.maximum(self.confidence - self.margin(logits, labels), 0)


@dataclasses.dataclass(frozen=True)
class CarliniWagner(ConstantSearchAttack):
    """C&W's L2 attack: Adam on |x - x0|^2 + c * (logits missing), in tanh space.

    Every step counts (there is no early abort, whose decision would be the batch's).

    Attributes:
        learning_rate: Adam's.

    References:
        Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017.
    """

    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"Expected learning_rate={self.learning_rate} > 0 and finite.")

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
        del index  # nothing is drawn but by the view
        low, high = self.bounds
        middle, half = (low + high) / 2, (high - low) / 2
        # Just inside the box, where the inverse of tanh is finite.
        origin = jnp.arctanh((images - middle) / half * 0.999999)

        def to_images(free):
            return middle + half * jnp.tanh(free)

        reference = to_images(origin)

        def run(number, constant):
            def objective(change, view_key):
                points = to_images(origin + change)
                logits = losses.decision(view(points, key=view_key))
                square = jnp.sum(((points - reference) ** 2).reshape(len(labels), -1), axis=1)
                total = square + constant * self.shortfall(logits, labels)
                return jnp.sum(total), (points, logits)

            def step(count, carry):
                change, mean, square, best, best_size = carry
                view_key = rng.stream(key, "view", number, count)
                slope, (points, logits) = jax.grad(objective, has_aux=True)(change, view_key)
                size = distance("l2", points, images)
                better = self.succeeded(logits, labels, self.confidence) & (size < best_size)
                best = jnp.where(expand(better, best), points, best)
                best_size = jnp.where(better, size, best_size)
                change, mean, square = adam_step(
                    change, slope, mean, square, count, self.learning_rate
                )
                return change, mean, square, best, best_size

            still = jnp.zeros_like(images)
            nothing = jnp.full(images.shape[:1], jnp.inf, images.dtype)
            # The step after the last judges the last step's point.
            return jax.lax.fori_loop(
                0, self.num_steps + 1, step, (still, still, still, images, nothing)
            )[3:]

        return search_constant(run, self.num_searches, self.initial_constant, images)


def adam_step(
    values: Array, slope: Array, mean: Array, square: Array, count: Array, rate: float
) -> tuple[Array, Array, Array]:
    """Returns values and moments after step `count` (from 0) of Adam, elementwise."""
    mean = 0.9 * mean + 0.1 * slope
    square = 0.999 * square + 0.001 * slope**2
    time = (count + 1).astype(values.dtype)
    unbiased = mean / (1 - 0.9**time)
    scale = jnp.sqrt(square / (1 - 0.999**time)) + 1e-8
    return values - rate * unbiased / scale, mean, square


@dataclasses.dataclass(frozen=True)
class EAD(ConstantSearchAttack):
    """Elastic-net attack: accelerated shrinkage on c * (logits missing) + |d|_2^2 + beta |d|_1.

    Attributes:
        learning_rate: length of the first step; it falls with the square root of the steps left.
        beta: weight of the L1 norm: differences up to beta shrink to zero at every step.
        decision: which success is kept: least elastic-net size "elastic_net", or least "l1".

    References:
        Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples",
        2018 (algorithm 1).
    """

    learning_rate: float = 0.01
    beta: float = 1e-3
    decision: Literal["elastic_net", "l1"] = "elastic_net"

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"Expected learning_rate={self.learning_rate} > 0 and finite.")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"Expected beta={self.beta} >= 0 and finite.")
        if self.decision not in ("elastic_net", "l1"):
            raise ValueError(
                f"Expected decision={self.decision!r} to be one of ['elastic_net', 'l1']."
            )

    def size(
        self, points: Float[Array, "b *shape"], images: Float[Array, "b *shape"]
    ) -> Float[Array, " b"]:
        """Returns what the decision rule makes small."""
        l1 = distance("l1", points, images)
        return l1 if self.decision == "l1" else self.beta * l1 + distance("l2", points, images) ** 2

    def shrink(
        self, points: Float[Array, "b *shape"], images: Float[Array, "b *shape"]
    ) -> Float[Array, "b *shape"]:
        """Returns the points with differences shrunk by beta, in the box (equation 5)."""
        delta = points - images
        shrunk = jnp.sign(delta) * jnp.maximum(jnp.abs(delta) - self.beta, 0)
        return jnp.clip(images + shrunk, *self.bounds)

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
        del index  # nothing is drawn but by the view

        def run(number, constant):
            def objective(ahead, view_key):
                logits = losses.decision(view(ahead, key=view_key))
                square = jnp.sum(((ahead - images) ** 2).reshape(len(labels), -1), axis=1)
                return jnp.sum(square + constant * self.shortfall(logits, labels))

            def step(count, carry):
                points, ahead, best, best_size = carry
                slope = jax.grad(objective)(ahead, rng.stream(key, "view", number, 2 * count))
                time = count.astype(images.dtype)
                rate = self.learning_rate * jnp.sqrt(1 - time / self.num_steps)
                moved = self.shrink(ahead - rate * slope, images)
                ahead = moved + time / (time + 3) * (moved - points)
                judge_key = rng.stream(key, "view", number, 2 * count + 1)
                logits = losses.decision(view(moved, key=judge_key))
                size = self.size(moved, images)
                better = self.succeeded(logits, labels, self.confidence) & (size < best_size)
                best = jnp.where(expand(better, best), moved, best)
                return moved, ahead, best, jnp.where(better, size, best_size)

            nothing = jnp.full(images.shape[:1], jnp.inf, images.dtype)
            return jax.lax.fori_loop(0, self.num_steps, step, (images, images, images, nothing))[2:]

        return search_constant(run, self.num_searches, self.initial_constant, images)
