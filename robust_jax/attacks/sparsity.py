"""Which of many coordinates are spent a budget on: the L1 and L0 balls, and steps of few pixels.

All of it is a search for one threshold per example, by bisection of the bits of a float: exact,
a few dozen sums, and on every backend much cheaper than sorting.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def share_spent(
    priority: Float[Array, "b f"], cost: Float[Array, "b f"], budget: Float[Array, " b"]
) -> Float[Array, "b f"]:
    """Returns the share of each coordinate that a budget buys, the largest priority first.

    Those of one priority that are not all bought are bought in equal shares.

    Args:
        priority: what is bought first; not negative.
        cost: of a whole coordinate; not negative.
        budget: what may be spent on an example; at 0 nothing is bought.
    """

    def enough(threshold: Float[Array, " b"]) -> Bool[Array, " b"]:
        return jnp.sum(jnp.where(priority > threshold[:, None], cost, 0), axis=1) < budget

    last = _smallest(enough, budget)[:, None]
    above, at = priority > last, priority == last
    left = budget - jnp.sum(jnp.where(above, cost, 0), axis=1)
    price = jnp.sum(jnp.where(at, cost, 0), axis=1)
    part = jnp.where(price > left, left / jnp.where(price > 0, price, 1), 1)
    share = jnp.where(above, 1, jnp.where(at, part[:, None], 0)).astype(priority.dtype)
    return jnp.where(budget[:, None] > 0, share, 0)


def at_least_the_largest(
    values: Float[Array, "b f"], number: Int[Array, " b"]
) -> Bool[Array, "b f"]:
    """Returns where a value is no smaller than the largest but so many less one: ties all count.

    Args:
        values: not negative.
        number: of each example, from 1 on.
    """

    def fewer(threshold: Float[Array, " b"]) -> Bool[Array, " b"]:
        return jnp.sum(values > threshold[:, None], axis=1, dtype=number.dtype) < number

    return values >= _smallest(fewer, values[:, 0])[:, None]


def ranked(values: Float[Array, "b f"]) -> Int[Array, "b f"]:
    """Returns the place of each value among its example's, 0 the largest; of equal ones in order.

    NaN comes last.
    """
    order = jnp.argsort(-values, axis=1, stable=True)
    return jnp.argsort(order, axis=1, stable=True).astype(jnp.int32)


def shrunk(
    length: Float[Array, "b f"], room: Float[Array, "b f"], radius: Float[Array, " b"]
) -> Float[Array, "b f"]:
    """Returns min(max(length - s, 0), room) with the least s >= 0 whose sum is within the radius.

    With lengths |y - x| and the room that the box leaves there, it is the way from x to the point
    of ball and box that is nearest to y in L2. s is the smallest float, so that the sum stays
    within the radius and no coordinate is off by more than the last place of s.

    References:
        Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
        classifiers", 2021 (proposition 2.1).
    """

    def inside(shrinkage: Float[Array, " b"]) -> Bool[Array, " b"]:
        lengths = jnp.clip(length - shrinkage[:, None], 0, room)
        return jnp.sum(lengths, axis=1) <= radius

    found = jnp.clip(length - _smallest(inside, radius)[:, None], 0, room)
    return jnp.where(radius[:, None] > 0, found, 0)


def _smallest(
    holds: Callable[[Float[Array, " b"]], Bool[Array, " b"]], like: Float[Array, " b"]
) -> Float[Array, " b"]:
    """Returns the smallest float >= 0 at which something holds that then holds of all larger ones.

    Where it never holds that is no number. Floats >= 0 are ordered as their bits are.
    """
    integer = {4: jnp.int32, 8: jnp.int64}[like.dtype.itemsize]
    num_bits = 8 * like.dtype.itemsize - 1

    def as_float(bits: Int[Array, " b"]) -> Float[Array, " b"]:
        return jax.lax.bitcast_convert_type(bits, like.dtype)

    def halve(number: Int[Array, ""], bits: Int[Array, " b"]) -> Int[Array, " b"]:
        half = jnp.asarray(1, integer) << (num_bits - 1 - number).astype(integer)
        return jnp.where(holds(as_float(bits + half - 1)), bits, bits + half)

    # The zeros are those of the examples, so that they lie on the same devices.
    zeros = jnp.zeros_like(like, integer)
    return as_float(jax.lax.fori_loop(0, num_bits, halve, zeros))
