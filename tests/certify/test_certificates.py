"""Numbers of certificates: accuracy at a radius, average radius, and their intervals."""

import numpy as np
import pytest
from scipy import stats

from robust_jax.certify import (
    Certificate,
    average_certified_radius,
    average_certified_radius_interval,
    certified_accuracy,
    certified_accuracy_interval,
)


def test_numbers_of_certificates():
    certificate = Certificate(np.asarray([1, 2, -1, 0]), np.asarray([0.5, 1.0, 0.0, 0.25]))
    labels = np.asarray([1, 1, 0, 0])
    accuracy = certified_accuracy(certificate, labels, [0.0, 0.25, 0.3, 1.0])
    assert accuracy.tolist() == [0.5, 0.5, 0.25, 0.0]
    assert average_certified_radius(certificate, labels) == 0.75 / 4
    intervals = certified_accuracy_interval(certificate, labels, [0.0, 1.0], level=0.9)
    for found, successes in zip(intervals, (2, 0), strict=True):
        wilson = stats.binomtest(successes, 4).proportion_ci(0.9, "wilson")
        np.testing.assert_allclose(found, wilson)
    own = np.asarray([0.5, 0.0, 0.0, 0.25])
    student = stats.ttest_1samp(own, 0.0).confidence_interval(0.95)
    low, high = average_certified_radius_interval(certificate, labels)
    assert low == 0.0 > student.low
    np.testing.assert_allclose(high, student.high)
    with pytest.raises(ValueError, match="images=1 >= 2"):
        average_certified_radius_interval(
            Certificate(certificate.label[:1], certificate.radius[:1]), labels[:1]
        )


@pytest.mark.slow
@pytest.mark.parametrize("certified", [0.2, 0.9])
def test_intervals_of_certificates_cover_the_truth(certified):
    """Of samples of 200 images whose radii have a known distribution."""
    rng = np.random.default_rng(0)
    radius = np.where(rng.random((600, 200)) < certified, rng.exponential(0.5, (600, 200)), 0.0)
    missed = np.zeros(2)
    for one in radius:
        certificate = Certificate(np.where(one > 0, 0, -1), one)
        labels = np.zeros(200, int)
        low, high = average_certified_radius_interval(certificate, labels)
        missed[0] += not low <= 0.5 * certified <= high
        ((low, high),) = certified_accuracy_interval(certificate, labels, [0.4])
        missed[1] += not low <= certified * np.exp(-0.8) <= high
    # Neither is exact: a skewed mean, counts of 200.
    assert np.all(missed <= stats.binom.ppf(1 - 1e-6, 600, 0.07))
    assert np.all(missed >= 1)
