"""Linearised decision boundaries: the nearest one, and the way onto it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax.attacks.losses import ranked_targets
from robust_jax.attacks.sparsity import share_spent
from robust_jax.attacks.threat import ThreatModel, expand, l2_norm, size
from robust_jax.types import Images, Labels


def dual_norm(norm: str, gradient: Images) -> Float[Array, " b"]:
    """Returns the size of a gradient by which a logit gap is divided to give a distance."""
    if norm == "linf":
        return size("l1", gradient)
    return size("linf", gradient) if norm == "l1" else l2_norm(gradient)


class LinearBoundary(NamedTuple):
    """A linearised boundary between two classes.

    Attributes:
        distance: of the point from it.
        gradient: gradient of the logit difference to the other class.
        gap: that difference; negative where the label's logit is larger.
        target: the other class.
    """

    distance: Float[Array, " b"]
    gradient: Float[Array, "b ..."]
    gap: Float[Array, " b"]
    target: Labels


def nearest_boundary(
    logits_fn: Callable[[Array], Array],
    points: Images,
    labels: Labels,
    candidates: Int[Array, "b t"],
    *,
    norm: str,
) -> LinearBoundary:
    """Returns the nearest of the linearised boundaries with the candidate classes.

    One backward pass per candidate, one after the other.

    Args:
        logits_fn: function of points to logits.
        points: where the boundaries are linearised.
        labels: class of each point.
        candidates: the other classes.
        norm: norm of the distance.
    """
    logits, pullback = jax.vjp(logits_fn, points)
    return nearest_of(
        logits, lambda slope: pullback(slope)[0], points, labels, candidates, norm=norm
    )


def nearest_of(
    logits: Float[Array, "b c"],
    pullback: Callable[[Array], Array],
    points: Images,
    labels: Labels,
    candidates: Int[Array, "b t"],
    *,
    norm: str,
) -> LinearBoundary:
    """Returns what `nearest_boundary` does, of logits that are known.

    Args:
        logits: at the points.
        pullback: a slope of the logits -> the one of the points.
        points: where the boundaries are linearised.
        labels: class of each point.
        candidates: the other classes.
        norm: norm of the distance.
    """
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)

    def compare(number, nearest):
        target = candidates[:, number]
        other = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
        gradient = pullback(other - own)
        gap = jnp.sum(logits * (other - own), axis=1).astype(points.dtype)
        distance = jnp.abs(gap) / (dual_norm(norm, gradient) + _TINY)
        other = LinearBoundary(distance, gradient, gap, target)
        nearer = distance < nearest.distance
        return jax.tree.map(lambda a, b: jnp.where(expand(nearer, a), a, b), other, nearest)

    far = jnp.full(labels.shape, jnp.inf, points.dtype)
    label = labels.astype(candidates.dtype)
    nothing = LinearBoundary(far, jnp.zeros_like(points), jnp.zeros_like(far), label)
    return jax.lax.fori_loop(0, candidates.shape[1], compare, nothing)


def nearest_classes(
    logits_fn: Callable[[Array], Array],
    points: Images,
    labels: Labels,
    num_targets: int,
    num_candidates: int,
    *,
    norm: str,
) -> Int[Array, "b t"]:
    """Returns the other classes whose linearised boundaries are nearest, the nearest first.

    A boundary that is passed already is nearer than any other. One forward pass, and a backward
    pass for each candidate.

    Args:
        logits_fn: function of points to logits.
        points: where the boundaries are linearised.
        labels: class of each point.
        num_targets: how many classes.
        num_candidates: of how many of the likeliest other classes, where there are more.
        norm: norm of the distance.

    Raises:
        ValueError: there are not so many other classes.

    References:
        Melamed, Yehudai, Shamir, "MALT powers up adversarial attacks", arXiv 2407.02240, 2024.
    """
    logits, pullback = jax.vjp(logits_fn, points)
    num_candidates = max(min(num_candidates, logits.shape[1] - 1), num_targets)
    candidates = ranked_targets(logits, labels, num_candidates)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)

    def distance(target: Labels) -> Float[Array, " b"]:
        other = jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)
        gap = jnp.sum(logits * (own - other), axis=1).astype(points.dtype)
        return gap / (dual_norm(norm, pullback(other - own)[0]) + _TINY)

    distances = jax.lax.map(distance, candidates.T).T
    nearest = jnp.argsort(distances, axis=1)[:, :num_targets]
    return jnp.take_along_axis(candidates, nearest, axis=1)


_TINY = 1e-12  # keeps a vanished gradient from dividing by zero


def project_on_hyperplane(
    threat: ThreatModel,
    points: Float[Array, "b f"],
    normal: Float[Array, "b f"],
    offset: Float[Array, " b"],
) -> Float[Array, "b f"]:
    """Returns the shortest step, in the norm, from each point onto its hyperplane in the box.

    The hyperplane is normal . z = offset. Where the box does not reach it, the step goes to the
    nearest corner. The step is sign * min(t * speed, room) with speed 1 (Linf) or |normal| (L2),
    and the progress towards the plane is concave, piecewise linear in t, so that Newton's
    iteration from t = 0 never overshoots and ends exactly after finitely many steps: no sorting.
    In L1 the coordinates of largest |normal| take all of their room until the plane is reached.

    References:
        Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
        attack", 2020 (section 2.2).
    """
    low, high = threat.bounds
    slope = jnp.abs(normal)
    speed = jnp.ones_like(slope) if threat.norm == "linf" else slope
    gap = offset - jnp.sum(normal * points, axis=1)
    ahead = jnp.sign(normal) * jnp.sign(gap)[:, None]
    room = jnp.where(ahead > 0, high - points, points - low) * jnp.abs(jnp.sign(normal))
    needed = jnp.abs(gap)
    if threat.norm == "l1":
        return ahead * room * share_spent(slope, slope * room, needed)

    def newton(carry):
        length, _, count = carry
        step = jnp.minimum(length[:, None] * speed, room)
        rate = jnp.sum(jnp.where(length[:, None] * speed < room, slope * speed, 0), axis=1)
        missing = needed - jnp.sum(slope * step, axis=1)
        growth = jnp.where((missing > 0) & (rate > 0), missing / jnp.where(rate > 0, rate, 1), 0)
        return length + growth, jnp.any(growth > 1e-6 * length), count + 1

    # Each round but the last carries a coordinate to the box; a few rounds are usual.
    start = jnp.zeros_like(needed), jnp.asarray(True), jnp.asarray(0)
    length = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < 50), newton, start)[0]
    return ahead * jnp.minimum(length[:, None] * speed, room)
