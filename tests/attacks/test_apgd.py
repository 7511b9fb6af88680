"""APGD: its schedule, and what it rejects."""

import jax
import numpy as np
import pytest

from robust_jax.attacks import APGD, APGDT, FABT, ThreatModel, apgd

KEY = jax.random.key(11)


def test_reviews_come_when_the_paper_says():
    review, window = apgd.checkpoints(100)
    # Croce and Hein 2020: p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06).
    np.testing.assert_array_equal(np.flatnonzero(review) + 1, [22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(window[review], [22, 19, 16, 13, 10, 7, 6, 6])


def test_too_few_classes_are_an_error(linear, digits):
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(ValueError, match="Expected num_classes=2 >= 3 for the DLR loss"):
        APGD(threat, loss="dlr")(*linear, key=KEY)
    three = lambda x, key: digits.view(x, key=key)[:, :3]  # noqa: E731
    with pytest.raises(ValueError, match="Expected num_classes=3 >= 4 for the targeted DLR loss"):
        APGDT(threat, num_targets=2)(three, digits.images, digits.labels % 3, key=KEY)
    for attack in (APGDT(threat, num_targets=10), FABT(threat, num_targets=10)):
        with pytest.raises(ValueError, match=r"Expected num_targets=10 in \[1, 9\]"):
            attack(*digits, key=KEY)


def test_rejects():
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(ValueError, match=r"Expected rho=1.5 in \(0, 1\)"):
        APGD(threat, rho=1.5)
    with pytest.raises(ValueError, match="Expected num_targets=0 >= 1"):
        APGDT(threat, num_targets=0)
    with pytest.raises(ValueError, match="Expected num_restarts=0 >= 1"):
        APGD(threat, num_restarts=0)
