"""Attacks as arguments of compiled functions: radius and step sizes are leaves, the rest is fixed.

What is compiled for one radius serves all others.
"""

import dataclasses
import functools
import numbers
from collections.abc import Sequence
from typing import TypeVar

import jax

T = TypeVar("T")


class WithLeaves:
    """A frozen dataclass that is a pytree: some of its numbers are leaves, the rest its structure.

    A subclass is one from its definition on. Unflattened it is not checked again: its leaves may be
    traced.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Registers the subclass as a pytree."""
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _flattened, functools.partial(_unflattened, cls))

    @property
    def leaves(self) -> tuple[str, ...]:
        """Returns the names of numbers that a compiled function takes as arguments.

        Fields, and cached properties that are computed of fields in Python's double precision, as
        they were where the radius was a part of the program.
        """
        return ()


_Structure = tuple[tuple[str, ...], tuple[tuple[str, object], ...]]
"""Names of what holds leaves; names and values of the rest."""


def _flattened(whole: WithLeaves) -> tuple[list[object], _Structure]:
    fields: dict[str, object] = dict(vars(whole))
    names = [field.name for field in dataclasses.fields(whole)]  # type: ignore[arg-type]
    held = [name for name in names if name not in whole.leaves and _holds_leaves(fields[name])]
    rest = [(name, fields[name]) for name in names if name not in (*held, *whole.leaves)]
    found = [getattr(whole, name) for name in held]
    found += [_as_leaf(getattr(whole, name)) for name in whole.leaves]
    return found, ((*held, *whole.leaves), tuple(rest))


def _unflattened(cls: type[T], structure: _Structure, found: Sequence[object]) -> T:
    names, rest = structure
    whole = object.__new__(cls)
    vars(whole).update(rest)
    vars(whole).update(zip(names, found, strict=True))
    return whole


def _holds_leaves(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return any(isinstance(part, WithLeaves) for part in parts)


def _as_leaf(value: object) -> object:
    """Returns a number as a float, which an int would be another program than."""
    return float(value) if isinstance(value, numbers.Real) else value
