"""APGD in L1: its phases, its linear optimum, its path, and what AutoAttack makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import APGD, APGDT, FABT, Square, ThreatModel, autoattack, trajectory
from robust_jax.attacks.apgd_l1 import phases, plan
from robust_jax.attacks.threat import size

KEY = jax.random.key(11)


def test_the_papers_phases_and_checkpoints():
    assert phases(100) == [(3.0, 30), (2.0, 30), (1.0, 40)]
    assert phases(5) == [(3.0, 2), (2.0, 2), (1.0, 1)]
    assert phases(4) == [(1.0, 4)]  # three tenths, rounded up, twice leave none
    planned = plan(100)
    assert list(np.flatnonzero(planned.starts)) == [0, 31, 62]
    assert planned.steps[-1] == 100
    # 4 % of 30 and of 40 steps are one.
    np.testing.assert_array_equal(planned.reviewed, ~planned.starts)
    assert list(np.flatnonzero(plan(300).reviewed)[:3]) == [3, 6, 9]


def test_the_suite_is_that_of_the_official_code():
    threat = ThreatModel("l1", 12.0)
    ce, targeted, fab, square = autoattack.standard(threat)
    assert [type(attack) for attack in (ce, targeted, fab, square)] == [APGD, APGDT, FABT, Square]
    assert (ce.num_restarts, ce.num_steps, ce.loss) == (5, 100, "cross_entropy")
    assert (targeted.num_targets, targeted.num_restarts, targeted.num_steps) == (5, 1, 100)
    assert (fab.num_targets, square.num_queries) == (9, 5000)


@pytest.mark.slow
def test_the_optimum_on_a_linear_model_and_the_path(linear):
    # Within the room of the largest weight the optimum is a step along it alone; beyond, the next.
    attack = APGD(ThreatModel("l1", 0.7), num_steps=30, loss="margin")
    found = trajectory(attack, linear.view, linear.images, linear.labels, key=KEY)
    assert found.losses.shape == (1, 31, 8)
    weights = jax.grad(lambda x: jnp.diff(linear.view(x[None], key=None)[0])[0])(linear.images[0])
    towards = jnp.where(linear.labels == 0, 1.0, -1.0)[:, None, None, None] * weights[None]
    best = ThreatModel("l1", 0.7).ascend(linear.images, towards, 0.7) - linear.images
    reached = jnp.sum((found.images - linear.images) * towards, axis=(1, 2, 3))
    optimum = jnp.sum(best * towards, axis=(1, 2, 3))
    assert float(size("l1", found.images - linear.images).max()) <= 0.7 + 1e-5
    assert float(jnp.min(reached / optimum)) > 0.98
    # In the larger balls nothing counts, as a loss or as a success.
    assert bool(jnp.all(jnp.isnan(found.losses[0]) == (jnp.arange(31) < 18)[:, None]))
    before = found.successes[0, : 3 * 9]
    assert not bool(before[1:18].any())
    logits = linear.view(found.images, key=None)
    fooled = jnp.argmax(logits, axis=1) != linear.labels
    np.testing.assert_array_equal(found.successes[0, 18:].any(axis=0), fooled)
