"""HopSkipJump: near exact distances on a linear model."""

import pytest

from robust_jax.attacks import HopSkipJump


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_comes_near_the_exact_distance(norm, assert_exact):
    assert_exact(HopSkipJump(distance_norm=norm, num_steps=15), norm, 0.15)


def test_rejects():
    with pytest.raises(ValueError, match="Expected num_first_queries=0 >= 1"):
        HopSkipJump(num_first_queries=0)
