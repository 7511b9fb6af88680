"""FMN and DDN: steps in a ball that shrinks while the image is adversarial and grows while not.

Both take one forward and one backward pass a step. `benchmarks/minimum_norm.py` shows them beside
the other attacks and beside adv-lib's; why DDN is here of all its like, `DDN` says.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from robust_jax import rng
from robust_jax.attacks import losses, sparsity
from robust_jax.attacks.checks import check_counts, check_positive
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.runs import Given, Number
from robust_jax.attacks.threat import expand, size, unit_l2
from robust_jax.checks import one_of
from robust_jax.types import Images, Index, KeyArray

BallNorm = Literal["linf", "l2", "l1", "l0_values"]

LEAST_RADIUS = 1e-6
"""FMN's at the start, in widths of the box: an image may lie on the boundary itself."""

_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


class Nearest(NamedTuple):
    """The nearest adversarial images so far.

    Attributes:
        images: they; the clean image where there is none.
        size: norm of their change; infinite where there is none.
    """

    images: Images
    size: Float[Array, " b"]

    @property
    def found(self) -> Bool[Array, " b"]:
        """Returns where there is one."""
        return jnp.isfinite(self.size)

    def or_nearer(
        self, images: Images, size: Float[Array, " b"], success: Bool[Array, " b"]
    ) -> "Nearest":
        """Returns those of other images that are adversarial and nearer, else the same."""
        nearer = success & (size < self.size)
        return Nearest(
            jnp.where(expand(nearer, images), images, self.images),
            jnp.where(nearer, size, self.size),
        )


@dataclasses.dataclass(frozen=True)
class MovingBallAttack(MinimumNormAttack):
    """What FMN and DDN have in common.

    The change of the image is in units of the width of the box, as all lengths are. A step looks
    at the image, keeps it if it is the nearest that is adversarial, moves the radius of the ball,
    follows the gradient, and goes back to the ball and then into the box. Lengths of steps and
    shares by which radii change fall by half a cosine.

    Attributes:
        num_steps: steps; each is a forward and a backward pass.
        step_size: length in L2 of the first step (alpha_0).
        last_step_size: length towards which it falls (alpha_K); None for a hundredth of it.
        change: share by which the first step moves the radius (gamma_0).
    """

    num_steps: int = 500
    step_size: float = 1.0
    last_step_size: float | None = None
    change: float = 0.05

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_steps")
        check_positive(self, "step_size", "last_step_size")
        self.check_share("change")

    def check_share(self, name: str) -> None:
        """Raises ValueError unless a field is a share of a radius that leaves something of it."""
        if not 0 < getattr(self, name) < 1:
            raise ValueError(f"Expected {name}={getattr(self, name)} in (0, 1).")

    def reduced(self) -> "MovingBallAttack":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_steps=100)

    def length(self, number: Number, images: Images) -> Float[Array, ""]:
        """Returns the length of a step."""
        last = self.step_size / 100 if self.last_step_size is None else self.last_step_size
        return self.falling(self.step_size, last, number, images)

    def falling(self, first: float, last: float, number: Number, like: Array) -> Float[Array, ""]:
        """Returns what falls from the first step's value by half a cosine."""
        share = jnp.asarray(number).astype(like.dtype) / self.num_steps
        return last + (first - last) * (1 + jnp.cos(math.pi * share)) / 2

    def farthest(self, images: Images) -> Float[Array, " b"]:
        """Returns how far the farthest image of the box is."""
        low, high = self.bounds
        return size(self.norm, jnp.maximum(images - low, high - images) / (high - low))

    def moved(self, images: Images, delta: Images) -> Images:
        """Returns the images with a change, in the box."""
        low, high = self.bounds
        return jnp.clip(images + (high - low) * delta, low, high)


