"""Sparse-RS: its schedule, the pixels that it changes, and that it reads scores alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import SparseRS, ThreatModel
from robust_jax.attacks.threat import size

KEY = jax.random.key(23)


def test_the_schedule():
    attack = SparseRS(ThreatModel("l0", 150.0))
    queries = (0, 1, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)
    # .3 * 150 over 1, 2, 4, 5, 6, 8, 10, 12, 15, 20
    expected = [45, 22, 11, 9, 7, 5, 4, 3, 3, 2]
    assert [attack.num_exchanged(query, 1024) for query in queries] == expected
    short = SparseRS(ThreatModel("l0", 150.0), num_queries=100)
    assert [short.num_exchanged(query, 1024) for query in (0, 1, 90)] == [45, 11, 2]
    # Of all pixels, which leave none to be exchanged for, one has another colour.
    few = SparseRS(ThreatModel("l0", 3.0))
