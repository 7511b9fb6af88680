"""Programs found by what they compute: of all jaxprs that compute the same one is compiled."""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Protocol, runtime_checkable

import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from robust_jax.runtime.compilation import jitted

MAX_PROGRAMS = 128
"""Compiled programs that are kept, the last ones used; a program holds no captured array."""


@runtime_checkable
class Executable(Protocol):
    """Returns the leaves of a result, from the arrays captured and the leaves of the arguments."""

    def __call__(self, captured: list[object], /, *leaves: object) -> list[object]: ...


class Program:
    """A jaxpr that equals every other that computes the same in the same way."""

    def __init__(self, closed: ClosedJaxpr) -> None:
        self.closed = closed
        self.key = _key_of_jaxpr(closed, {})
        self.hash = hash(self.key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.key == other.key


@functools.lru_cache(MAX_PROGRAMS)
def executable(program: Program) -> Executable:
    """Returns the compiled program: of all that are equal, one."""
    closed = program.closed

    def run(captured: list[object], *leaves: object) -> list[object]:
        return eval_jaxpr(closed.jaxpr, closed.consts, *captured, *leaves)

    return jitted(run)


@dataclasses.dataclass(frozen=True, eq=False)
class _Itself:
    """An object that equals itself alone, and lives as long as this key of it."""

    value: object

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def _key_of_jaxpr(closed: ClosedJaxpr | Jaxpr, known: dict[int, Hashable]) -> Hashable:
    """Returns what two jaxprs that compute the same in the same way share."""
    if id(closed) in known:
        return known[id(closed)]
    jaxpr = getattr(closed, "jaxpr", closed)
    numbers = {v: n for n, v in enumerate((*jaxpr.constvars, *jaxpr.invars))}

    def key_of_atom(atom: Var | Literal) -> Hashable:
        if isinstance(atom, Literal):
            return atom.aval, np.asarray(atom.val).tobytes()
        return numbers[atom]

    equations = []
    for equation in jaxpr.eqns:
        operands = tuple(key_of_atom(atom) for atom in equation.invars)
        for variable in equation.outvars:
            numbers[variable] = len(numbers)
        names = sorted(equation.params)
        if equation.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
            # Nothing is differentiated any more.
            names = ["call_jaxpr"]
        params = tuple((name, _key_of(equation.params[name], known)) for name in names)
        avals = tuple(variable.aval for variable in equation.outvars)
        context = _key_of(equation.ctx, known)
        equations.append((equation.primitive, operands, avals, params, context))
    key = (
        tuple(_Itself(array) for array in getattr(closed, "consts", ())),
        tuple(variable.aval for variable in (*jaxpr.constvars, *jaxpr.invars)),
        tuple(equations),
        tuple(key_of_atom(atom) for atom in jaxpr.outvars),
    )
    known[id(closed)] = key
    return key


def _key_of(value: object, known: dict[int, Hashable]) -> Hashable:
    """Returns what a parameter of an equation shares with those that mean the same."""
    if isinstance(value, (ClosedJaxpr, Jaxpr)):
        return _key_of_jaxpr(value, known)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_key_of(part, known) for part in value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.shape, value.dtype, value.tobytes()
    if isinstance(value, float):
        return float, value.hex()
    try:
        hash(value)
    except TypeError:
        return _Itself(value)
    return type(value), value