@dataclasses.dataclass(frozen=True)
class FMN(MovingBallAttack):
    """Fast minimum-norm attack: the margin's gradient, in the ball of any norm.

    The radius falls by a share `change` while the image is adversarial, to the nearest one's
    distance at most, and rises by it while not; until one is known it rises to the distance of the
    linearised boundary, if that is farther. (In the paper it is that distance, and stays where the
    boundary is linear, or behind the box.) In L0 it starts at one value, and is whole.

    In Linf networks that are far from linear want longer steps (`step_size=10.0`).

    Guarantees:
        Also: of the adversarial images on the way the nearest is returned.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        num_steps: steps; each is a forward and a backward pass.
        step_size: length in L2 of the first step (alpha_0), in widths of the box.
        last_step_size: length towards which it falls (alpha_K); None for a hundredth of it.
        change: share by which the first step moves the radius (gamma_0).
        last_change: share towards which `change` falls (gamma_K).
        distance_norm: the norm made small; "l0_values" counts changed channels of pixels.

    Raises:
        ValueError: steps or their lengths are not positive, a share leaves nothing, no such norm.

    Example:
        >>> from robust_jax.attacks import FMN, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> found = FMN(num_steps=100)(view, images, labels, key=jax.random.key(0))
        >>> round(jnp.linalg.norm(found - images).item(), 2), found.argmax(1).item()
        (0.07, 1)

    References:
        Pintor, Roli, Brendel, Biggio, "Fast minimum-norm adversarial attacks through adaptive norm
        constraints", 2021 (algorithm 1, without its start at another class's image).
    """

    last_change: float = 0.001
    distance_norm: BallNorm = "l2"

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        self.check_share("last_change")
        one_of(self, "distance_norm", get_args(BallNorm))

    @property
    def norm(self) -> BallNorm:
        """Returns the norm that is made small."""
        return self.distance_norm

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        width, farthest = self.bounds[1] - self.bounds[0], self.farthest(images)

        def step(number, carry):
            points, radius, nearest = carry
            delta = (points - images) / width
            gradient, margin, logits = losses.gradient(
                self.margin, view, points, labels, key=rng.stream(key, "view", number)
            )
            success, length = self.succeeded(logits, labels), size(self.norm, delta)
            nearest = nearest.or_nearer(points, length, success)

            share = self.falling(self.change, self.last_change, number, images)
            if self.norm == "l0_values":
                fewer = jnp.minimum(radius - 1, jnp.floor(radius * (1 - share)))
                more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + share)))
            else:
                slope = jnp.maximum(size(_DUAL[self.norm], gradient * width), 1e-12)
                fewer, more = radius * (1 - share), radius * (1 + share)
                boundary = length + jnp.abs(margin) / slope
                more = jnp.where(nearest.found, more, jnp.maximum(more, boundary))
            radius = jnp.where(success, jnp.minimum(fewer, nearest.size), more)
            radius = jnp.clip(radius, 0, farthest)

            delta = delta + self.length(number, images) * unit_l2(gradient)
            return self.moved(images, in_ball(self.norm, delta, radius)), radius, nearest

        nothing = jnp.full(labels.shape, jnp.inf, images.dtype)
        radius = jnp.full_like(nothing, 1 if self.norm == "l0_values" else LEAST_RADIUS)
        start = images, radius, Nearest(images, nothing)
        return jax.lax.fori_loop(0, self.num_steps, step, start)[2].images


def in_ball(norm: BallNorm, delta: Images, radius: Float[Array, " b"]) -> Images:
    """Returns the change of each image that is nearest to its own in the ball, without the box.

    In L0 at least one value stays, and of equal ones all do.
    """
    if norm == "linf":
        return jnp.clip(delta, -expand(radius, delta), expand(radius, delta))
    if norm == "l2":
        length = size("l2", delta)
        return delta * expand(jnp.minimum(1, radius / jnp.where(length > 0, length, 1)), delta)
    lengths = jnp.abs(delta).reshape(len(delta), -1)
    if norm == "l1":
        kept = sparsity.shrunk(lengths, jnp.full_like(lengths, jnp.inf), radius)
        return jnp.sign(delta) * kept.reshape(delta.shape)
    number = jnp.maximum(radius, 1).astype(jnp.int32)
    kept = sparsity.at_least_the_largest(lengths, number)
    return jnp.where(kept.reshape(delta.shape), delta, 0)


