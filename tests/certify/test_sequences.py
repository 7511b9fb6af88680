"""Bounds that hold at every look: coverage by simulation, what is decided when, votes spared."""

import numpy as np
import pytest
from scipy import special, stats

from robust_jax.certify import (
    VoteSequence,
    looks,
    lower_confidence_bound,
)

ALPHA = 0.05
SIGMA = 0.5
MOST = 10_000
RUNS = 4_000
PROBABILITIES = (0.3, 0.5, 0.7, 0.95, 0.999)


def runs(probability, at, seed=0):
    """Returns the votes for a class at each of the looks, of many simulated images [l n]."""
    rng = np.random.default_rng(seed)
    votes = np.diff([0, *at])
    return np.cumsum(rng.binomial(votes[:, None], probability, (len(at), RUNS)), axis=0)


def decided(sequence, counts):
    """Returns the radius at which each of the runs ends, and its votes."""
    shown, open_ = None, np.ones(RUNS, bool)
    radius, num_votes = np.zeros(RUNS), np.zeros(RUNS, int)
    for look, here in enumerate(counts):
        shown = sequence.shown(here, look, shown)
        ends = open_ & sequence.decided(here, look, shown)
        radius[ends] = sequence.radius_of(shown.lower)[ends]
        num_votes[ends] = sequence.at[look]
        open_ &= ~ends
    assert not open_.any()
    return radius, num_votes


def most_wrong(share):
    """Returns how many runs may be wrong that are so with probability `share` at most."""
    return stats.binom.ppf(1 - 1e-6, RUNS, share)


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_bounds_hold_at_all_looks_at_once(probability):
    """Who stops where the bound is worst is wrong with probability alpha; fixed ones are not so."""
    sequence = VoteSequence(looks(MOST), ALPHA, SIGMA)
    counts = runs(probability, sequence.at)
    above, below, fixed = (np.zeros(RUNS, bool) for _ in range(3))
    shown = None
    for look, here in enumerate(counts):
        shown = sequence.shown(here, look, shown)
        above |= shown.lower > probability
        below |= shown.upper < probability
        alone = VoteSequence((sequence.at[look],), ALPHA, SIGMA).shown(here, 0)
        fixed |= alone.lower > probability
    assert above.sum() <= most_wrong(ALPHA)
    assert below.sum() <= most_wrong(ALPHA)
    # The test can fail: the bound of one look, looked at again and again, fails it.
    assert fixed.sum() > most_wrong(ALPHA)


ASKED = [{"radius": 0.2}, {"radius": 0.8}, {"tolerance": 0.0}, {"tolerance": 0.1}]


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    "probability",
    [0.5, 0.656, 0.9, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.45, 0.6, 0.999))],
)
def test_certificates_where_votes_end(asked, probability):
    """Wrong, which is a radius beyond the true one, at most as often as alpha says."""
    sequence = VoteSequence(looks(MOST), ALPHA, SIGMA, **asked)
    radius, num_votes = decided(sequence, runs(probability, sequence.at))
    truth = max(SIGMA * special.ndtri(probability), 0.0)
    assert np.sum(radius > truth) <= most_wrong(ALPHA)
    assert num_votes.min() >= sequence.at[0]
    if "tolerance" not in asked and abs(truth - asked["radius"]) > 0.1:
        # Far from the border the verdict is the truth, for a fraction of the votes.
        assert np.mean((radius >= asked["radius"]) == (truth > asked["radius"])) > 0.99
        assert num_votes.mean() < MOST / 4


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.999])
def test_a_radius_within_its_tolerance(probability):
    """Of what all votes show: the rest of them rarely adds more."""
    at = looks(MOST)
    counts = runs(probability, at)
    sequence = VoteSequence(at, ALPHA, SIGMA, tolerance=0.2)
    radius, num_votes = decided(sequence, counts)
    whole = sequence.radius_of(sequence.shown(counts[-1], len(at) - 1).lower)
    assert np.mean(radius < 0.8 * whole) < ALPHA
    assert num_votes.mean() < 0.9 * MOST
    closer = VoteSequence(at, ALPHA, SIGMA, tolerance=0.05)
    assert num_votes.mean() < decided(closer, counts)[1].mean()


def test_abstention_is_decided_early():
    """Where the class is no majority, and where the rest of the votes cannot make it one."""
    sequence = VoteSequence(looks(MOST), ALPHA, SIGMA, tolerance=0.0)
    radius, num_votes = decided(sequence, runs(0.3, sequence.at))
    assert radius.max() == 0
    assert num_votes.mean() < MOST / 50
    # A run of votes for the class, then none: at 9,910 votes the rest would not do.
    late = VoteSequence((9_910, MOST), ALPHA, SIGMA, tolerance=0.0)
    few = np.asarray(4_955)
    assert late.shown(few, 0).upper > 0.5
    assert late.decided(few, 0, late.shown(few, 0))


def test_one_look_is_the_fixed_bound():
    sequence = VoteSequence((1_000,), 0.001, SIGMA)
    for count in (0, 1, 500, 990, 1_000):
        shown = sequence.shown(np.asarray(count), 0)
        assert shown.lower == lower_confidence_bound(count, 1_000, 0.001)
        expected = max(SIGMA * special.ndtri(shown.lower), 0.0) if count else 0.0
        assert sequence.radius_of(shown.lower) == expected
        assert sequence.decided(np.asarray(count), 0, shown)


def test_total_variation_is_paid_for_on_both_sides():
    sequence = VoteSequence((1_000,), 0.001, SIGMA, total_variation=0.01)
    found = sequence.radius_of(np.asarray([0.505, 0.52, 0.9]))
    expected = SIGMA * (special.ndtri(0.89) - special.ndtri(0.51))
    np.testing.assert_allclose(found, [0.0, 0.0, expected], atol=1e-15)


def test_looks():
    found = looks(100_000)
    assert len(found) == 73
    assert (found[0], found[1], found[-1]) == (100, 111, 100_000)
    assert looks(100) == (100,)
    assert looks(30) == (30,)
    for at in ((), (0, 5), (5, 5), (7, 3)):
        with pytest.raises(ValueError, match="increasing numbers of votes >= 1"):
            VoteSequence(at, ALPHA, SIGMA)
    with pytest.raises(ValueError, match=r"alpha=0\.0 in \(0, 1\)"):
        VoteSequence((5,), 0.0, SIGMA)
    with pytest.raises(ValueError, match=r"total_variation=0\.5 in \[0, 1/2\)"):
        VoteSequence((5,), ALPHA, SIGMA, total_variation=0.5)
