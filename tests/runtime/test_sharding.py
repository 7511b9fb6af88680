"""The mesh, and what does not fit it."""

import jax
import jax.numpy as jnp
import pytest

from robust_jax.runtime import sharding


def test_batches_are_split_and_variables_are_not():
    mesh = sharding.make_mesh(4)
    images = jax.device_put(jnp.zeros((8, 3)), sharding.batched(mesh))
    assert {shard.data.shape for shard in images.addressable_shards} == {(2, 3)}
    weights = jax.device_put(jnp.zeros((8, 3)), sharding.replicated(mesh))
    assert {shard.data.shape for shard in weights.addressable_shards} == {(8, 3)}
    assert sharding.make_mesh().size == 4


@pytest.mark.parametrize("num_devices", [0, 5])
def test_more_devices_than_there_are(num_devices):
    with pytest.raises(ValueError, match=rf"Expected num_devices={num_devices} in 1 \.\. 4"):
        sharding.make_mesh(num_devices)


@pytest.mark.parametrize("size", [0, 6])
def test_batch_that_does_not_split(size):
    with pytest.raises(ValueError, match=f"Expected batch_size={size} to be a multiple of the 4"):
        sharding.check_batch_size(size, sharding.make_mesh(4))


def test_runtime_checks():
    with pytest.raises(ValueError, match="Expected log_every=0 >= 1"):
        sharding.RuntimeConfig(log_every=0)
