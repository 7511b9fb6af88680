"""Restarts and targets: in turn or at once."""

import jax
import numpy as np
import pytest

from robust_jax.attacks import APGDT, Square, ThreatModel

KEY = jax.random.key(11)


@pytest.mark.slow
def test_parallel_runs_change_nothing(digits):
    threat = ThreatModel("linf", 0.06)
    for make, fields in (
        (APGDT, {"num_steps": 6, "num_targets": 2}),
        (Square, {"num_queries": 20, "num_restarts": 2}),
    ):
        np.testing.assert_allclose(
            make(threat, **fields)(*digits, key=KEY),
            make(threat, parallel=True, **fields)(*digits, key=KEY),
            atol=2e-5,
        )
