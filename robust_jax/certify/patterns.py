"""Activations that several operations make together: recognised by what these compute."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robust_jax.certify import activations
from robust_jax.certify.activations import Kind
from robust_jax.certify.heads import Head
from robust_jax.certify.values import Symbol, Term, Value, number_of

_EITHER_ORDER = ("add", "max", "min", "mul")

ACTIVATIONS: tuple[tuple[Callable[[Array], Array], Kind], ...] = (
    (jax.nn.sigmoid, activations.SIGMOID),
    (lambda x: 1 / (1 + jnp.exp(-x)), activations.SIGMOID),
    (jnp.tanh, activations.TANH),
    (jax.nn.silu, activations.SILU),
    (lambda x: x / (1 + jnp.exp(-x)), activations.SILU),
    (jax.nn.softplus, activations.SOFTPLUS),
    (jax.nn.elu, activations.ELU),
    (activations.gelu, activations.GELU),
    (jax.nn.gelu, activations.TANH_GELU),
)
"""Functions of one number whose operations are looked for, with what they are."""


def _shifted_softmax(x: Array) -> Array:
    values = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return values / jnp.sum(values, axis=-1, keepdims=True)


HEADS: tuple[tuple[Callable[[Array], Array], Head], ...] = (
    (jax.nn.softmax, "softmax"),
    (_shifted_softmax, "softmax"),
    (jax.nn.log_softmax, "log_softmax"),
)
"""Functions of scores [... c] that are looked for in a function's value.

Of those that overflow or underflow in float32, as exp(x) / sum(exp(x)) and log(softmax(x)), bounds
of what they are in the reals would be none.
"""


class Traced(NamedTuple):
    """A value and how it is made of operations.

    Attributes:
        value: a symbol or a term.
        made: the operations that made a graph's nodes, by number.
    """

    value: Value
    made: Mapping[int, Term]

    def term(self) -> Term | None:
        """Returns the operation whose value it is, where that is known."""
        if isinstance(self.value, Symbol):
            return self.made.get(self.value.node)
        return self.value if isinstance(self.value, Term) else None

    def operands(self, term: Term) -> "list[Traced]":
        """Returns a term's operands."""
        return [Traced(operand, self.made) for operand in term.operands]


def argument_of(found: Traced, pattern: Traced) -> Symbol | None:
    """Returns the symbol of which a value is a pattern's function, None where it is none.

    Args:
        found: the value.
        pattern: the function's value of the symbol 0.
    """
    return _bound(found, pattern, None)


def _bound(found: Traced, pattern: Traced, argument: Symbol | None) -> Symbol | None:
    """Returns what the argument is then, if it is anything or the one that is given."""
    if pattern.value == Symbol(0):
        if not isinstance(found.value, Symbol) or argument not in (None, found.value):
            return None
        return found.value
    term, wanted = found.term(), pattern.term()
    if term is None or wanted is None:
        return None
    if term.operation != wanted.operation or term.params != wanted.params:
        return None
    operands, others = found.operands(term), pattern.operands(wanted)
    orders = [operands]
    if term.operation in _EITHER_ORDER:
        orders.append(operands[::-1])
    for order in orders:
        bound = argument
        for x, y in zip(order, others, strict=True):
            number = number_of(y.value)
            if number is not None:
                if number_of(x.value) != number:
                    break
                continue
            bound = _bound(x, y, bound)
            if bound is None:
                break
        else:
            return bound
    return None
