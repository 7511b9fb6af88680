"""Decision rules of ensembles, how members vote: member logits [m b c] -> scores [b c].

The decision is the argmax of the scores, the lowest class where scores are equal. Every rule takes
a mask: which members vote on which example, at least one on each.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Vote = Literal[
    "mean_probability", "mean_logit", "majority_lowest_class", "majority_mean_probability", "borda"
]
"""A rule and, for majorities, what breaks a tie between the classes with most votes."""

Mask = Bool[Array, "m b"] | None
"""Who votes on which example; None for everyone."""

Ties = Literal["lowest_class", "mean_probability"]


def in_float32(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns logits of 16 bits as float32, in which they are averaged and counted; others as is.

    Example:
        >>> from robust_jax import voting
        >>> [str(voting.in_float32(jnp.zeros(1, kind)).dtype) for kind in ("bfloat16", "float32")]
        ['float32', 'float32']
    """
    return logits.astype(jnp.float32) if logits.dtype.itemsize < 4 else logits


def mean_probability(
    member_logits: Float[Array, "m b c"], *, mask: Mask = None
) -> Float[Array, "b c"]:
    """Returns the logarithm of the mean of the members' softmax.

    The logarithm keeps its order and its gradient where probabilities underflow.

    Args:
        member_logits: logits of each member.
        mask: who votes.

    Example:
        >>> from robust_jax import voting
        >>> member_logits = jnp.log(jnp.asarray([[[0.5, 0.5]], [[0.9, 0.1]], [[0.9, 0.1]]]))
        >>> [round(p, 2) for p in jnp.exp(voting.mean_probability(member_logits))[0].tolist()]
        [0.77, 0.23]
    """
    log_probability = jax.nn.log_softmax(in_float32(member_logits), axis=-1)
    if mask is None:
        return jax.nn.logsumexp(log_probability, axis=0) - jnp.log(member_logits.shape[0])
    total = jax.nn.logsumexp(log_probability, axis=0, where=mask[:, :, None])
    return total - jnp.log(_num_voters(mask, total))


def mean_logit(member_logits: Float[Array, "m b c"], *, mask: Mask = None) -> Float[Array, "b c"]:
    """Returns the mean of the members' logits.

    Args:
        member_logits: logits of each member.
        mask: who votes.

    Example:
        >>> from robust_jax import voting
        >>> member_logits = jnp.asarray([[[0.0, 1.0]], [[4.0, 1.0]], [[2.0, 1.0]]])
        >>> voting.mean_logit(member_logits).tolist()
        [[2.0, 1.0]]
    """
    member_logits = in_float32(member_logits)
    if mask is None:
        return jnp.mean(member_logits, axis=0)
    total = jnp.sum(member_logits, axis=0, where=mask[:, :, None])
    return total / _num_voters(mask, total)


def borda(member_scores: Float[Array, "m b c"], *, mask: Mask = None) -> Float[Array, "b c"]:
    """Returns the Borda count: over members, how many classes each class is ranked above.

    A member gives its best class c - 1 points and its worst none. Of classes to which it gives
    the same score the lower is ranked above. Only the order of a member's scores counts, and the
    count has no gradient.

    Args:
        member_scores: scores of each member, of which the order counts.
        mask: who votes.

    Example:
        >>> from robust_jax import voting
        >>> member_scores = jnp.asarray([[[9.0, 5.0, 0.0]], [[0.0, 2.0, 1.0]]])
        >>> voting.borda(member_scores).tolist()
        [[2.0, 3.0, 1.0]]

    References:
        Tiwari et al., "Regroup: Rank-aggregating ensemble of generative classifiers for robust
        predictions", 2020, section 3.2.1, equation 6.
    """
    member_scores, num_classes = in_float32(member_scores), member_scores.shape[-1]
    order = jnp.argsort(-jax.lax.stop_gradient(member_scores), axis=-1, stable=True)
    # The position of each class in the order: an argsort of the argsort, by one scatter.
    positions = jnp.zeros_like(order)
    places = jnp.broadcast_to(jnp.arange(num_classes, dtype=order.dtype), order.shape)
    positions = jnp.put_along_axis(positions, order, places, axis=-1, inplace=False)
    points = (num_classes - 1 - positions).astype(member_scores.dtype)  # equation 6, M - R
    count = jnp.sum(points, axis=0, where=None if mask is None else mask[:, :, None])
    return _of_numbers(count, member_scores, mask)


