"""Keys: a function of root, name and counters; every stream its own."""

import jax
import jax.numpy as jnp
import numpy as np

from robust_jax import rng


def test_streams_are_repeatable_and_differ():
    key = jax.random.key(0)
    names = [("a",), ("b",), ("a", 0), ("a", 1), ("a", 0, 1), ("b", 0)]
    data = [jax.random.key_data(rng.stream(key, *name)).tolist() for name in names]
    assert data == [jax.random.key_data(rng.stream(key, *name)).tolist() for name in names]
    assert len({tuple(each) for each in data}) == len(names)


def test_traced_counters_give_the_same_keys():
    key = jax.random.key(3)
    traced = jax.jit(lambda step: jax.random.key_data(rng.stream(key, "step", step)))(7)
    np.testing.assert_array_equal(traced, jax.random.key_data(rng.stream(key, "step", 7)))


def test_per_example_keys_follow_the_row():
    key = jax.random.key(0)
    few = jax.random.key_data(rng.per_example(key, jnp.array([5, 2])))
    many = jax.random.key_data(rng.per_example(key, jnp.arange(8)))
    np.testing.assert_array_equal(few, many[np.array([5, 2])])
