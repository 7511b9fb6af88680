"""Whether the numbers of a configuration are in their range: one-line errors, by field name."""

import dataclasses
import typing
import unicodedata
from collections.abc import Callable, Collection, Iterable


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
        >>> from robust_jax import checks
        >>> checks.at_least(types.SimpleNamespace(eps=-0.1), 0, "eps")
        Traceback (most recent call last):
        ValueError: Expected eps=-0.1 >= 0.
    """
    _check(config, names, lambda value: value >= least, "", f" >= {least:g}")


def above(config: object, bound: int | float, *names: str) -> None:
    """Checks, as `at_least`, that fields are larger than a number.

    Args:
        config: whose fields they are.
        bound: which they may not be.
        *names: of the fields.

    Raises:
        ValueError: names the first that is not larger.

    Example:
        >>> import types
        >>> from robust_jax import checks
        >>> checks.above(types.SimpleNamespace(sigma=0.0), 0, "sigma")
        Traceback (most recent call last):
        ValueError: Expected sigma=0.0 > 0.
    """
    _check(config, names, lambda value: value > bound, "", f" > {bound:g}")


def shares(config: object, *names: str) -> None:
    """Checks, as `at_least`, that fields are from 0 to 1, ends included.

    Args:
        config: whose fields they are.
        *names: of the fields.

    Raises:
        ValueError: names the first that is not in [0, 1].

    Example:
        >>> import types
        >>> from robust_jax import checks
        >>> checks.shares(types.SimpleNamespace(rate=1.5), "rate")
        Traceback (most recent call last):
        ValueError: Expected 0 <= rate=1.5 <= 1.
    """
    _check(config, names, lambda value: 0 <= value <= 1, "0 <= ", " <= 1")


def one_of(config: object, name: str, choices: Collection[object]) -> None:
    """Checks that a field is one of some values.

    Args:
        config: whose field it is.
        name: of the field.
        choices: which it may be.

    Raises:
        ValueError: names the field and the values.

    Example:
        >>> import types
        >>> from robust_jax import checks
        >>> checks.one_of(types.SimpleNamespace(keep="first"), "keep", ("best", "last"))
        Traceback (most recent call last):
        ValueError: Expected keep='first' to be one of ('best', 'last').
    """
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"Expected {name}={value!r} to be one of {tuple(choices)}.")


_NO_FILE = {"con", "prn", "aux", "nul"}
"""What Windows calls its devices."""


def file_names(names: Iterable[str]) -> None:
    """Checks that files of one folder may be called so, on every system.

    Args:
        names: of the files, each without its ending.

    Raises:
        ValueError: one is no name of a file, or two differ in capitals alone.

    Example:
        >>> from robust_jax import checks
        >>> checks.file_names(["pgd", "PGD"])
        Traceback (most recent call last):
        ValueError: Expected 'pgd' and 'PGD' to differ in more than capitals: they name files.
    """
    found: dict[str, str] = {}
    for name in names:
        is_word = name.isprintable() and 0 < len(name.encode()) <= 100 and name.strip(" .") == name
        if not is_word or set(name) & set('/\\@:*?"<>|') or name.lower() in _NO_FILE:
            raise ValueError(
                f"Expected name={name!r} to name a file: at most 100 bytes, no blank or dot at an "
                'end, and none of /\\@:*?"<>|.'
            )
        # However its letters are put together.
        other = found.setdefault(unicodedata.normalize("NFC", name).lower(), name)
        if other != name:
            raise ValueError(
                f"Expected {other!r} and {name!r} to differ in more than capitals: they name files."
            )


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
        entries = value if isinstance(value, (tuple, list)) else (value,)
        if not all(entry is not None and holds(entry) for entry in entries):
            raise ValueError(f"Expected {low}{name}={value}{high}.")
