"""Suites of any attacks, images that are left out once they have fallen, few passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import (
    APGD,
    AutoAttack,
    Boundary,
    DeepFool,
    FrugalAttack,
    Square,
    Suite,
    ThreatModel,
    as_view,
)

KEY = jax.random.key(13)
THREAT = ThreatModel("linf", 0.14)
LONG = Suite(THREAT, attacks=(APGD(THREAT, num_steps=12),), batch_size=16)


@pytest.mark.slow
def test_an_image_that_has_fallen_costs_few_steps_more(digits):
    whole = LONG.report(*digits, key=KEY)
    cut = dataclasses.replace(LONG, drop_every=3).report(*digits, key=KEY)
    np.testing.assert_array_equal(cut.standing, whole.standing)
    logits = digits.view(jnp.asarray(cut.images), key=None)
    np.testing.assert_array_equal(np.argmax(logits, axis=1) == digits.labels, cut.standing)
    assert np.abs(cut.images - digits.images).max() <= THREAT.eps + 1e-6
    # Two forward passes look at the clean image; then 13 points, and one that is judged.
    assert np.all(whole.passes.forward == 2 + 13 + 1)
    assert np.all(cut.passes.forward[cut.standing] == 2 + 13)
    fallen = cut.passes.forward[~cut.standing]
    assert set(fallen - 2 - 1) <= {3, 6, 9, 12, 13}
    assert fallen.min() == 2 + 3 + 1


@pytest.mark.slow
def test_a_run_in_l1_is_not_parted(digits):
    threat = ThreatModel("l1", 4.0)
    whole = Suite(threat, attacks=(APGD(threat, num_steps=6),), batch_size=16)
    cut = dataclasses.replace(whole, drop_every=3)
    reports = [suite.report(*digits, key=KEY) for suite in (whole, cut)]
    np.testing.assert_array_equal(*(report.images for report in reports))
    assert not reports[0].standing.all()


@pytest.mark.slow
def test_any_attacks_and_who_felled_what(digits):
    suite = Suite(THREAT, attacks=(DeepFool(), APGD(THREAT, num_steps=12)), batch_size=16)
    report = suite.report(*digits, key=KEY)
    assert set(report.fallen_to) == {-1, 0, 1}
    np.testing.assert_array_equal(report.standing, report.fallen_to == -1)
    assert np.abs(report.images - digits.images).max() <= THREAT.eps + 1e-6


@pytest.mark.slow
def test_the_frugal_verdict_is_autoattacks(many_digits):
    frugal = FrugalAttack(THREAT, batch_size=64).report(*many_digits, key=KEY)
    whole = AutoAttack(THREAT, batch_size=64).report(*many_digits, key=KEY)
    assert frugal.standing.sum() <= whole.standing.sum() + 1
    spent, price = (sum(map(np.sum, one.passes)) for one in (frugal, whole))
    assert 5 * spent < price


def test_bad_suites():
    with pytest.raises(ValueError, match="to hold one at least"):
        Suite(THREAT)
    with pytest.raises(ValueError, match="Expected drop_every=0 >= 1"):
        dataclasses.replace(LONG, drop_every=0)
    with pytest.raises(ValueError, match="Expected threat=ThreatModel"):
        dataclasses.replace(LONG, threat=ThreatModel("linf", 0.1))
    images = jnp.zeros((2, 8, 8, 1))
    with pytest.raises(ValueError, match="Expected starts to be None: all attacks of this Suite"):
        LONG(bright, images, jnp.zeros(2, int), key=KEY, starts=images)


@as_view
def bright(images):
    """Class 1 where the mean is above 0.9: no noise is."""
    above = images.mean(axis=(1, 2, 3)) - 0.9
    return jnp.stack([-above, above], axis=1)


@pytest.mark.slow
def test_attacks_of_a_suite_begin_at_the_images_that_are_handed_in():
    threat = ThreatModel("l2", 1.0)
    alone = Suite(threat, attacks=(Boundary(num_steps=1),), batch_size=4)
    given = bright, jnp.full((4, 8, 8, 1), 0.85), jnp.zeros(4, int)
    starts = jnp.ones((3, 8, 8, 1)).at[0].set(0.1)
    assert alone.report(*given, key=KEY).standing.all()
    assert not alone.started(*given, key=KEY).any()
    report = alone.report(*given, key=KEY, starts=starts)
    assert not report.standing.any()
    assert alone.started(*given, key=KEY, starts=starts).all()
    np.testing.assert_array_equal(alone(*given, key=KEY, starts=starts), report.images)
    # From an image that Square leaves Boundary goes on; Square needs none.
    both = Suite(threat, attacks=(Square(threat, num_queries=2), Boundary(num_steps=1)))
    assert both.started(*given, key=KEY).all()
    with pytest.raises(ValueError, match=r"Expected starts\.shape=\(3, 4, 4, 1\)"):
        alone(*given, key=KEY, starts=jnp.ones((3, 4, 4, 1)))


def test_a_suite_asks_for_logits_where_one_of_its_attacks_does():
    scores = dataclasses.replace(LONG, attacks=(Square(THREAT),))
    assert not scores.needs_logits
    assert dataclasses.replace(LONG, attacks=(Square(THREAT), *LONG.attacks)).needs_logits
