"""JSMA: few features, each changed much, in pairs that a saliency map picks."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.minimum_norm import MinimumNormAttack
from robust_jax.attacks.runs import Given
from robust_jax.checks import one_of
from robust_jax.types import Images


@dataclasses.dataclass(frozen=True)
class JSMA(MinimumNormAttack):
    """Jacobian saliency map attack: pairs of features moved by theta until the class is reached.

    A feature is one channel of one pixel. The map is of the logits Z, towards the class t: with
    alpha_i = dZ_t / dx_i and beta_i the sum of dZ_j / dx_i over the other classes, the pair moved
    is the one of largest -(alpha_p + alpha_q) (beta_p + beta_q) with the first factor positive and
    the second negative (for theta < 0 the other way round). A feature may be moved again until it
    is at the bound of the box. Where no pair is left, the attack has failed.

    The paper searches all pairs; here those of the `num_candidates` features of largest
    alpha - beta, which for as many candidates as features is the same. Two other readings of the
    paper are `art` and `art_in_pdd`: they move the two features of largest alpha (alone, or with
    one at its bound, where no other has room) and return what a failed search has changed, which
    may well be misclassified, as another class than the target.

    Guarantees:
        Also: at most a share gamma of an image's features is changed (with stop="passed" two
        more). With keep_failed=False the clean image is returned where the target is not reached.

    Attributes:
        bounds: smallest and largest pixel value.
        targeted: True: labels are classes to reach.
        theta: what a step adds to a feature.
        gamma: largest share of features that are changed.
        saliency: "pair" is the paper's map, "target" looks at alpha alone.
        stop: when gamma ends a search: "before" a pair that would pass it, "passed": after the pair
            that has, "iterations": after int(gamma n / 2) pairs of an image of n features, however
            few they are because a pair is moved again.
        keep_failed: return the changes of a search that failed, not the clean image.
        num_candidates: features among which the pair is searched; memory is its square per image.

    Raises:
        ValueError: it is untargeted, theta is 0 or wider than the box, gamma is not in (0, 1] or
            (at a call) allows less than two features, or there is no such map or stop.

    Example:
        >>> from robust_jax.attacks import JSMA, as_view
        >>> view = as_view(lambda images: images[:, :2] - images[:, 2:])  # four pixels, two classes
        >>> images, targets = jnp.asarray([[0.6, 0.5, 0.5, 0.5]]), jnp.asarray([1])
        >>> found = JSMA(theta=0.1, gamma=0.5)(view, images, targets, key=jax.random.key(0))
        >>> (found != images).tolist(), view(found, key=None).argmax(1).item()
        ([[False, True, True, False]], 1)

    References:
        Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, "The limitations of deep learning in
        adversarial settings", 2016 (algorithm 3; equations 8 to 10).
    """

    targeted: bool = True
    theta: float = 0.1
    gamma: float = 0.1
    saliency: Literal["pair", "target"] = "pair"
    stop: Literal["before", "passed", "iterations"] = "before"
    keep_failed: bool = False
    num_candidates: int = 128

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        if not self.targeted:
            raise ValueError("Expected targeted=False to be True: labels are classes to reach.")
        width = self.bounds[1] - self.bounds[0]
        if not 0 < abs(self.theta) <= width:
            raise ValueError(f"Expected theta={self.theta} in [-{width}, {width}] and not 0.")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"Expected gamma={self.gamma} in (0, 1].")
        one_of(self, "saliency", ("pair", "target"))
        one_of(self, "stop", ("before", "passed", "iterations"))
        if self.num_candidates < 2:
            raise ValueError(f"Expected num_candidates={self.num_candidates} >= 2.")

    @property
    def norm(self) -> Literal["l0_values"]:
        """Returns the norm that is made small."""
        return "l0_values"

    @classmethod
    def art(cls, theta: float = 0.1, gamma: float = 1.0) -> "JSMA":
        """Returns what the Adversarial Robustness Toolbox does in its version 1.1."""
        return cls(theta=theta, gamma=gamma, saliency="target", stop="passed", keep_failed=True)

    @classmethod
    def art_in_pdd(cls, theta: float = 0.1, gamma: float = 1.0) -> "JSMA":
        """Returns what the copy of that toolbox in the repository of PDD's authors does."""
        return dataclasses.replace(cls.art(theta, gamma), stop="iterations")

    def reduced(self) -> "JSMA":
        """Returns the attack at the small budget of a trial."""
        return self

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError where gamma allows less than two features of such images."""
        num_features = math.prod(images.shape[1:])
        if self.gamma * num_features < 2:
            raise ValueError(
                f"Expected gamma={self.gamma} to allow two of the {num_features} features."
            )

    def perturb(self, given: Given) -> Images:
        """Returns the adversarial images."""
        view, images, labels, key, *_ = given
        low, high = self.bounds
        clean = images.reshape(images.shape[0], -1)
        num_features = clean.shape[1]
        most = math.floor(self.gamma * num_features)
        # A share is compared, which rounds otherwise: 29 of 100 features are not more than .29.
        most_passed = most + ((most + 1) / num_features <= self.gamma)

        def num_changed(changed):
            return jnp.sum(changed, axis=1, dtype=jnp.int32)

        def within(changed, count):
            if self.stop == "iterations":
                return count < int(self.gamma * num_features / 2)
            return num_changed(changed) <= most_passed

        def step(carry):
            count, points, changed, searching, reached = carry

            def logits_at(points):
                view_key = rng.stream(key, "view", count)
                return losses.decision(view(points.reshape(images.shape), key=view_key))

            logits, pullback = jax.vjp(logits_at, points)
            reached = reached | (searching & self.succeeded(logits, labels))
            target = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
            sign = math.copysign(1, self.theta)
            alpha, beta = sign * pullback(target)[0], sign * pullback(1 - target)[0]
            room = points < high if self.theta > 0 else points > low
            spare = most - num_changed(changed)
            if self.stop == "before":
                pair, found = self.best_pair(alpha, beta, room, ~changed, spare)
            else:
                pair, found = self.any_pair(alpha, beta, room)
                found = found & within(changed, count)
            searching = searching & found & ~reached
            features = jnp.arange(num_features, dtype=pair.dtype)
            moved = jnp.any(features[None, None] == pair[..., None], axis=1)
            moved = moved & searching[:, None]
            points = jnp.where(moved, jnp.clip(points + self.theta, low, high), points)
            return count + 1, points, changed | moved, searching, reached

        # A feature is at its bound after so many moves (one more for rounding), and each step
        # moves two, or `any_pair` one. The step after the last one only judges.
        moves = math.ceil((high - low) / abs(self.theta)) + 1
        limit = most * moves // 2 + 1 if self.stop == "before" else (most + 3) * moves + 1
        nothing = jnp.zeros(labels.shape, bool)
        start = jnp.asarray(0), clean, jnp.zeros_like(clean, bool), ~nothing, nothing
        _, points, _, _, reached = jax.lax.while_loop(
            lambda carry: (carry[0] < limit) & jnp.any(carry[3]), step, start
        )
        kept = points if self.keep_failed else jnp.where(reached[:, None], points, clean)
        return kept.reshape(images.shape)

    def any_pair(
        self, alpha: Float[Array, "b f"], beta: Float[Array, "b f"], room: Bool[Array, "b f"]
    ) -> tuple[Int[Array, "b 2"], Bool[Array, " b"]]:
        """Returns the same where any number of features may be changed."""
        if self.saliency == "target":
            values, pair = jax.lax.top_k(jnp.where(room, alpha, -jnp.inf), 2)
            return pair, values[:, 0] > -jnp.inf  # one with room will do
        many = jnp.full(len(alpha), alpha.shape[1], jnp.int32)
        return self.best_pair(alpha, beta, room, jnp.ones_like(room), many)

    def best_pair(
        self,
        alpha: Float[Array, "b f"],
        beta: Float[Array, "b f"],
        room: Bool[Array, "b f"],
        fresh: Bool[Array, "b f"],
        spare: Int[Array, " b"],
    ) -> tuple[Int[Array, "b 2"], Bool[Array, " b"]]:
        """Returns the pair of features of largest saliency, and where there is one at all.

        Args:
            alpha: derivative of the target's logit, positive where a move helps.
            beta: that of the sum of the other logits, negative where a move helps.
            room: features that may still be moved.
            fresh: features not changed yet.
            spare: how many of these may be.
        """
        usable = room & (~fresh | (spare > 0)[:, None])
        score = alpha if self.saliency == "target" else alpha - beta
        num_candidates = min(self.num_candidates, alpha.shape[1])
        _, candidates = jax.lax.top_k(jnp.where(usable, score, -jnp.inf), num_candidates)

        def of_pairs(values):
            values = jnp.take_along_axis(values, candidates, axis=1)
            return values[:, :, None], values[:, None, :]

        def total(values):
            first, second = of_pairs(values)
            return first + second

        first, second = of_pairs(usable)
        rise, fall = total(alpha), -total(beta)
        allowed = first & second & (total(fresh.astype(jnp.int32)) <= spare[:, None, None])
        allowed = allowed & ~jnp.eye(num_candidates, dtype=bool)[None]
        if self.saliency == "target":
            value = rise
        else:
            allowed, value = allowed & (rise > 0) & (fall > 0), rise * fall
        value = jnp.where(allowed, value, -jnp.inf).reshape(len(alpha), -1)
        best = jnp.argmax(value, axis=1)
        places = jnp.stack([best // num_candidates, best % num_candidates], axis=1)
        pair = jnp.take_along_axis(candidates, places, axis=1)
        return pair, jnp.max(value, axis=1) > -jnp.inf
