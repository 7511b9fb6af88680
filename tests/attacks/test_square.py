"""Square: its schedule and patterns by hand; it reads scores only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax.attacks import Square, ThreatModel, square

KEY = jax.random.key(11)


def test_sides_of_squares_follow_the_schedule():
    attack = Square(ThreatModel("linf", 0.1), num_queries=5000)
    sides = [attack.side(query, 32, 32) for query in (0, 11, 51, 201, 501, 1001, 2001, 4001)]
    # sqrt(.8 / 2^i * 1024), rounded
    assert sides == [29, 20, 14, 10, 7, 5, 4, 3]
    l2 = Square(ThreatModel("l2", 0.1), num_queries=5000)
    assert [l2.side(query, 32, 32) for query in (0, 11, 51, 4001)] == [29, 21, 15, 3]
    stretched = Square(ThreatModel("linf", 0.1), num_queries=100, rescale_schedule=True)
    assert [stretched.side(query, 32, 32) for query in (0, 1, 99)] == [29, 14, 1]


def test_bumps_and_dipoles_by_hand():
    np.testing.assert_allclose(
        square.bump(3, 3), [[0.25, 0.25, 0.25], [0.25, 1.25, 0.25], [0.25, 0.25, 0.25]]
    )
    np.testing.assert_allclose(np.sum(square.dipole(6) ** 2), 1)
    np.testing.assert_allclose(np.sum(square.dipole(6)), 0, atol=1e-12)


def test_square_reads_scores_only(digits):
    def votes(images, *, key):
        del key
        return jax.nn.one_hot(jnp.argmax(digits.view(images, key=None), axis=1), 10)

    attack = Square(ThreatModel("linf", 0.3), num_queries=40)
    adversarial = attack(votes, digits.images, digits.labels, key=KEY)
    standing = jnp.argmax(digits.view(adversarial, key=None), axis=1) == digits.labels
    assert int(standing.sum()) < 12


def test_rejects():
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(ValueError, match="Expected num_queries=0 >= 1"):
        Square(threat, num_queries=0)
    with pytest.raises(ValueError, match=r"Expected initial_share=0.0 in \(0, 1\]"):
        Square(threat, initial_share=0.0)
