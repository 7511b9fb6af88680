"""Sparse-RS: random search over which few pixels change, and to which colours, by scores alone."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from robust_jax import rng
from robust_jax.attacks import losses
from robust_jax.attacks.bounded import LossAttack, start_keys
from robust_jax.attacks.checks import check_counts
from robust_jax.attacks.runs import Found, Given, Number, Run
from robust_jax.attacks.threat import Norm, expand
from robust_jax.types import Images

_DIVISORS = {0: 2, 50: 4, 200: 5, 500: 6, 1000: 8, 2000: 10, 4000: 12, 6000: 15, 8000: 20}
"""The share of pixels that are exchanged is so many times smaller after a query (of 10,000)."""


@dataclasses.dataclass(frozen=True)
class SparseRS(LossAttack):
    """Random search for eps pixels: each query exchanges some for others, of random colours.

    Colours are corners of the box. An exchange is kept where it raises the loss or reaches the
    goal, which ends the search. Pixels are counted, whatever changes of their channels; a ball in
    "l0_values" counts and draws channels of pixels instead. The paper's targeted attack has the
    loss "cross_entropy" and an initial share of .1.

    Attributes:
        threat: the ball, of L0: eps is how many pixels (or values) may change.
        targeted: are the labels classes to reach, not to leave?
        num_restarts: runs, each with draws of its own.
        parallel: all runs at once, at so many times the memory.
        loss: what must rise.
        num_queries: of one run, its start included.
        initial_share: share of the pixels that is exchanged at first (alpha_init).
        rescale_schedule: stretch the schedule of that share from 10,000 queries to `num_queries`.

    Raises:
        ValueError: there is no query, the share is not in (0, 1], or the ball is not one of L0.

    Example:
        >>> from robust_jax.attacks import SparseRS, ThreatModel, as_view
        >>> view = as_view(lambda images: images[:, 0, :2, 0])  # two pixels, two classes
        >>> images, labels = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0, 0].set(0.6), jnp.asarray([0])
        >>> attack = SparseRS(ThreatModel("l0", 1.0), num_queries=20)
        >>> found = attack(view, images, labels, key=jax.random.key(0))
        >>> (found != images).sum().item(), view(found, key=None).argmax(1).item()
        (1, 1)

    References:
        Croce, Andriushchenko, Singh, Flammarion, Hein, "Sparse-RS: a versatile framework for
        query-efficient sparse black-box adversarial attacks", 2022 (algorithm 1, section 4).
    """

    needs_logits: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("l0", "l0_values")

    num_restarts: int = 1
    parallel: bool = False
    loss: Literal["cross_entropy", "dlr", "margin"] = "margin"
    num_queries: int = 10_000
    initial_share: float = 0.3
    rescale_schedule: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for hyper-parameters that make no sense."""
        super().__post_init__()
        check_counts(self, "num_queries")
        if not 0 < self.initial_share <= 1:
            raise ValueError(f"Expected initial_share={self.initial_share} in (0, 1].")

    def reduced(self) -> "SparseRS":
        """Returns the attack at the small budget of a trial."""
        return self.at_most(num_restarts=1, num_queries=200)

    def num_exchanged(self, query: int, num_places: int) -> int:
        """Returns how many pixels a query exchanges: one at least; of all, for other colours."""
        if self.rescale_schedule:
            query = int(query / self.num_queries * 10_000)
        divisor = next((by for after, by in reversed(_DIVISORS.items()) if query > after), 1)
        eps = int(self.threat.eps)
        wanted = max(int(self.initial_share / divisor * eps), 1)
        return min(wanted, eps, num_places - eps if eps < num_places else eps)

    def run(self, run: Run, given: Given) -> Found:
        """Returns the end of one restart."""
        view, images, labels, key, index, _ = given
        key = rng.stream(key, "restart", run.number)
        loss_fn, keys = self.loss_fn(view, images, key=key), start_keys(key, index)
        num_places, eps = self.threat.num_places(images), int(self.threat.eps)
        clean = images.reshape(len(images), num_places, -1)
        counts = [self.num_exchanged(query, num_places) for query in range(self.num_queries)]
        counts, most = np.array(counts, np.int32), max(counts)

        def judge(points, query):
            points, view_key = points.reshape(images.shape), rng.stream(key, "query", query)
            loss, logits = losses.evaluate(loss_fn, view, points, labels, key=view_key)
            return Found(points, self.succeeded(logits, labels), loss)

        exchange = jax.vmap(self._exchanged, (0, 0, 0, 0, None, None, None))

        def step(carry):
            query, best, changed = carry
            points = best.images.reshape(clean.shape)
            points, newly = exchange(points, clean, changed, keys, query, counts, most)
            new = judge(points, query)
            take = ~best.success & (new.success | (new.loss > best.loss))
            found = Found(
                jnp.where(expand(take, images), new.images, best.images),
                best.success | new.success,
                jnp.where(take, new.loss, best.loss),
            )
            return query + 1, found, jnp.where(take[:, None], newly, changed)

        points, changed = jax.vmap(self._start, (0, 0, None))(clean, keys, eps)
        begin = jnp.asarray(1), judge(points, 0), changed
        return jax.lax.while_loop(
            lambda carry: (carry[0] < self.num_queries) & ~jnp.all(carry[1].success), step, begin
        )[1]

    def _start(
        self, clean: Float[Array, "n k"], key: Key[Array, ""], eps: int
    ) -> tuple[Float[Array, "n k"], Bool[Array, " n"]]:
        """Returns the image with random colours at random places, and which those are."""
        draws = jax.random.uniform(rng.stream(key, "places"), clean.shape[:1])
        changed = jnp.zeros(draws.shape, bool).at[jax.lax.top_k(draws, eps)[1]].set(True)
        colors = self._colors(rng.stream(key, "colors"), clean)
        return jnp.where(changed[:, None], colors, clean), changed

    def _exchanged(
        self,
        points: Float[Array, "n k"],
        clean: Float[Array, "n k"],
        changed: Bool[Array, " n"],
        key: Key[Array, ""],
        query: Number,
        counts: np.ndarray,
        most: int,
    ) -> tuple[Float[Array, "n k"], Bool[Array, " n"]]:
        """Returns the image after an exchange of changed places for others, and which are."""
        key, (num_places, _) = jax.random.fold_in(key, query), points.shape
        draws = jax.random.uniform(rng.stream(key, "places"), (num_places,))
        _, out = jax.lax.top_k(jnp.where(changed, draws, -1), most)
        has_others = num_places > int(self.threat.eps)
        _, into = jax.lax.top_k(jnp.where(changed & has_others, -1, draws), most)
        count = jnp.asarray(counts)[query]
        # What is not exchanged is written beyond the end, where it is dropped.
        out, into = (
            jnp.where(jnp.arange(most, dtype=count.dtype) < count, at, num_places)
            for at in (out, into)
        )
        colors = self._colors(rng.stream(key, "colors"), points[:most])
        # One pixel alone must not be given the colour that it has.
        present = clean if has_others else points
        same = jnp.all(colors == present[jnp.minimum(into, num_places - 1)], axis=1) & (count == 1)
        low, high = self.threat.bounds
        colors = jnp.where(same[:, None], low + high - colors, colors)
        points = points.at[out].set(clean[jnp.minimum(out, num_places - 1)], mode="drop")
        points = points.at[into].set(colors, mode="drop")
        changed = changed.at[out].set(False, mode="drop").at[into].set(True, mode="drop")
        return points, changed

    def _colors(self, key: Key[Array, ""], like: Float[Array, "n k"]) -> Images:
        """Returns random corners of the box."""
        low, high = self.threat.bounds
        return jnp.where(jax.random.bernoulli(key, shape=like.shape), high, low).astype(like.dtype)
