"""Adversarial examples of one network judged by others."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from robust_jax import rng, voting
from robust_jax.attacks import Attack, losses
from robust_jax.attacks.checks import check_batch
from robust_jax.runtime.live import as_pytree, compiled, held
from robust_jax.types import View


def member_views(members: View, num_members: int) -> list[View]:
    """Returns a view [b c] of each member.

    Every call runs all members. Where that costs too much, bind a network of one member to
    `models.member_variables` instead.

    Args:
        members: view [m b c].
        num_members: m.

    Example:
        >>> from robust_jax.analysis import member_views
        >>> from robust_jax.attacks import as_view
        >>> members = as_view(lambda x: jnp.stack([x[:, :2], x[:, 2:]]))  # two of two classes
        >>> first, second = member_views(members, 2)
        >>> second(jnp.asarray([[1.0, 2.0, 3.0, 4.0]]), key=jax.random.key(0)).tolist()
        [[3.0, 4.0]]
    """
    # Which member it is is a leaf of the view, so an attack on all of them compiles once.
    return [
        jax.tree_util.Partial(_one_member, as_pytree(members), jnp.arange(num_members) == number)
        for number in range(num_members)
    ]


def _one_member(
    members: View, chosen: Bool[Array, " m"], images: Array, *, key: Key[Array, ""]
) -> Float[Array, "b c"]:
    logits = members(images, key=key)
    if len(logits) != len(chosen):
        raise ValueError(f"Expected num_members={len(chosen)} to be {len(logits)}, the view's.")
    return jax.lax.dynamic_index_in_dim(logits, jnp.argmax(chosen), keepdims=False)


class Transfer(NamedTuple):
    """Who is right on whose adversarial examples.

    Attributes:
        clean: is a member right on the clean image?
        members: is a member right on a source's adversarial example [source member b]?
        ensemble: is the members' vote?

    Example:
        >>> from robust_jax.analysis import Transfer
        >>> right = jnp.asarray([[[False, True], [True, True]]])  # a source, members, images
        >>> found = Transfer(jnp.ones((2, 2), bool), right, ensemble=jnp.ones((1, 2), bool))
        >>> found.members.mean(axis=2).tolist()  # accuracy of each member
        [[0.5, 1.0]]
    """

    clean: Bool[Array, "m b"]
    members: Bool[Array, "n m b"]
    ensemble: Bool[Array, "n b"]


def transfer(
    attack: Attack,
    sources: Sequence[View],
    members: View,
    images: Float[Array, "b *shape"],
    labels: Int[Array, " b"],
    *,
    key: Key[Array, ""],
    vote: voting.Vote = "mean_probability",
    index: Int[Array, " b"] | None = None,
) -> Transfer:
    """Returns who is right on the adversarial examples made on each source.

    Batches of a dataset are joined along the last axis.

    Args:
        attack: what makes the examples; all sources are attacked with the same random draws.
        sources: views [b c] under attack: `member_views(members, m)`, or other networks.
        members: view [m b c] of those who judge.
        images: clean images.
        labels: class of each image.
        key: root of the attack's and the judges' draws.
        vote: how the members decide together.
        index: dataset row of each image; default 0, 1, ..., b-1.

    Raises:
        ValueError: there are no sources, or shapes, dtypes or values do not fit.

    Example:
        >>> from robust_jax.analysis import member_views, transfer
        >>> from robust_jax.attacks import FGSM, ThreatModel, as_view
        >>> members = as_view(lambda x: jnp.stack([x[:, :2], x[:, 2:]]))  # two of two classes
        >>> images, labels = jnp.asarray([[0.6, 0.5, 0.7, 0.5]]), jnp.asarray([0])
        >>> attack, sources = FGSM(ThreatModel("linf", eps=0.125)), member_views(members, 2)
        >>> found = transfer(attack, sources, members, images, labels, key=jax.random.key(0))
        >>> found.members[:, :, 0].tolist()  # each falls to its own examples alone
        [[False, True], [True, False]]
    """
    if not sources:
        raise ValueError("Expected sources=[] to hold at least one view.")
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    check_batch(images, labels, jnp.arange(labels.size) if index is None else jnp.asarray(index))
    judges = held(members)
    # Clean and adversarial images under the same draws: only what the attack did counts.
    clean, _ = _decided_right(judges, images, labels, rng.stream(key, "judge"), vote)
    right = []
    for source in sources:
        adversarial = attack(source, images, labels, key=rng.stream(key, "attack"), index=index)
        right.append(_decided_right(judges, adversarial, labels, rng.stream(key, "judge"), vote))
    return Transfer(clean, *(jnp.stack(each) for each in zip(*right, strict=True)))


@functools.partial(compiled, static_argnames=("vote",))
def _decided_right(
    members: View, images: Array, labels: Array, key: Key[Array, ""], vote: voting.Vote
) -> tuple[Bool[Array, "m b"], Bool[Array, " b"]]:
    member_logits = members(images, key=key)
    together = losses.decided(voting.scores(member_logits, vote)) == labels
    return losses.decided(member_logits) == labels[None], together


def success_rates(result: Transfer) -> Float[Array, "n judges"]:
    """Returns how often a source's examples fool each member and, in the last column, their vote.

    Only examples that every member gets right on the clean image count; nan if there are none.

    Args:
        result: of all images.

    Example:
        >>> from robust_jax.analysis import Transfer, success_rates
        >>> right = jnp.asarray([[[False, True], [True, True]]])  # a source, members, images
        >>> found = Transfer(jnp.ones((2, 2), bool), right, ensemble=jnp.ones((1, 2), bool))
        >>> success_rates(found).tolist()  # of each member, and of the vote
        [[0.5, 0.0, 0.0]]

    References:
        Yang et al., "DVERGE: Diversifying vulnerabilities for enhanced robust generation of
        ensembles", 2020, figure 3.
    """
    counted = jnp.all(result.clean, axis=0)
    judges = jnp.concatenate([result.members, result.ensemble[:, None]], axis=1)
    fooled = jnp.sum(~judges & counted[None, None], axis=-1, dtype=jnp.float32)
    return fooled / jnp.sum(counted, dtype=jnp.float32)
