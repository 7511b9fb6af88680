"""The cross-entropy of a network, of an ensemble's members, or of their vote."""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp

from robust_jax import checks
from robust_jax.methods.runs import cross_entropy
from robust_jax.methods.terms import Pass, Term, Value

Reduction = Literal["sum", "mean", "vote"]
"""Over members: of "sum" each trains at the full rate, of "mean" at one as many times smaller; of
their "vote" they train together."""


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Term):
    """The members' mean cross-entropies, summed or averaged over them, or that of their vote.

    Attributes:
        of: "sum" or "mean" over members, or their "vote".
        weight: factor.

    Raises:
        ValueError: another reduction, or a negative weight.

    Example:
        >>> from robust_jax.methods import PARL, TRADES, CrossEntropy, Standard
        >>> Standard(cross_entropy="mean").all_terms == (CrossEntropy("mean"),)
        True
        >>> [method.own_terms[0].of for method in (PARL(), TRADES())]
        ['sum', 'vote']
        >>> CrossEntropy(weight=-1.0)
        Traceback (most recent call last):
            ...
        ValueError: Expected weight=-1.0 >= 0.
    """

    of: Reduction = "sum"
    weight: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of(self, "of", get_args(Reduction))
        checks.at_least(self, 0, "weight")

    def __call__(self, passed: Pass) -> Value:
        """Returns the weighted cross-entropy, and reports it without the weight."""
        if self.of == "vote":
            crossed = cross_entropy(passed.vote_logits, passed.labels, passed.label_smoothing)
        else:
            reduce = jnp.sum if self.of == "sum" else jnp.mean
            crossed = reduce(passed.losses)
        return Value(self.weight * crossed, {"cross_entropy": crossed})
