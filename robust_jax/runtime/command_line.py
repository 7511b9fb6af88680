"""Command lines: typed overrides by tyro, numbers as people write them, mistakes in one line."""

import contextlib
import dataclasses
import inspect
import io
import itertools
import math
import operator
import os
import pathlib
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeVar

from robust_jax import serialization
from robust_jax.runtime import command_parts

T = TypeVar("T")

_PARTS = (
    'Parts are written as in a configuration file, NAME or "NAME(field=value, ...)"; +NAME adds '
    "one where there are several, -NAME takes it away:"
)
"""What `--help` says of the flags that follow it."""


def _fraction(text: str) -> float:
    """Reads a float, or a fraction: radii are printed as 8/255 in every paper."""
    numerator, slash, denominator = text.partition("/")
    value = float(numerator)
    if slash:
        over = float(denominator)
        value = value / over if over else math.nan
    if math.isnan(value):
        raise ValueError(f"Expected {text!r} to be a number.")
    return value


def _integer(text: str) -> int:
    """Reads an integer, also as 1e5."""
    if "e" not in text.lower():
        return int(text)
    value = float(text)
    if not value.is_integer():
        raise ValueError(f"Expected {text!r} to be an integer.")
    return int(value)


def _path(text: str) -> pathlib.Path:
    """Reads a path, whose `~` is the home directory: shells expand it only after a space."""
    if not text:
        raise ValueError("Expected '' to be a path.")
    return pathlib.Path(text).expanduser()


@contextlib.contextmanager
def _words_as_people_write_them() -> Iterator[None]:
    """Has tyro read floats, integers and paths as above; optional dicts of parts begin empty."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    def add(kind: type[T], metavar: str, read: Callable[[str], T]) -> None:
        def rule(
            info: tyro.constructors.PrimitiveTypeInfo,
        ) -> tyro.constructors.PrimitiveConstructorSpec[T] | None:
            if info.type is not kind:
                return None
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs=1,
                metavar=metavar,
                instance_from_str=lambda given: read(given[0]),
                is_instance=lambda value: isinstance(value, kind) and not isinstance(value, bool),
                str_from_instance=lambda value: [str(value)],
            )

        registry.primitive_rule(rule)

    add(float, "FLOAT", _fraction)
    add(int, "INT", _integer)
    add(pathlib.Path, "PATH", _path)

    @registry.struct_rule
    def begin_empty(
        info: tyro.constructors.StructTypeInfo,
    ) -> tyro.constructors.StructConstructorSpec | None:
        kinds = typing.get_args(info.type)
        of_parts = typing.get_origin(info.type) is dict and dataclasses.is_dataclass(kinds[1])
        if not of_parts or isinstance(info.default, dict):
            return None
        return tyro.constructors.StructConstructorSpec(instantiate=dict, fields=())

    with registry:
        yield


def parse(
    cls: type[T],
    *,
    args: Sequence[str] | None = None,
    default: T | None = None,
    description: str | None = None,
    positional: str | None = None,
    flat: str | None = None,
    parts: str | None = None,
) -> T:
    """Returns the arguments that a command line gives.

    Args:
        cls: frozen dataclass of the arguments.
        args: words of the command line; None for those of this process.
        default: values that the words replace.
        description: what `--help` begins with.
        positional: the field that is given without its name.
        flat: the field whose own fields are named without it.
        parts: a field whose parts are written as in a configuration file, as those of `flat` are.

    Raises:
        ValueError: an unknown field, a value of another type, or one that a field refuses.
    """
    # Imported here: whoever calls `main` himself needs no tyro.
    import tyro

    words = list(sys.argv[1:] if args is None else args)
    given = flat or parts
    if default is not None and given is not None:
        under = "" if flat else f"{given}."
        part, words = command_parts.with_parts(getattr(default, given), words, under=under)
        default = cls(**{**vars(default), given: part})
        if {"-h", "--help"} & set(words):
            listed = command_parts.listed(part, under=under)
            description = "\n\n".join([description or "", _PARTS, *listed])
    printed = io.StringIO()
    marks = (tyro.conf.CascadeSubcommandArgs,)
    start = tyro.MISSING_NONPROP if default is None else default
    kinds: dict[str, object] = {}
    if positional is not None:
        kinds[positional] = tyro.conf.Positional[typing.get_type_hints(cls)[positional]]
    if flat is not None:
        kinds[flat] = Annotated[typing.get_type_hints(cls)[flat], tyro.conf.arg(name="")]
    if parts is not None:  # of the kind that stands there, be it one of several
        kinds[parts] = type(getattr(default, parts))
    # The same fields, these with tyro's marks, which the class itself is kept free of.
    fields = {"__annotations__": kinds, "__doc__": cls.__doc__}
    marked = dataclasses.dataclass(frozen=True)(type(cls.__name__, (cls,), fields))
    assert issubclass(marked, cls)
    try:
        with contextlib.redirect_stderr(printed), _words_as_people_write_them():
            found = tyro.cli(
                marked, args=words, description=description, config=marks, default=start
            )
            values = {name: getattr(found, name) for name in inspect.signature(cls).parameters}
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_line(printed.getvalue())) from None
    except TypeError as error:
        named = re.search(r"abstract class '?(\w+)", str(error))
        if named is None:
            raise
        raise ValueError(f"Expected a kind of {named[1]}, of which there are several.") from None
    if given is not None:  # parts came as drafts
        values[given] = serialization.check(values[given])
    return cls(**values)


def _one_line(box: str) -> str:
    """Returns the message of tyro's box, and the flags that it thinks were meant."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]]
    # Where the output's encoding is not UTF-8 the box is made of hyphens.
    lines = ["" if set(line) == {"-"} else line for line in lines]
    lines = list(itertools.dropwhile(operator.not_, lines))
    message = " ".join(lines[: lines.index("")] if "" in lines else lines)
    if re.fullmatch(r"Unrecognized options: (True|False)", message, re.IGNORECASE):
        return f"{message} (a switch is --flag, or --no-flag after its last dot)"
    if "Could not find valid parse" in message and "," in message:
        message += " (several values are separated by spaces)"
    flags = [found[0] for line in lines if (found := re.match(r"--[\w.-]+", line))]
    near = [flag for flag in dict.fromkeys(flags) if flag not in message and flag != "--help"]
    return message + (f" (did you mean {' or '.join(near[:2])}?)" if near else "")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns a user's mistake into one line on stderr and exit status 2, Ctrl-C into one and 130.

    JAX_TRACEBACK_FILTERING=off shows the whole traceback, as it does for JAX's own errors.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("JAX_TRACEBACK_FILTERING") == "off":
            raise
        text = str(error).strip().splitlines() or [type(error).__name__]
        print(f"error: {text[0]}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if os.environ.get("JAX_TRACEBACK_FILTERING") == "off":
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
