"""What stands for a value while a network becomes a graph: an array, or what depends on images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Symbol:
    """The value of a node."""

    node: int


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """An operation on what depends on the images: no node of its own, but perhaps part of one.

    Attributes:
        operation: its name.
        params: of the operation.
        operands: what it acts on.
    """

    operation: str
    params: Mapping[str, Any]
    operands: "tuple[Value, ...]"


Value = Symbol | Term | ArrayLike


def are_arrays(values: Sequence[Value]) -> TypeGuard[Sequence[ArrayLike]]:
    """Returns whether none of these depends on the images."""
    return not any(isinstance(x, (Symbol, Term)) for x in values)


def is_known(x: Value) -> TypeGuard[ArrayLike]:
    """Returns whether this is an array whose numbers can be looked at."""
    return not isinstance(x, (Symbol, Term, Tracer))


def is_zero(x: Value) -> bool:
    """Returns whether this is known to be zero everywhere."""
    return number_of(x) == 0


def number_of(x: Value) -> float | None:
    """Returns the number that this is known to be everywhere, None where it is none."""
    if not is_known(x):
        return None
    found = np.asarray(x)
    if not found.size or np.any(found != found.flat[0]):
        return None
    return float(found.flat[0])


def folded(function: Callable[[Value, Sequence[R]], R], x: Value) -> R:
    """Returns a function's value of a value and of what it gave of the operands, bottom up.

    What several terms share is visited once: a term is a graph, with very many ways through it.
    """
    seen: dict[int, R] = {}
    todo = [x]
    while todo:
        one = todo.pop()
        operands = one.operands if isinstance(one, Term) else ()
        if id(one) in seen:
            continue
        if waiting := [operand for operand in operands if id(operand) not in seen]:
            todo += [one, *waiting]
        else:
            seen[id(one)] = function(one, [seen[id(operand)] for operand in operands])
    return seen[id(x)]


def is_sign(term: Term) -> bool:
    """Returns whether this says where its first operand is positive, or where it is negative.

    At zero a rectifier's sides agree.
    """
    return term.operation in ("ge", "gt", "le", "lt") and is_zero(term.operands[1])


def unknown_operation(term: Term) -> str:
    """Returns the name of the first operation in a term that is not the sign of a value."""
    for x in term.operands:
        if isinstance(x, Term) and not is_sign(x):
            return unknown_operation(x)
    return term.operation