def majority(
    member_logits: Float[Array, "m b c"], *, ties: Ties, mask: Mask = None
) -> Float[Array, "b c"]:
    """Returns the share of members that vote for each class; it has no gradient.

    Each member votes for the argmax of its logits.

    Args:
        member_logits: logits of each member.
        ties: between the classes with most votes, "lowest_class" takes the lowest index (as
            `torch.mode` does: equal shares are left as they are), "mean_probability" the one of
            largest mean softmax among them, which is given half a vote more.
        mask: who votes.

    Raises:
        ValueError: no such rule.

    Example:
        >>> from robust_jax import voting
        >>> member_logits = jnp.asarray([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 9.0]]])
        >>> (3 * voting.majority(member_logits, ties="lowest_class")).round().tolist()  # votes
        [[2.0, 1.0]]
    """
    if ties not in get_args(Ties):
        raise ValueError(f"Expected ties={ties!r} to be one of {get_args(Ties)}.")
    member_logits = in_float32(member_logits)
    num_members, _, num_classes = member_logits.shape
    ballots = jax.nn.one_hot(
        jnp.argmax(member_logits, axis=-1), num_classes, dtype=member_logits.dtype
    )
    votes = jnp.sum(ballots, axis=0, where=None if mask is None else mask[:, :, None])
    if ties == "mean_probability":
        leading = votes == jnp.max(votes, axis=-1, keepdims=True)
        likely = mean_probability(member_logits, mask=mask)
        winner = jnp.argmax(jnp.where(leading, likely, -jnp.inf), axis=-1)
        tied = jnp.sum(leading, axis=-1, keepdims=True) > 1
        half = jax.nn.one_hot(winner, num_classes, dtype=votes.dtype) / 2
        votes = votes + jnp.where(tied, half, jnp.zeros_like(half))
    voters = num_members if mask is None else _num_voters(mask, votes)
    return jax.lax.stop_gradient(_of_numbers(votes / voters, member_logits, mask))


def _of_numbers(
    votes: Float[Array, "b c"], member_logits: Float[Array, "m b c"], mask: Mask
) -> Float[Array, "b c"]:
    """Returns the votes, NaN where a voter's logits are: it has no order to vote by."""
    broken = jnp.any(jnp.isnan(member_logits), axis=-1)
    broken = jnp.any(broken if mask is None else broken & mask, axis=0)
    return jnp.where(broken[:, None], jnp.nan, votes)


def scores(member_logits: Float[Array, "m b c"], vote: Vote) -> Float[Array, "b c"]:
    """Returns the scores of a vote; a single member decides by its logits as they are.

    Guarantees:
        The argmax over classes is the decision of the vote.

    Args:
        member_logits: logits of each member, at least one.
        vote: the rule.

    Raises:
        ValueError: no such vote, or no members.

    Example:
        >>> from robust_jax import voting
        >>> member_logits = jnp.asarray([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 9.0]]])
        >>> [voting.scores(member_logits, vote).argmax(1).item() for vote in (
        ...     "majority_lowest_class", "mean_logit")]
        [0, 1]
    """
    _check(vote, member_logits)
    if member_logits.shape[0] > 1 and vote == "majority_lowest_class":
        return majority(member_logits, ties="lowest_class")
    if member_logits.shape[0] > 1 and vote == "majority_mean_probability":
        return majority(member_logits, ties="mean_probability")
    if member_logits.shape[0] > 1 and vote == "borda":
        return borda(member_logits)
    return logits(member_logits, vote)


