"""A whole dataset in batches of one size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robust_jax import attacks
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.attacks.dataset import Batches
from tests.compilations import count_compilations

KEY = jax.random.key(1)


def test_over_dataset_is_one_program_and_any_batch_size(digits):
    attack = PGD(ThreatModel("linf", 0.12), num_steps=2)
    fields = {"key": KEY, "batch_size": 7, "progress": False}
    attacks.over_dataset(attack, digits.view, digits.images[:7], digits.labels[:7], **fields)
    found = []
    run = functools.partial(attacks.over_dataset, attack, *digits, **fields)
    assert count_compilations(lambda: found.append(run())) == 0
    (seven,) = found
    whole = attack(*digits, key=KEY)
    np.testing.assert_allclose(seven, whole, atol=2e-5)
    empty = attacks.over_dataset(
        attack, digits.view, digits.images[:0], digits.labels[:0], key=KEY, batch_size=7
    )
    assert empty.shape == (0, 8, 8, 1)


@pytest.mark.slow
def test_over_dataset_over_devices(digits):
    attack = PGD(ThreatModel("linf", 0.12), num_steps=2)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(digits.images, NamedSharding(mesh, PartitionSpec("data")))
    batches = Batches(10, spread, digits.labels, jnp.arange(16))
    sizes = [
        [shard.data.shape[0] for shard in images.addressable_shards]
        for _, (images, _, _) in batches.of(np.arange(16))
    ]
    assert sizes == [[3, 3, 3, 3], [3, 3, 3, 3]]
    there = attacks.over_dataset(
        attack, digits.view, spread, digits.labels, key=KEY, batch_size=10, progress=False
    )
    np.testing.assert_allclose(there, attack(*digits, key=KEY), atol=2e-5)
