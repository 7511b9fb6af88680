"""alpha-CROWN: lower slopes of rectifiers that are chosen for each bound, by gradient ascent."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from robust_jax.certify.intervals import Bounds
from robust_jax.certify.network import Affine, Rectifier
from robust_jax.certify.relaxation import Relaxed, Step
from robust_jax.certify.rows import Ball, Lines, Origin, Rows, at_input, before
from robust_jax.runtime.compilation import jitted

Slopes = dict[int, Array]
"""By the rectifier's number: of each row its own."""


@dataclasses.dataclass(frozen=True)
class SlopeAscent:
    """Gradient ascent on the lower slopes of rectifiers that may be on or off.

    Every slope in [negative slope, 1] is sound there; CROWN's own choice is where it begins, and
    the best bound on the way stands. A slope goes by the sign of its derivative alone, by a step
    of its own, which grows while the sign stays and is halved where it turns: bounds are piecewise
    linear in the slopes, and most slopes have their best at a kink.

    Attributes:
        num_steps: of the ascent.
        step_size: of the first step.
        intermediate: are the bounds in front of rectifiers chosen so too, where CROWN leaves a
            rectifier undecided? Otherwise the margins alone.

    Raises:
        ValueError: there is no step, or its size is not in (0, 1].

    Example:
        >>> from robust_jax.certify import Margins, SlopeAscent
        >>> certify = Margins(eps=2 / 255, ascent=SlopeAscent(num_steps=20))  # alpha-CROWN
        >>> certify.bound, certify.ascent.num_steps
        ('crown', 20)

    References:
        Xu et al., "Fast and complete: enabling complete neural network verification with rapid and
        massively parallel incomplete verifiers", 2021, section 3.2 (with Adam). Riedmiller and
        Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
        1993.
    """

    num_steps: int = 40
    step_size: float = 0.03
    intermediate: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError where a field makes no sense."""
        if self.num_steps < 1:
            raise ValueError(f"Expected num_steps={self.num_steps} >= 1.")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"Expected step_size={self.step_size} in (0, 1].")

    def lower_bounds(
        self, relaxed: Relaxed, number: int, rows: Rows, origin: Origin
    ) -> Float[Array, " n"]:
        """Returns lower bounds of linear functions of a node's value, as `Relaxed.lower_bounds`."""
        steps: list[Step] = []
        best = relaxed.lower_bounds(number, rows, origin, None, steps)
        slopes: Slopes = {}
        least: Slopes = {}
        for step in steps:
            node = relaxed.network.nodes[step.number]
            if isinstance(node, Rectifier) and step.lines is not None:
                slopes[step.number] = _chosen(step.lines, step.rows, origin)
                least[step.number] = jnp.float32(node.negative_slope)
        state = _ascent(self.step_size).init(slopes)
        for _ in range(self.num_steps):
            gradients = _gradients(relaxed, steps, slopes, origin, len(rows.value))
            slopes, state = _moved(slopes, gradients, state, least, step_size=self.step_size)
            steps = []
            best = jnp.maximum(best, relaxed.lower_bounds(number, rows, origin, slopes, steps))
        return best


def _ascent(step_size: float) -> optax.GradientTransformation:
    return optax.rprop(step_size, max_step_size=0.5)


@jitted
def _chosen(lines: Lines, rows: Rows, origin: Origin) -> Array:
    (found,) = origin.of_rows(lines[:1], rows)
    return jnp.broadcast_to(found, (len(rows.value), *found.shape[1:]))


@functools.partial(jitted, static_argnames=("step_size",))
def _moved(
    slopes: Slopes, gradients: Slopes, state: PyTree, least: Slopes, *, step_size: float
) -> tuple[Slopes, PyTree]:
    downhill = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), -g, 0), gradients)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by Python's numbers
        updates, state = _ascent(step_size).update(downhill, state)
    moved = jax.tree.map(lambda x, by, low: jnp.clip(x + by, low, 1), slopes, updates, least)
    return moved, state


def _gradients(
    relaxed: Relaxed, steps: Sequence[Step], slopes: Slopes, origin: Origin, size: int
) -> Slopes:
    """Returns each bound's derivatives by its own slopes: the steps are taken back."""
    found: Slopes = {}
    ones = jnp.ones(size, jnp.float32)
    cotangents: dict[int, Rows] = {}
    for step in reversed(steps):
        if step.number == 0:
            cotangents[0] = _back_from_input(relaxed.known[0], step.rows, origin, relaxed.ball)
            continue
        given = [cotangents[parent] for parent in step.parents]
        own, rows, waiting = _back(
            slopes.get(step.number), step.rows, step.waiting, given, ones,
            step.lines, step.affine, origin, shapes=step.shapes,
        )  # fmt: skip
        if own is not None:
            found[step.number] = own
        cotangents[step.number] = rows
        for parent, there in zip(step.parents, waiting, strict=True):
            if there is None:
                del cotangents[parent]
            else:
                cotangents[parent] = there
    return found


@jitted
def _back_from_input(box: Bounds, rows: Rows, origin: Origin, ball: Ball | None) -> Rows:
    zero = jnp.zeros(len(rows.value), jnp.float32)
    _, pull = jax.vjp(lambda rows: at_input(*box, rows, zero, origin, ball), rows)
    return pull(jnp.ones_like(zero))[0]


@functools.partial(jitted, static_argnames=("shapes",))
def _back(
    slopes: Array | None,
    rows: Rows,
    waiting: list[Rows | None],
    cotangents: list[Rows],
    ones: Array,
    lines: Lines | None,
    affine: Affine | None,
    origin: Origin,
    *,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[Array | None, Rows, list[Rows | None]]:
    def taken(
        slopes: Array | None, rows: Rows, waiting: list[Rows | None]
    ) -> tuple[list[Rows], Array]:
        return before(
            lines, affine, rows, jnp.zeros_like(ones), origin, waiting, slopes, shapes=shapes
        )

    _, pull = jax.vjp(taken, slopes, rows, waiting)
    return pull((cotangents, ones))