def logits(member_logits: Float[Array, "m b c"], vote: Vote) -> Float[Array, "b c"]:
    """Returns differentiable logits of a vote, for losses and attacks.

    Of a majority or a Borda vote, which have no gradient, they are those of the mean probability.
    A single member's are its own.

    Args:
        member_logits: logits of each member, at least one.
        vote: the rule.

    Raises:
        ValueError: no such vote, or no members.

    Example:
        >>> from robust_jax import voting
        >>> member_logits = jnp.asarray([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 9.0]]])
        >>> vote = "majority_lowest_class"
        >>> [rule(member_logits, vote).argmax(1).item() for rule in (voting.scores, voting.logits)]
        [0, 1]
    """
    _check(vote, member_logits)
    if member_logits.shape[0] == 1:
        return member_logits[0]
    if vote == "mean_logit":
        return mean_logit(member_logits)
    return mean_probability(member_logits)


def margins(
    member_margins: Float[Array, "b m c"], labels: Int[Array, " b"], vote: Vote
) -> Float[Array, "b c"]:
    """Returns lower bounds of score_label - score_c of a vote, 0 for c = label.

    Args:
        member_margins: lower bounds of logit_label - logit_c of each member.
        labels: classes.
        vote: the rule. With p the softmax of one member and m_c its margins, mean probability is
            bounded by p_label >= 1 / (1 + sum_c exp(-m_c)) and p_c <= 1 / (1 + exp(m_c)); a
            majority by the members whose own decision is certain, less those that might vote for
            c; a Borda count by the pairs that are certain.

    Guarantees:
        Where the margins of an image hold in a ball around it, so do these: all above 0, the vote
        decides for the label in the whole ball. They are the margins themselves of one member.

    Raises:
        ValueError: no such vote.

    Example:
        >>> from robust_jax import voting
        >>> bounds, labels = jnp.asarray([[[0.0, 2.0], [0.0, 1.0], [0.0, -0.5]]]), jnp.asarray([0])
        >>> (voting.margins(bounds, labels, "majority_lowest_class") > 0).tolist()  # two for sure
        [[False, True]]
    """
    _check(vote)
    num_members, num_classes = member_margins.shape[1:]
    own = jax.nn.one_hot(labels, num_classes, dtype=bool)
    bounds = jnp.where(own[:, None], 0, member_margins)
    surely_below = bounds > 0
    if num_members == 1:
        found = bounds[:, 0]
    elif vote == "mean_logit":
        found = jnp.mean(bounds, axis=1)
    elif vote == "mean_probability":
        of_label = -jax.nn.logsumexp(-bounds, axis=2)
        others = jax.nn.logsumexp(-jax.nn.softplus(bounds), axis=1)
        found = jax.nn.logsumexp(of_label, axis=1)[:, None] - others
    elif vote == "borda":
        above = jnp.sum(surely_below, axis=(1, 2), dtype=jnp.int32)[:, None]
        found = above - jnp.sum(num_classes - 1 - surely_below.astype(jnp.int32), axis=1)
    else:
        certain = jnp.sum(jnp.all(surely_below | own[:, None], axis=2), axis=1)
        found = (certain[:, None] - jnp.sum(~surely_below, axis=1)) / num_members
        if vote == "majority_mean_probability":  # who wins a tie has half a vote more
            found = jnp.where(found > 0, found, found - 0.5 / num_members)
    found = found.astype(member_margins.dtype)
    return jnp.where(own, 0, jnp.where(jnp.isnan(found), -jnp.inf, found))


def _num_voters(mask: Bool[Array, "m b"], like: Float[Array, "b c"]) -> Float[Array, "b 1"]:
    return jnp.sum(mask, axis=0, dtype=like.dtype)[:, None]


def _check(vote: str, members: Array | None = None) -> None:
    if vote not in get_args(Vote):
        raise ValueError(f"Expected vote={vote!r} to be one of {get_args(Vote)}.")
    if members is not None and members.ndim != 3:
        raise ValueError(f"Expected member_logits.shape={members.shape} to be [m b c].")
