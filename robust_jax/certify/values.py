"""What stands for a value while a network becomes a graph: an array, or what depends on images."""

import dataclasses
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Symbol:
    """The value of a node."""

    node: int


@dataclasses.dataclass(frozen=True)
class Sign:
    """Where the value of a node is >= 0, or > 0: at 0 both sides of a rectifier agree."""

    node: int


Value = Symbol | Sign | ArrayLike


def are_arrays(values: Sequence[Value]) -> TypeGuard[Sequence[ArrayLike]]:
    """Returns whether none of these depends on the images."""
    return not any(isinstance(x, (Symbol, Sign)) for x in values)


def is_known(x: Value) -> TypeGuard[ArrayLike]:
    """Returns whether this is an array whose numbers can be looked at."""
    return not isinstance(x, (Symbol, Sign, Tracer))


def is_zero(x: Value) -> bool:
    """Returns whether this is known to be zero everywhere."""
    return is_known(x) and not np.any(np.asarray(x))
