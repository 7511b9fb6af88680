"""The noise's short cuts on the CPU give the values of the long way."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robust_jax.models import noise


@pytest.mark.parametrize("shape", [(3,), (7, 5), (2, 3, 4, 6)])
def test_bits_are_those_of_jax(shape):
    key = jax.random.key(3)
    ours = jax.jit(noise._bits, static_argnums=1)(key, shape)
    np.testing.assert_array_equal(ours, jax.random.bits(jax.random.clone(key), shape, jnp.uint32))


def test_bits_of_several_keys_and_of_another_generator():
    keys = jax.random.split(jax.random.key(0), 3)
    ours = jax.vmap(lambda key: noise._bits(key, (4,)))(keys)
    theirs = [jax.random.bits(jax.random.clone(key), (4,), jnp.uint32) for key in keys]
    np.testing.assert_array_equal(ours, np.stack(theirs))
    other = jax.random.key(0, impl="rbg")
    theirs = jax.random.bits(jax.random.clone(other), (4,), jnp.uint32)
    np.testing.assert_array_equal(noise._bits(other, (4,)), theirs)


def test_the_table_has_the_values_of_the_formula():
    """As many draws as levels are looked up: each is the quantile of its own bits."""
    shape = (256, 257)
    found = jax.jit(noise.gaussian, static_argnums=1)(jax.random.key(1), shape)
    pairs = jax.random.bits(jax.random.key(1), (256, 129), jnp.uint32)
    draws = lax.bitcast_convert_type(pairs, jnp.int16).reshape(256, -1)[:, :257]
    expected = math.sqrt(2.0) * lax.erf_inv((draws.astype(jnp.float32) + 0.5) / 2.0**15)
    # Two ulps: the compiler may contract a product and a sum in one loop and not in the other.
    np.testing.assert_allclose(found, expected, rtol=2.4e-7, atol=0)


def test_a_key_that_is_used_twice_is_caught():
    def twice(key):
        return noise.gaussian(key, (4,)) + noise.gaussian(key, (4,))

    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        jax.jit(twice)(jax.random.key(0))
