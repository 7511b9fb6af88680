"""Runs in segments: what has fallen is left out, and what PGD comes back to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import PGD, Suite, ThreatModel

KEY = jax.random.key(17)
THREAT = ThreatModel("linf", 0.12)
SMALL = PGD(THREAT, num_steps=80, step_size=0.006)


@pytest.mark.slow
def test_pgd_that_goes_in_circles_ends_early_with_the_same_verdict(digits):
    whole = Suite(THREAT, attacks=(SMALL,), batch_size=16)
    cut = dataclasses.replace(whole, drop_every=5)
    whole, cut = (suite.report(*digits, key=KEY) for suite in (whole, cut))
    np.testing.assert_array_equal(cut.standing, whole.standing)
    logits = digits.view(jnp.asarray(cut.images), key=None)
    np.testing.assert_array_equal(np.argmax(logits, axis=1) == digits.labels, cut.standing)
    assert np.abs(cut.images - digits.images).max() <= THREAT.eps + 1e-6
    # Two forward passes look at the clean image; then 81 points, and one that is judged.
    assert np.all(whole.passes.forward == 2 + 81 + 1)
    stood, fell = cut.passes.forward[cut.standing] - 2, cut.passes.forward[~cut.standing] - 3
    assert stood.min() <= 65
    assert 25 < fell.max() < 80
    assert np.all((stood % 5 == 0) | (stood == 81))


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "num_points"), [(0.0, 5), (0.01, 81)])
def test_what_draws_goes_on_where_it_came_back(digits, scale, num_points):
    def masked(images, *, key):
        logits = jax.lax.stop_gradient(digits.view(images, key=None))
        return logits + scale * jax.random.normal(key, logits.shape)

    suite = Suite(THREAT, attacks=(SMALL,), batch_size=16, drop_every=5)
    report = suite.report(masked, digits.images, digits.labels, key=KEY)
    standing = report.passes.forward[report.standing]
    assert len(standing) > 8
    assert np.all(standing == 2 + num_points)


def test_runs_that_are_not_decided_by_the_first_point_are_not_parted():
    assert SMALL.in_segments
    assert not dataclasses.replace(SMALL, keep="last").in_segments
    assert not dataclasses.replace(SMALL, min_probability=0.9).in_segments


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_segments_of_restarts_are_the_whole_runs(digits, norm):
    threat = ThreatModel(norm, {"linf": 0.1, "l2": 0.7}[norm])
    attack = PGD(threat, num_steps=12, num_restarts=3, loss="margin")
    whole = Suite(threat, attacks=(attack,), batch_size=16)
    cut = dataclasses.replace(whole, drop_every=12)
    whole, cut = (suite.report(*digits, key=KEY) for suite in (whole, cut))
    np.testing.assert_allclose(whole.images, cut.images, atol=2e-5)
    assert 0 < whole.standing.sum() < 16
