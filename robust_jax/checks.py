"""Whether the numbers of a configuration are in their range: one-line errors, by field name."""

import dataclasses
import typing
from collections.abc import Callable, Collection


def at_least(config: object, least: int | float, *names: str) -> None:
    """Checks that fields are at least a number; of a tuple each, and None only where it may be.

    Args:
        config: whose fields they are.
        least: which they may be.
        *names: of the fields.

    Raises:
        ValueError: names the first that is smaller, or not a number.

    Example:
        >>> import types
        >>> at_least(types.SimpleNamespace(eps=-0.1), 0, "eps")
        Traceback (most recent call last):
        ValueError: Expected eps=-0.1 >= 0.
    """
    _check(config, names, lambda value: value >= least, "", f" >= {least:g}")


def above(config: object, bound: int | float, *names: str) -> None:
    """Checks, as `at_least`, that fields are larger than a number."""
    _check(config, names, lambda value: value > bound, "", f" > {bound:g}")


def shares(config: object, *names: str) -> None:
    """Checks, as `at_least`, that fields are from 0 to 1, ends included."""
    _check(config, names, lambda value: 0 <= value <= 1, "0 <= ", " <= 1")


def one_of(config: object, name: str, choices: Collection[object]) -> None:
    """Checks that a field is one of some values.

    Raises:
        ValueError: names the field and the values.
    """
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"Expected {name}={value!r} to be one of {tuple(choices)}.")


def _check(
    config: object,
    names: Collection[str],
    holds: Callable[[int | float], bool],
    low: str,
    high: str,
) -> None:
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
    optional = {field.name for field in fields if type(None) in typing.get_args(field.type)}
    for name in names:
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        entries = value if isinstance(value, tuple) else (value,)
        if not all(entry is not None and holds(entry) for entry in entries):
            raise ValueError(f"Expected {low}{name}={value}{high}.")