@dataclasses.dataclass(frozen=True)
class DDN(MovingBallAttack):
    """Decoupled direction and norm: the cross-entropy's gradient, on a sphere in L2.

    The radius falls by a share `change` while the image is adversarial and rises by it while not.
    Where the gradient is zero the direction is drawn.

    Of DDN, ALMA, PDPGD and SuperDeepFool it is here by AttackBench's results (mean optimality at
    2,000 passes on five networks of CIFAR-10 and four of ImageNet). In L2 DDN without levels is
    first of all attacks, .929 and .986; FMN has .908 and .970, and on CIFAR-10 ALMA .760, PDPGD
    .759, DDN with levels .885. PDPGD is before FMN in L1, .932 and .973 to .904 and .889, and level
    with it in Linf, .908 and .982 to .904 and .982. SuperDeepFool takes no part.

    Guarantees:
        Also: of the adversarial images on the way the nearest is returned.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: are the labels classes to reach, not to leave?
        num_steps: steps; each is a forward and a backward pass.
        step_size: length in L2 of the first step (alpha_0), in widths of the box.
        last_step_size: length towards which it falls (alpha_K); None for a hundredth of it.
        change: share by which the first step moves the radius (gamma_0).
        first_radius: radius of the sphere at the start.
        levels: to how many values of a pixel images are rounded; None for any.

    Raises:
        ValueError: steps, their lengths or the radius are not positive, a share leaves nothing, or
            there are fewer than two levels.

    Example:
        >>> from robust_jax.attacks import DDN, as_view
        >>> view = as_view(lambda images: images)  # two pixels, two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5]]), jnp.asarray([0])
        >>> found = DDN(num_steps=100)(view, images, labels, key=jax.random.key(0))
        >>> round(jnp.linalg.norm(found - images).item(), 2), found.argmax(1).item()
        (0.07, 1)

    References:
        Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger, "Decoupling direction and norm for
        efficient gradient-based L2 adversarial attacks and defenses", 2019 (algorithm 1).
        Cina, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed, Roli, "AttackBench: evaluating
        gradient-based attacks for adversarial examples", 2025 (attackbench/AttackBench, cb475a2,
        compiled/cifar10).
    """

    first_radius: float = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_positive(self, "first_radius")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"Expected levels={self.levels} >= 2.")

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, index, _ = given
        (low, high), farthest = self.bounds, self.farthest(images)
        raised = losses.named("cross_entropy")
        raised = losses.negated(raised) if self.targeted else raised

        def step(number, carry):
            points, radius, nearest = carry
            delta = (points - images) / (high - low)
            gradient, _, logits = losses.gradient(
                raised, view, points, labels, key=rng.stream(key, "view", number)
            )
            success = self.succeeded(logits, labels)
            nearest = nearest.or_nearer(points, size("l2", delta), success)
            flat = jnp.max(jnp.abs(gradient.reshape(len(gradient), -1)), axis=1) == 0
            drawn = self.direction(rng.stream(key, "direction", number), index, images)
            gradient = jnp.where(expand(flat, gradient), drawn, gradient)

            radius = radius * jnp.where(success, 1 - self.change, 1 + self.change)
            radius = jnp.minimum(radius, farthest)
            delta = delta + self.length(number, images) * unit_l2(gradient)
            points = self.moved(images, expand(radius, delta) * unit_l2(delta))
            if self.levels is not None:
                steps = (self.levels - 1) / (high - low)
                points = jnp.clip(low + jnp.round((points - low) * steps) / steps, low, high)
            return points, radius, nearest

        nothing = jnp.full(labels.shape, jnp.inf, images.dtype)
        radius = jnp.full_like(nothing, self.first_radius)
        start = images, radius, Nearest(images, nothing)
        return jax.lax.fori_loop(0, self.num_steps, step, start)[2].images

    def direction(self, key: KeyArray, index: Index, images: Images) -> Images:
        """Returns a direction for each image."""
        shape, dtype = images.shape[1:], images.dtype
        keys = rng.per_example(key, index)
        return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
