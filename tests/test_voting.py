"""Votes on numbers worked out by hand."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import voting


def logits_of(*members):
    """Returns logits whose softmax is each member's list of probabilities, shifted at will."""
    return jnp.log(jnp.array(members))[:, None, :] + jnp.array([3.0, -7.0, 1.0])[:, None, None]


# Members decide 2, 1, 0: a tie of three. Mean probabilities .3167, .3333, .35.
THREE_WAY = logits_of([0.15, 0.35, 0.50], [0.10, 0.60, 0.30], [0.70, 0.05, 0.25])
# Members decide 1, 1, 0: a majority for 1, though 0 has the larger mean probability.
MAJORITY = logits_of([0.45, 0.50, 0.05], [0.45, 0.50, 0.05], [0.98, 0.01, 0.01])


def test_mean_probability_by_hand():
    np.testing.assert_allclose(
        jnp.exp(voting.mean_probability(THREE_WAY)),
        [[0.95 / 3, 1.0 / 3, 1.05 / 3]],
        rtol=1e-5,
    )
    assert jnp.argmax(voting.mean_probability(MAJORITY)) == 0


def test_mean_probability_keeps_its_order_where_probabilities_underflow():
    logits = jnp.array([[[0.0, -200.0, -300.0]], [[0.0, -300.0, -201.0]]])
    scores = voting.mean_probability(logits)[0]
    np.testing.assert_allclose(scores, [0.0, -200 - np.log(2), -201 - np.log(2)], rtol=1e-6)


def test_mean_logit_by_hand():
    logits = jnp.array([[[1.0, 2.0]], [[3.0, -4.0]]])
    np.testing.assert_allclose(voting.mean_logit(logits), [[2.0, -1.0]])


def test_majority_by_hand():
    for ties in ("lowest_class", "mean_probability"):
        scores = voting.majority(MAJORITY, ties=ties)
        np.testing.assert_allclose(scores, [[1 / 3, 2 / 3, 0]], rtol=1e-6)


def test_ties_by_hand():
    lowest = voting.majority(THREE_WAY, ties="lowest_class")
    np.testing.assert_allclose(lowest, [[1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert jnp.argmax(lowest) == 0
    likeliest = voting.majority(THREE_WAY, ties="mean_probability")
    np.testing.assert_allclose(likeliest, [[1 / 3, 1 / 3, 1.5 / 3]], rtol=1e-6)


def test_a_tie_is_broken_among_the_leading_classes_only():
    """Classes 0 and 2 have one vote each; class 1 has the largest mean probability, no vote."""
    logits = logits_of([0.50, 0.49, 0.01], [0.02, 0.47, 0.51], [0.3, 0.3, 0.4])[:2]
    assert jnp.argmax(voting.mean_probability(logits)) == 1
    scores = voting.majority(logits, ties="mean_probability")
    np.testing.assert_allclose(scores, [[0.75, 0.0, 0.5]], rtol=1e-6)


def test_equal_in_everything_takes_the_lowest_class():
    logits = jnp.array([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    for ties in ("lowest_class", "mean_probability"):
        assert jnp.argmax(voting.majority(logits, ties=ties)) == 0


def test_majority_is_the_mode_of_the_decisions():
    logits = jax.random.normal(jax.random.key(0), (5, 200, 4))
    decisions = np.asarray(jnp.argmax(logits, -1))
    expected = [np.bincount(column, minlength=4).argmax() for column in decisions.T]
    scores = voting.majority(logits, ties="lowest_class")
    np.testing.assert_array_equal(jnp.argmax(scores, -1), expected)
    np.testing.assert_allclose(scores.sum(-1), 1.0, rtol=1e-5)


def test_by_name():
    for vote, fn in (
        ("mean_probability", voting.mean_probability),
        ("mean_logit", voting.mean_logit),
        ("majority_lowest_class", lambda x: voting.majority(x, ties="lowest_class")),
        ("majority_mean_probability", lambda x: voting.majority(x, ties="mean_probability")),
        ("borda", voting.borda),
    ):
        np.testing.assert_array_equal(voting.scores(THREE_WAY, vote), fn(THREE_WAY))
        np.testing.assert_array_equal(voting.scores(THREE_WAY[:1], vote), THREE_WAY[0])
        np.testing.assert_array_equal(voting.logits(THREE_WAY[:1], vote), THREE_WAY[0])
        differentiable = voting.mean_logit if vote == "mean_logit" else voting.mean_probability
        np.testing.assert_array_equal(voting.logits(THREE_WAY, vote), differentiable(THREE_WAY))


def test_borda_by_hand():
    """Three voters, three classes; the second voter's tie goes to the lower class."""
    ballots = jnp.array([[3.0, 2.0, 1.0], [0.5, 0.5, 9.0], [1e-9, 2e-9, 0.0]])[:, None]
    # First class: 2 + 1 + 1 points; second: 1 + 0 + 2; third: 0 + 2 + 0.
    np.testing.assert_array_equal(voting.borda(ballots), [[4.0, 3.0, 2.0]])
    assert float(jax.grad(lambda x: voting.borda(x)[0, 0])(ballots).sum()) == 0


def test_borda_counts_the_classes_ranked_below():
    ballots = jnp.round(2 * jax.random.normal(jax.random.key(0), (4, 50, 6)))
    expected = np.zeros((50, 6))
    values = np.asarray(ballots)
    for m, b, y, z in np.ndindex(4, 50, 6, 6):
        ours, theirs = values[m, b, y], values[m, b, z]
        expected[b, y] += theirs < ours or (theirs == ours and z > y)
    np.testing.assert_array_equal(jax.jit(voting.borda)(ballots), expected)


def test_who_is_masked_has_no_vote():
    logits = jax.random.normal(jax.random.key(1), (3, 4, 5))
    mask = jnp.array([[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 0]], bool)
    rules = {
        "mean_probability": voting.mean_probability,
        "mean_logit": voting.mean_logit,
        "borda": voting.borda,
        "lowest": functools.partial(voting.majority, ties="lowest_class"),
        "likeliest": functools.partial(voting.majority, ties="mean_probability"),
    }
    given = [np.flatnonzero(votes) for votes in np.asarray(mask).T]

    @functools.partial(jax.jit, static_argnums=1)
    def both(logits, rule):
        voters = [logits[rows][:, b : b + 1] for b, rows in enumerate(given)]
        return rule(logits, mask=mask), jnp.concatenate([rule(alone) for alone in voters])

    for name, rule in rules.items():
        found, alone = both(logits, rule)
        np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-6, err_msg=name)


def test_bad_names():
    # Unwrapped: while tests run, the type checker would object before the function does.
    for fn in (voting.scores, voting.logits):
        with pytest.raises(ValueError, match="Expected vote='median' to be one of"):
            inspect.unwrap(fn)(THREE_WAY, "median")
    with pytest.raises(ValueError, match="Expected ties='coin' to be one of"):
        inspect.unwrap(voting.majority)(THREE_WAY, ties="coin")
