"""The smallest ball in which PGD succeeds: exact on a linear model."""

import pytest

from robust_jax.attacks import SmallestEps


@pytest.mark.parametrize(
    ("attack", "norm", "slack"),
    [
        (SmallestEps(distance_norm="l2", initial_eps=0.01, relative_step=0.5), "l2", 0.02),
        (SmallestEps(initial_eps=0.01, relative_step=0.5), "linf", 0.02),
    ],
    ids=["l2", "linf"],
)
def test_exact_distance_of_a_linear_model(attack, norm, slack, assert_exact):
    assert_exact(attack, norm, slack)


def test_rejects():
    for fields, message in (
        ({"growth": 1.0}, "Expected growth=1.0 > 1"),
        ({"initial_eps": 0.0}, "Expected initial_eps=0.0 > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SmallestEps(**fields)
