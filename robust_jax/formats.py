"""The shape of what is stored: one number for all of it, and how earlier shapes are read.

`FORMAT` stands as `format` in every file that is read again: the `meta` of a checkpoint,
evaluation.json (the claim), summary.json, and each line of records/, certificates/ and
seconds.jsonl, so that a file which two versions wrote has both numbers. A configuration has the
number of what holds it. Logs (metrics.jsonl, TensorBoard), pictures and report.html have none.

Where a shape changes, raise `FORMAT` and say in `STEPS` how the old one becomes the new. A new
field of a configuration whose default is what was done before needs neither: it is filled in
(`serialization.completed`).
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

FORMAT = 3

Kind = Literal["checkpoint", "claim", "summary", "record", "certificate", "seconds"]
Tree = dict[str, Any]
"""A JSON object."""


class Step(NamedTuple):
    """How what one format wrote becomes what the next one writes.

    Attributes:
        kinds: by kind, its object of the old format -> of the new.
        config: the same for each part of a configuration, {"type": class, field: value}, the
            innermost first. Called before `kinds`, on all that a checkpoint or a claim holds.
    """

    kinds: Mapping[Kind, Callable[[Tree], Tree]] = {}
    config: Callable[[Tree], Tree] | None = None


def _starting_at_noise(config: Tree) -> Tree:
    """Returns a part of a configuration; decision attacks began at noise alone."""
    return {"start": "noise", **config} if config["type"] in DECISION_ATTACKS else config


DECISION_ATTACKS = ("Boundary", "HopSkipJump")

STEPS: dict[int, Step] = {
    # Format 2 gave the number to all kinds; only checkpoints had one.
    1: Step(),
    # In format 3 decision attacks begin at clean images of other classes.
    2: Step(config=_starting_at_noise),
}
"""By the format that a step begins with."""

ALWAYS_NUMBERED: tuple[Kind, ...] = ("checkpoint",)
"""Kinds of which format 1 had a number: without one they are damaged."""
WITH_CONFIGS: tuple[Kind, ...] = ("checkpoint", "claim")


def numbered(value: Mapping[str, Any]) -> Tree:
    """Returns an object of today's shape as it is written, its number first."""
    return {"format": FORMAT, **value}


def current(kind: Kind, value: Any, *, name: str) -> Tree:
    """Returns a stored object in today's shape, without its number.

    Args:
        kind: what it is.
        value: as it was read.
        name: how errors call it.

    Raises:
        ValueError: it is no object, its number is none, or one of a newer package.
    """
    if not isinstance(value, dict):
        raise ValueError(f"Expected {name} to hold a JSON object.")
    number = value.get("format", None if kind in ALWAYS_NUMBERED else 1)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"Expected {name} to have a format={number!r} >= 1.")
    if number > FORMAT:
        raise ValueError(
            f"Expected {name} to have format={number} <= {FORMAT}: upgrade robust_jax."
        )
    tree = {key: item for key, item in value.items() if key != "format"}
    for step in (STEPS[n] for n in range(number, FORMAT)):
        if step.config is not None and kind in WITH_CONFIGS:
            tree = _each_config(step.config, tree)
        tree = step.kinds.get(kind, dict)(tree)
    return tree


def read(kind: Kind, file: pathlib.Path) -> Tree:
    """Returns what a JSON file holds, in today's shape.

    Raises:
        ValueError: torn, or as `current`; one line that names the file.
    """
    name = repr(str(file))
    return current(kind, _parsed(file.read_bytes(), name), name=name)


def read_lines(kind: Kind, file: pathlib.Path, *, resumed: bool = False) -> list[Tree]:
    """Returns the lines of a JSON lines file in today's shape.

    Args:
        kind: what each line is.
        file: the file.
        resumed: leave out a last line that a stop cut short of its end? The caller writes it anew.

    Raises:
        ValueError: as `read`; names the file and the line.
    """
    *lines, last = file.read_bytes().split(b"\n")
    if last and not resumed:
        lines.append(last)
    found = []
    for number, line in enumerate(lines, start=1):
        name = f"{str(file)!r}, line {number},"
        found.append(current(kind, _parsed(line, name), name=name))
    return found


def is_current(file: pathlib.Path) -> bool:
    """Returns whether a JSON file has today's number."""
    found = _parsed(file.read_bytes(), repr(str(file)))
    return isinstance(found, dict) and found.get("format") == FORMAT


def write(file: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file of today's shape, which is there whole or not at all."""
    _replace(file, json.dumps(numbered(value), indent=2))


def write_lines(file: pathlib.Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON lines file of today's shape, which is there whole or not at all."""
    _replace(file, as_lines(values))


def as_lines(values: Iterable[Mapping[str, Any]]) -> str:
    """Returns the text of some lines of today's shape."""
    return "".join(json.dumps(numbered(value)) + "\n" for value in values)


def _replace(file: pathlib.Path, text: str) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(file)


def _parsed(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"Expected {name} to be whole JSON: {error}") from error


def _each_config(change: Callable[[Tree], Tree], value: Any) -> Any:
    """Returns a JSON value whose configurations are changed, the innermost first."""
    if isinstance(value, list):
        return [_each_config(change, item) for item in value]
    if not isinstance(value, dict):
        return value
    tree = {key: _each_config(change, item) for key, item in value.items()}
    return change(tree) if isinstance(tree.get("type"), str) else tree
