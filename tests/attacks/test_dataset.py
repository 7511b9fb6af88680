"""A whole dataset in batches of one size."""

import jax
import numpy as np

from robust_jax import attacks
from robust_jax.attacks import PGD, ThreatModel, base

KEY = jax.random.key(1)


def test_over_dataset_is_one_program_and_any_batch_size(digits):
    attack = PGD(ThreatModel("linf", 0.12), num_steps=2)
    compiled = base._run._cache_size()
    seven = attacks.over_dataset(attack, *digits, key=KEY, batch_size=7, progress=False)
    assert base._run._cache_size() == compiled + 1
    whole = attack(*digits, key=KEY)
    np.testing.assert_allclose(seven, whole, atol=2e-5)
    empty = attacks.over_dataset(
        attack, digits.view, digits.images[:0], digits.labels[:0], key=KEY, batch_size=7
    )
    assert empty.shape == (0, 8, 8, 1)
