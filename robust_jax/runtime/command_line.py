"""Command lines: typed overrides by tyro, numbers as people write them, mistakes in one line."""

import contextlib
import dataclasses
import io
import itertools
import math
import operator
import os
import pathlib
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


def _float_or_fraction(info: Any) -> Any:
    """Lets every float be written as a fraction: radii are printed as 8/255 in every paper."""
    import tyro

    if info.type is not float:
        return None

    def read(given: list[str]) -> float:
        numerator, slash, denominator = given[0].partition("/")
        value = float(numerator)
        if slash:
            over = float(denominator)
            value = value / over if over else math.nan
        if math.isnan(value):
            raise ValueError(f"Expected {given[0]!r} to be a number.")
        return value

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [str(value)],
    )


def _integer(info: Any) -> Any:
    """Lets every integer be written as 1e5 too."""
    import tyro

    if info.type is not int:
        return None

    def read(given: list[str]) -> int:
        if "e" not in given[0].lower():
            return int(given[0])
        value = float(given[0])
        if not value.is_integer():
            raise ValueError(f"Expected {given[0]!r} to be an integer.")
        return int(value)

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def _path(info: Any) -> Any:
    """Lets `--workdir=~/runs` mean the home directory: shells expand it only after a space."""
    import tyro

    if info.type is not pathlib.Path:
        return None

    def read(given: list[str]) -> pathlib.Path:
        if not given[0]:
            raise ValueError("Expected '' to be a path.")
        return pathlib.Path(given[0]).expanduser()

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, pathlib.Path),
        str_from_instance=lambda value: [str(value)],
    )


def parse(
    cls: type[T],
    *,
    args: Sequence[str] | None = None,
    default: T | None = None,
    description: str | None = None,
    positional: str | None = None,
    flat: str | None = None,
) -> T:
    """Returns the arguments that a command line gives.

    Args:
        cls: frozen dataclass of the arguments.
        args: words of the command line; None for those of this process.
        default: values that the words replace.
        description: what `--help` begins with.
        positional: the field that is given without its name.
        flat: the field whose own fields are named without it.

    Raises:
        ValueError: an unknown field, a value of another type, or one that a field refuses.
    """
    # Imported here: whoever calls `main` himself needs no tyro.
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    for rule in (_float_or_fraction, _integer, _path):
        registry.primitive_rule(rule)
    printed = io.StringIO()
    marks = (tyro.conf.CascadeSubcommandArgs,)
    fields: dict[str, Any] = {} if default is None else {"default": default}
    kinds: dict[str, Any] = {}
    if positional is not None:
        kinds[positional] = tyro.conf.Positional[typing.get_type_hints(cls)[positional]]
    if flat is not None:
        kinds[flat] = Annotated[typing.get_type_hints(cls)[flat], tyro.conf.arg(name="")]
    # The same fields, these two with tyro's marks, which the class itself is kept free of.
    marked: Any = type(cls.__name__, (cls,), {"__annotations__": kinds, "__doc__": cls.__doc__})
    marked = dataclasses.dataclass(frozen=True)(marked)
    try:
        with contextlib.redirect_stderr(printed), registry:
            found = tyro.cli(marked, args=args, description=description, config=marks, **fields)
            return cls(**{f.name: getattr(found, f.name) for f in dataclasses.fields(found)})
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_line(printed.getvalue())) from None
    except TypeError as error:
        named = re.search(r"abstract class '?(\w+)", str(error))
        if named is None:
            raise
        raise ValueError(f"Expected a kind of {named[1]}, of which there are several.") from None


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
    """Turns a user's mistake into one line on stderr and exit status 2.

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
