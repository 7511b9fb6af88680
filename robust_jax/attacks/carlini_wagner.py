"""C&W and EAD: a distance plus a penalty, whose weight is searched for."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.checks import check_counts, check_nonnegative, check_positive
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.runs import Given, Number
from robust_jax.attacks.threat import distance, expand
from robust_jax.checks import one_of
from robust_jax.types import Images, Labels

LARGEST_CONSTANT = 1e10
"""Upper bound of the search before anything has succeeded, as in the authors' code."""


@runtime_checkable
class Search(Protocol):
    """Returns the images found with a constant per example, and their size.

    The size is infinite where nothing was found. `number` is that of the search.
    """

    def __call__(
        self, number: Number, constant: Float[Array, " b"], /
    ) -> tuple[Images, Float[Array, " b"]]: ...


def search_constant(
    run: Search,
    num_searches: int,
    initial: float,
    like: Array,
    *,
    growth: float = 10.0,
    repeat: bool = False,
) -> Array:
    """Returns the images of least size over a binary search for a constant per example.

    A constant that succeeded is followed by the mean of it and the largest that failed; one that
    failed by the mean of it and the least that succeeded, or by `growth` times itself where none
    has. With `repeat` the last is the least that succeeded once more, or `LARGEST_CONSTANT` where
    none has.

    Args:
        run: one search.
        num_searches: number of constants tried.
        initial: the first constant.
        like: the clean images, kept where nothing is found.
        growth: factor while nothing is found.
        repeat: end with the upper bound?
    """
    rows, dtype = like.shape[:1], like.dtype

    def search(number, carry):
        constant, low, high, best, best_size = carry
        if repeat:
            bound = jnp.minimum(high, LARGEST_CONSTANT)
            constant = jnp.where(number == num_searches - 1, bound, constant)
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
        repeat: is the last constant the search's upper bound, the least that succeeded (1e10 where
            none has)? None: with ten searches or more, as in the code of both attacks' authors.
    """

    num_searches: int = 9
    num_steps: int = 1000
    initial_constant: float = 1e-3
    confidence: float = 0.0
    repeat: bool | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_searches", "num_steps")
        check_positive(self, "initial_constant")
        if not self.confidence >= 0:
            raise ValueError(f"Expected confidence={self.confidence} >= 0.")

    def reduced(self) -> "ConstantSearchAttack":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_searches=3, num_steps=100)

    def search(self, run: Search, images: Images) -> Images:
        """Returns the images of least size over the constants, see `search_constant`."""
        repeat = self.num_searches >= 10 if self.repeat is None else self.repeat
        return search_constant(run, self.num_searches, self.initial_constant, images, repeat=repeat)

    def shortfall(self, logits: Float[Array, "b c"], labels: Labels) -> Float[Array, " b"]:
        """Returns the logits still missing to success with confidence; never negative."""
        return jnp.maximum(self.confidence - self.margin(logits, labels), 0)


@dataclasses.dataclass(frozen=True)
class CarliniWagner(ConstantSearchAttack):
    """C&W's L2 attack: Adam on `|x - x0|^2 + c * (logits missing)`, in tanh space.

    Every step counts (there is no early abort, whose decision would be the batch's).

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        num_searches: constants tried per example; 1 keeps `initial_constant`.
        num_steps: steps for each constant.
        initial_constant: weight of the classification term in the first search (c).
        confidence: margin of the logits that counts as success (kappa).
        repeat: is the least that succeeded tried again, last? None: with ten searches or more.
        learning_rate: Adam's.

    Raises:
        ValueError: counts, the constant or the rate are not positive, or kappa is negative.

    Example:
        >>> from robust_jax.attacks import CarliniWagner, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> attack = CarliniWagner(num_searches=3, num_steps=100, initial_constant=1.0)
        >>> found = attack(view, images, labels, key=jax.random.key(0))
        >>> round(jnp.linalg.norm(found - images).item(), 2), found.argmax(1).item()
        (0.07, 1)

    References:
        Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017.
    """

    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_positive(self, "learning_rate")

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        low, high = self.bounds
        middle, half = (low + high) / 2, (high - low) / 2
        # Just inside the box, where the inverse of tanh is finite.
        origin = jnp.arctanh((images - middle) / half * 0.999999)

        def to_images(free):
            # By rounding the ends of tanh may lie beyond the box.
            return jnp.clip(middle + half * jnp.tanh(free), low, high)

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
                gradient, (points, logits) = jax.grad(objective, has_aux=True)(change, view_key)
                size = distance("l2", points, images)
                better = self.succeeded(logits, labels, self.confidence) & (size < best_size)
                best = jnp.where(expand(better, best), points, best)
                best_size = jnp.where(better, size, best_size)
                change, mean, square = adam_step(
                    change, gradient, mean, square, count, self.learning_rate
                )
                return change, mean, square, best, best_size

            still = jnp.zeros_like(images)
            nothing = jnp.full(images.shape[:1], jnp.inf, images.dtype)
            # The step after the last judges the last step's point.
            return jax.lax.fori_loop(
                0, self.num_steps + 1, step, (still, still, still, images, nothing)
            )[3:]

        return self.search(run, images)


def adam_step(
    values: Array, gradient: Array, mean: Array, square: Array, count: Array, rate: float
) -> tuple[Array, Array, Array]:
    """Returns values and moments after step `count` (from 0) of Adam, elementwise."""
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    time = (count + 1).astype(values.dtype)
    unbiased = mean / (1 - 0.9**time)
    scale = jnp.sqrt(square / (1 - 0.999**time)) + 1e-8
    return values - rate * unbiased / scale, mean, square


@dataclasses.dataclass(frozen=True)
class EAD(ConstantSearchAttack):
    """Elastic-net attack: shrinkage on `c * (logits missing) + |d|_2^2 + beta |d|_1`.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        num_searches: constants tried per example; 1 keeps `initial_constant`.
        num_steps: steps for each constant.
        initial_constant: weight of the classification term in the first search (c).
        confidence: margin of the logits that counts as success (kappa).
        repeat: is the least that succeeded tried again, last? None: with ten searches or more.
        learning_rate: length of the first step; it falls with the square root of the steps left.
        beta: weight of the L1 norm: differences up to beta shrink to zero at every step.
        decision: which success is kept: least elastic-net size "elastic_net", or least "l1".

    Raises:
        ValueError: counts, the constant or the rate are not positive, kappa or beta is negative, or
            there is no such decision rule.

    Example:
        >>> from robust_jax.attacks import EAD, as_view
        >>> view = as_view(lambda images: images @ jnp.diag(jnp.asarray([4.0, 1.0])))
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> attack = EAD(num_searches=3, num_steps=100, initial_constant=1.0, beta=0.1)
        >>> found = attack(view, images, labels, key=jax.random.key(0))
        >>> (found != images).tolist(), view(found, key=None).argmax(1).item()  # few pixels
        ([[True, False]], 1)

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
        check_positive(self, "learning_rate")
        check_nonnegative(self, "beta")
        one_of(self, "decision", ("elastic_net", "l1"))

    @property
    def norm(self) -> Literal["l1", "l2"]:
        """Returns the norm that is made small: of the elastic net L2, squared, more than L1."""
        return "l1" if self.decision == "l1" else "l2"

    def size(self, points: Images, images: Images) -> Float[Array, " b"]:
        """Returns what the decision rule makes small."""
        l1 = distance("l1", points, images)
        return l1 if self.decision == "l1" else self.beta * l1 + distance("l2", points, images) ** 2

    def shrink(self, points: Images, images: Images) -> Images:
        """Returns the points with differences shrunk by beta, in the box (equation 5)."""
        delta = points - images
        shrunk = jnp.sign(delta) * jnp.maximum(jnp.abs(delta) - self.beta, 0)
        return jnp.clip(images + shrunk, *self.bounds)

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given

        def run(number, constant):
            def objective(ahead, view_key):
                logits = losses.decision(view(ahead, key=view_key))
                square = jnp.sum(((ahead - images) ** 2).reshape(len(labels), -1), axis=1)
                return jnp.sum(square + constant * self.shortfall(logits, labels))

            def step(count, carry):
                points, ahead, best, best_size = carry
                gradient = jax.grad(objective)(ahead, rng.stream(key, "view", number, 2 * count))
                time = count.astype(images.dtype)
                rate = self.learning_rate * jnp.sqrt(1 - time / self.num_steps)
                moved = self.shrink(ahead - rate * gradient, images)
                ahead = moved + time / (time + 3) * (moved - points)
                judge_key = rng.stream(key, "view", number, 2 * count + 1)
                logits = losses.decision(view(moved, key=judge_key))
                size = self.size(moved, images)
                better = self.succeeded(logits, labels, self.confidence) & (size < best_size)
                best = jnp.where(expand(better, best), moved, best)
                return moved, ahead, best, jnp.where(better, size, best_size)

            nothing = jnp.full(images.shape[:1], jnp.inf, images.dtype)
            return jax.lax.fori_loop(0, self.num_steps, step, (images, images, images, nothing))[2:]

        return self.search(run, images)
