"""Square: random search over squares, which sees only the scores."""

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import LossAttack, start_keys
from robust_jax.attacks.checks import check_counts, check_height_and_width
from robust_jax.attacks.runs import Found, Given, Run
from robust_jax.attacks.threat import Norm, expand, unit_l2

# The share of pixels in a square is halved after each of these queries (of 10,000).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@functools.cache
def bump(rows: int, columns: int, norm: str = "l2") -> np.ndarray:
    """Returns a bump over a rectangle, largest in the middle, falling like a sum of powers."""
    away = np.maximum(
        np.abs(np.arange(rows) - rows // 2)[:, None],
        np.abs(np.arange(columns) - columns // 2)[None],
    )
    terms = 1 / np.arange(1, max(rows, columns) // 2 + 2) ** (4 if norm == "l1" else 2)
    return np.cumsum(terms[::-1])[::-1][away]


@functools.cache
def dipole(size: int, norm: str = "l2") -> np.ndarray:
    """Returns a square of norm one, a bump in its upper half and a negative one in its lower."""

    def length(values: np.ndarray) -> float:
        return np.abs(values).sum() if norm == "l1" else math.sqrt((values**2).sum())

    upper = size // 2
    halves = [
        half / max(length(half), 1e-12)
        for half in (bump(upper, size, norm), bump(size - upper, size, norm))
    ]
    square = np.concatenate([halves[0], -halves[1]])
    return square / length(square)


@dataclasses.dataclass(frozen=True)
class Square(LossAttack):
    """Square attack: changes one random square at a time and keeps what raises the loss.

    Attributes:
        threat: the ball.
        targeted: are the labels classes to reach, not to leave?
        num_restarts: runs, each with draws of its own.
        parallel: all runs at once, at so many times the memory.
        num_queries: proposals per run, the budget.
        initial_share: share of the pixels in the first squares (p).
        loss: what must rise; misclassification is kept in any case, and ends the search.
        rescale_schedule: stretch the schedule of square sizes from 10,000 queries to
            `num_queries` (AutoAttack does not).

    As in the official code a square that is smaller than the image never lies at its last row or
    column: of small images, whose objects reach the edge, queries find less than they could.

    Raises:
        ValueError: there is no query, p is not in (0, 1], or (at a call) images are not [b h w k].

    Example:
        >>> from robust_jax.attacks import Square, ThreatModel, as_view
        >>> view = as_view(lambda images: jax.lax.stop_gradient(images.mean((1, 2))))  # scores
        >>> images, labels = jnp.full((1, 4, 4, 2), 0.5).at[..., 0].add(0.1), jnp.asarray([0])
        >>> attack = Square(ThreatModel("linf", eps=0.1), num_queries=50)
        >>> view(attack(view, images, labels, key=jax.random.key(0)), key=None).argmax(1).item()
        1

    References:
        Andriushchenko, Croce, Flammarion, Hein, "Square attack: a query-efficient black-box
        adversarial attack via random search", 2020 (algorithms 1 to 3). Croce, Hein, "Mind the
        box: l1-APGD for sparse adversarial attacks on image classifiers", 2021 (section 4.3: L1).
    """

    needs_logits: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    num_restarts: int = 1
    parallel: bool = False
    loss: Literal["cross_entropy", "dlr", "margin"] = "margin"
    num_queries: int = 5000
    initial_share: float = 0.8
    rescale_schedule: bool = False

    @property
    def leaves(self) -> tuple[str, ...]:
        """Returns the square of the radius, which L2 compares with."""
        return (*super().leaves, "eps_squared")

    @functools.cached_property
    def eps_squared(self) -> float:
        """Returns the square of the radius."""
        return self.threat.eps**2

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_queries")
        if not 0 < self.initial_share <= 1:
            raise ValueError(f"Expected initial_share={self.initial_share} in (0, 1].")

    def check(self, images: Array | np.ndarray) -> None:
        """Raises ValueError unless the images are [b h w k]."""
        super().check(images)
        check_height_and_width(images)

    def reduced(self) -> "Square":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_restarts=1, num_queries=200)

    def side(self, query: int, height: int, width: int) -> int:
        """Returns the side of the squares at a query."""
        if self.rescale_schedule:
            query = int(query / self.num_queries * 10_000)
        share = self.initial_share / 2 ** sum(query > bound for bound in _HALVINGS)
        side = round(math.sqrt(share * height * width))
        if self.threat.norm == "linf":
            side = max(side, 1)
        else:
            side = max(side, 3)
            side += side % 2 == 0
        return min(side, height, width)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of one restart."""
        view, images, labels, key, index, _ = given
        key = rng.stream(key, "restart", run.number)
        height, width, _ = images.shape[1:]
        loss_fn = self.loss_fn(view, images, key=key)
        sides = [self.side(query, height, width) for query in range(self.num_queries)]
        sides = np.array(sides, np.int32)
        propose = self._propose_linf if self.threat.norm == "linf" else self._propose_dipole
        keys = start_keys(key, index)

        def judge(points, query):
            view_key = rng.stream(key, "query", query)
            loss, logits = losses.evaluate(loss_fn, view, points, labels, key=view_key)
            return Found(points, self.succeeded(logits, labels), loss)

        def step(carry):
            query, best = carry
            new = judge(propose(best.images, images, keys, query, sides), query + 1)
            take = ~best.success & (new.success | (new.loss > best.loss))
            return query + 1, Found(
                jnp.where(expand(take, images), new.images, best.images),
                best.success | new.success,
                jnp.where(take, new.loss, best.loss),
            )

        # An example that is fooled stays as it is, so stopping early changes no row.
        begin = jnp.asarray(0), judge(self._start(images, keys), 0)
        return jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_queries) & ~jnp.all(carry[1].success), step, begin
        )[1]

    def _start(self, images: Array, keys: Array) -> Array:
        """Returns vertical stripes (Linf) or a grid of dipoles (L2, L1) of random signs."""
        _, height, width, num_channels = images.shape
        dtype = images.dtype
        if self.threat.norm == "linf":

            def stripes(key):
                return _signs(jax.random.uniform(key, (1, width, num_channels), dtype))

            noise = jax.vmap(stripes)(keys)
            return self.threat.project(images + self.threat.eps * noise, images)
        side = max(min(height, width) // 5, 1)
        tiles, tile_of = np.zeros((2, height, width)), np.zeros((height, width), np.int32)
        top, left = (height - 5 * side) // 2, (width - 5 * side) // 2
        corners = [
            (row, column)
            for row in range(max(top, 0), height - side + 1, side)
            for column in range(max(left, 0), width - side + 1, side)
        ]
        for number, (row, column) in enumerate(corners):
            window = slice(row, row + side), slice(column, column + side)
            square = dipole(side, self.threat.norm)
            tiles[(0, *window)], tiles[(1, *window)] = square, square.T
            tile_of[window] = number
        pattern = jnp.asarray(tiles, dtype)

        def grid(key):
            draws = jax.random.uniform(key, (len(corners), num_channels + 1), dtype)[tile_of]
            square = jnp.where(draws[..., 0] > 0.5, pattern[0], pattern[1])
            return square[..., None] * _signs(draws[..., 1:])

        noise = jax.vmap(grid)(keys)
        if self.threat.norm == "l1":
            return self.threat.project(images + noise, images)
        noise = unit_l2(noise)
        return self.threat.clip(images + self.threat.eps * noise)

    def _propose_linf(
        self, points: Array, images: Array, keys: Array, query: Array, sides: np.ndarray
    ) -> Array:
        """Returns the points with one square set to plus or minus eps, per channel."""
        _, height, width, num_channels = images.shape
        side = jnp.asarray(sides)[query]

        def change(key):
            draws = jax.random.uniform(
                jax.random.fold_in(key, query), (num_channels + 2,), images.dtype
            )
            inside = _window(draws[:2], side, height, width)
            return inside[..., None] * _signs(draws[2:])[None, None]

        step = 2 * self.threat.eps * jax.vmap(change)(keys)
        return self.threat.project(points + step, images)

    def _propose_dipole(
        self, points: Array, images: Array, keys: Array, query: Array, sides: np.ndarray
    ) -> Array:
        """Returns the points with the mass of one window moved to another, as a dipole."""
        _, height, width, num_channels = images.shape
        eps, dtype, norm = self.threat.eps, images.dtype, self.threat.norm
        norms = _sums if norm == "l1" else _norms
        distinct, which = np.unique(sides, return_inverse=True)
        table = np.zeros((len(distinct), 2, height, width))
        for number, side in enumerate(distinct):
            table[number, 0, :side, :side] = dipole(int(side), norm)
            table[number, 1, :side, :side] = dipole(int(side), norm).T
        which = jnp.asarray(which)[query]
        side, square = jnp.asarray(sides)[query], jnp.asarray(table, dtype)[which]

        def change(delta, key):
            draws = jax.random.uniform(jax.random.fold_in(key, query), (num_channels + 5,), dtype)
            target = _window(draws[:2], side, height, width)[..., None]
            source = _window(draws[2:4], side, height, width)[..., None]
            shape = jnp.where(draws[4] > 0.5, square[0], square[1])
            row, column = _corner(draws[:2], side, height, width)
            shape = jnp.roll(shape, jnp.stack([row, column]), (0, 1))[..., None]
            old = delta * target
            new = shape * _signs(draws[5:])[None, None] + old / (norms(old) + _TINY)
            both = norms(delta * jnp.maximum(target, source))
            if norm == "l1":  # so many times too much is what the official code brings back
                spare = jnp.maximum(eps - jnp.sum(jnp.abs(delta)), 0) / num_channels
                mass = num_channels * (spare + both)
            else:
                spare = jnp.maximum(self.eps_squared - jnp.sum(delta**2), 0) / num_channels
                mass = jnp.sqrt(spare + both**2)
            new = new * target
            new = new / (norms(new) + _TINY) * mass
            return jnp.where(target > 0, new, delta * (1 - source))

        delta = jax.vmap(change)(points - images, keys)
        if norm == "l1":
            return self.threat.project(images + delta, images)
        return self.threat.clip(images + eps * unit_l2(delta))


_TINY = 1e-12


def _norms(image: Float[Array, "h w k"]) -> Float[Array, "1 1 k"]:
    return jnp.sqrt(jnp.sum(image**2, axis=(0, 1), keepdims=True))


def _sums(image: Float[Array, "h w k"]) -> Float[Array, "1 1 k"]:
    return jnp.sum(jnp.abs(image), axis=(0, 1), keepdims=True)


def _signs(draws: Array) -> Array:
    return jnp.where(draws > 0.5, 1, -1).astype(draws.dtype)


def _corner(
    draws: Float[Array, "2"], side: Int[Array, ""], height: int, width: int
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    row = jnp.floor(draws[0] * (height - side).astype(draws.dtype))
    column = jnp.floor(draws[1] * (width - side).astype(draws.dtype))
    return row.astype(jnp.int32), column.astype(jnp.int32)


def _window(
    draws: Float[Array, "2"], side: Int[Array, ""], height: int, width: int
) -> Float[Array, "h w"]:
    """Returns one inside a square of random place and zero outside."""
    row, column = _corner(draws, side, height, width)
    rows = jnp.arange(height, dtype=jnp.int32)[:, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None]
    inside = (rows >= row) & (rows < row + side) & (columns >= column) & (columns < column + side)
    return inside.astype(draws.dtype)
