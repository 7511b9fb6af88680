"""Random keys: every key is folded from one root key by name and counters, none is stored."""

import zlib

import jax
from jaxtyping import Array, Int, Key, UInt

Counter = int | Int[Array, ""] | UInt[Array, ""]


def stream(key: Key[Array, ""], name: str, *counters: Counter) -> Key[Array, ""]:
    """Returns the key of the stream `name` at `counters` (a step, a batch, a draw).

    The same root, name and counters always give the same key, so a resumed run repeats its
    draws without a key in its state.

    Args:
        key: root key; it is folded, never consumed.
        name: name of the stream; different names give independent keys.
        *counters: non-negative integers, folded in turn.

    Example:
        >>> from robust_jax import rng
        >>> key = jax.random.key(0)
        >>> first, again, other = (rng.stream(key, "noise", step) for step in (3, 3, 4))
        >>> bool(first == again), bool(first == other)
        (True, False)
    """
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for counter in counters:
        key = jax.random.fold_in(key, counter)
    return key


def per_example(key: Key[Array, ""], index: Int[Array, " b"]) -> Key[Array, " b"]:
    """Returns one key per example, folded from its dataset row.

    A draw made from these keys depends on the example alone, never on the batch it is in.

    Args:
        key: root key.
        index: row of each example in its dataset.

    Example:
        >>> from robust_jax import rng
        >>> key = jax.random.key(0)
        >>> whole = rng.per_example(key, jnp.arange(4))
        >>> part = rng.per_example(key, jnp.asarray([2, 3]))
        >>> (whole[2:] == part).tolist()
        [True, True]
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def other_classes(
    key: Key[Array, ""], labels: Int[Array, " b"], index: Int[Array, " b"], num_classes: int
) -> Int[Array, " b"]:
    """Returns for each example a class other than its label, each as likely as the others.

    Args:
        key: root key.
        labels: class of each example.
        index: row of each example in its dataset.
        num_classes: of which there are at least two.

    Example:
        >>> from robust_jax import rng
        >>> labels, index = jnp.asarray([0, 1, 2]), jnp.arange(3)
        >>> draw = jax.jit(rng.other_classes, static_argnames="num_classes")
        >>> targets = draw(jax.random.key(0), labels, index, num_classes=3)
        >>> bool((targets == labels).any())
        False
    """
    keys = per_example(key, index)
    steps = jax.vmap(lambda k: jax.random.randint(k, (), 1, num_classes))(keys)
    return (labels + steps) % num_classes


def required_key(key: Key[Array, ""] | None) -> Key[Array, ""]:
    """Returns the key.

    Args:
        key: of a call that may have been given none.

    Raises:
        ValueError: there is none.

    Example:
        >>> from robust_jax import rng
        >>> rng.required_key(None)
        Traceback (most recent call last):
        ValueError: Expected key=None to be a key: this method samples.
    """
    if key is None:
        raise ValueError("Expected key=None to be a key: this method samples.")
    return key
