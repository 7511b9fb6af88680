"""Parts of a configuration on the command line, written as in a configuration file.

A part is a field that holds a dataclass, or several: a network, the changes of its layers, the
terms of a loss, an attack, a schedule. Its flag takes what a file has there in Python, names alone
where defaults do:

    --method.network "EnsembleConfig(ResNetConfig(depth=20), 3)"
    --method.changes KernelPooling "ActivationNoise(.2)"     # these, and no others
    --method.changes +InputNoise -ActivationNoise            # one more, and one less
    --training.validation-attack None

Flags of a part's own fields (`--method.network.depth`) are tyro's, of the part that stands there
then, wherever its flag is among the words.
"""

import ast
import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from robust_jax import serialization
from robust_jax.serialization import kinds

T = TypeVar("T")

_SUBCOMMAND = re.compile(r"[\w.-]+:[\w-]+")
"""A word of tyro's, such as `method.pool:none`."""


class _Place(NamedTuple):
    """Where a part stands in a configuration as JSON.

    Attributes:
        within: the object or list that holds it.
        key: its name there, or its number.
        expected: annotation of what may stand there.
    """

    within: dict[str, object] | list[object]
    key: str
    expected: object

    @property
    def value(self) -> object:
        """Returns what stands there."""
        if isinstance(self.within, list):
            return self.within[int(self.key)]
        return self.within.get(self.key)

    @property
    def is_several(self) -> bool:
        """Returns whether it is a tuple of parts."""
        return typing.get_origin(self.expected) is tuple

    def put(self, value: object) -> None:
        """Puts something else there."""
        if isinstance(self.within, list):
            self.within[int(self.key)] = value
        else:
            self.within[self.key] = value


def with_parts(config: T, words: Sequence[str], *, under: str = "") -> tuple[T, list[str]]:
    """Returns a configuration with the parts that words of a command line name, and other words.

    Whether its values go together is for `serialization.check`, once the other words have theirs.

    Args:
        config: a dataclass.
        words: of the command line.
        under: what stands before the names of its fields, such as "data.".

    Raises:
        ValueError: a part is not written as one, or cannot stand there; in one line.

    Example:
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.runtime.command_parts import with_parts
        >>> words = ["--network", "CNNConfig(widths=(8, 8), strides=(1, 2))", "--vote", "borda"]
        >>> found, others = with_parts(Standard(), words)
        >>> found.network.widths, others
        ((8, 8), ['--vote', 'borda'])
    """
    tree, left, rest = serialization.to_json(config), list(words), []
    put: list[str] = []
    while left:
        word = left.pop(0)
        flag, given, value = word.partition("=")
        ours = flag.startswith(f"--{under}")
        place = _place(tree, type(config), f"--{flag[2 + len(under) :]}") if ours else None
        if place is None:
            rest.append(word)
            continue
        inner = next((earlier for earlier in put if earlier.startswith(f"{flag}.")), None)
        if inner is not None:
            raise ValueError(f"Expected {flag} to be given before {inner}, which it replaces.")
        values = [value] if given else _values(left, several=place.is_several)
        _put(place, flag, values)
        put.append(flag)
    if not put:
        return config, rest
    return serialization.draft(type(config), tree), rest


def listed(config: object, *, under: str = "") -> list[str]:
    """Returns the flags of parts of which there are several kinds, with the names of these."""
    flags: dict[str, list[str]] = {}
    for flag, names in _with_choices(config, f"--{under}"):
        flags.setdefault(" | ".join(names), []).append(flag)
    return [f"{', '.join(alike)} {names}" for names, alike in flags.items()]


def _with_choices(config: object, prefix: str) -> Iterator[tuple[str, list[str]]]:
    for name, expected in typing.get_type_hints(type(config)).items():
        value, known = getattr(config, name, None), sorted(kinds(expected))
        flag = f"{prefix}{name.replace('_', '-')}"
        if len(known) > 1:
            yield flag, known
        if dataclasses.is_dataclass(value):
            yield from _with_choices(value, f"{flag}.")


def _place(tree: object, expected: object, flag: str) -> _Place | None:
    """Returns where a flag leads; None where it leads to no part.

    Raises:
        ValueError: to a part of what is not there.
    """
    place: _Place | None = None
    *path, last = flag.removeprefix("--").split(".")
    for number, part in enumerate([*path, last]):
        tree = tree if place is None else place.value
        if tree is None and any(
            kinds(_hints(cls).get(_field(last))) for cls in kinds(expected).values()
        ):
            parent = ".".join(path[:number])
            raise ValueError(f"Expected --{parent}=None to be given before {flag}.")
        place = _step(tree, expected, part)
        if place is None:
            return None
        expected = place.expected
    return place if kinds(expected) else None


def _field(part: str) -> str:
    """Returns the name of the field that a part of a flag names."""
    return part.replace("-", "_")


_hints = functools.cache(typing.get_type_hints)


def _step(tree: object, expected: object, part: str) -> _Place | None:
    """Returns the place of this name in a part."""
    if isinstance(tree, list):
        inside = part.isdigit() and int(part) < len(tree)
        return _Place(tree, part, typing.get_args(expected)[0]) if inside else None
    if not isinstance(tree, dict):
        return None
    cls, name = kinds(expected).get(str(tree.get("type"))), _field(part)
    if cls is not None:
        known = {field.name for field in dataclasses.fields(cls)}
        return _Place(tree, name, _hints(cls)[name]) if name in known else None
    if _is_mapping(expected):
        return _Place(tree, part if part in tree else name, typing.get_args(expected)[1])
    return None


def _is_mapping(expected: object) -> bool:
    origin = typing.get_origin(expected)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _values(left: list[str], *, several: bool) -> list[str]:
    """Takes from the words those that a flag is given."""
    values: list[str] = []
    while left and not left[0].startswith("--") and not _SUBCOMMAND.fullmatch(left[0]):
        if values and not several:
            break
        values.append(left.pop(0))
    return values


def _put(place: _Place, flag: str, values: Sequence[str]) -> None:
    """Puts what a flag is given in its place."""
    if not place.is_several:
        if len(values) != 1:
            raise ValueError(f"Expected {flag} to be given {_names(place.expected)}.")
        place.put(_read(values[0], place.expected, flag))
        return
    now = place.value
    assert isinstance(now, list)
    if not values or any(value[:1] not in ("+", "-") for value in values):
        now.clear()
    for value in values:
        if value.startswith("-"):
            there = [one["type"] for one in now]
            if value[1:] not in there:
                raise ValueError(f"Expected {flag} {value} to be one of {there}.")
            del now[there.index(value[1:])]
        else:
            now.append(_read(value.removeprefix("+"), place.expected, flag))


def _read(text: str, expected: object, flag: str) -> object:
    """Returns what a word says, as `serialization.to_json` has it."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"Expected {flag} {text!r} to be as in Python: NAME, or NAME(field=value, ...)."
        ) from error
    if isinstance(node, ast.Name) and node.id not in kinds(expected):
        alike = [name for name in kinds(expected) if name.lower() == node.id]
        if len(alike) == 1:
            return {"type": alike[0]}
        raise ValueError(f"Expected {flag} {text} to be {_names(expected, node.id)}.")
    return _Reader(flag).read(node, expected)


class _Reader(NamedTuple):
    """Reads an expression.

    Attributes:
        flag: how errors call it.
    """

    flag: str

    def read(self, node: ast.expr, expected: object) -> object:
        """Returns the JSON of an expression, where something of this annotation stands."""
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return value
            case ast.Name(id=name):
                return {"type": name} if name in kinds(expected) else name
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return [self.read(item, expected) for item in items]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                named = [self.read(key, str) for key in keys if key is not None]
                read = [self.read(value, expected) for value in values]
                return {str(key): value for key, value in zip(named, read, strict=True)}
            case ast.Call(func=ast.Name(id=name)):
                return self._called(node, name, expected)
            case _:
                return self._number(node)

    def _number(self, node: ast.expr) -> int | float:
        """Returns a number, a fraction, or one of them below zero."""
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.BinOp(left=left, op=ast.Div(), right=right) if over := self._number(right):
                return self._number(left) / over
            case _:
                said = ast.unparse(node)
                raise ValueError(f"Expected {said!r} in {self.flag} to be a value (quoted text?).")

    def _called(self, node: ast.Call, name: str, expected: object) -> object:
        cls = kinds(expected).get(name)
        if cls is None:
            raise ValueError(f"Expected {self.flag} {name}(...) to be {_names(expected, name)}.")
        fields = [field.name for field in dataclasses.fields(cls) if not field.kw_only]
        if len(node.args) > len(fields):
            raise ValueError(
                f"Expected {name}(...) in {self.flag} to have at most {len(fields)} values."
            )
        given = list(zip(fields, node.args, strict=False))
        given += [(word.arg or "**", word.value) for word in node.keywords]
        twice = [one for one, _ in given if [other for other, _ in given].count(one) > 1]
        if twice:
            raise ValueError(f"Expected {name}(...) in {self.flag} to have {twice[0]} once.")
        return {
            "type": name,
            **{field: self.read(value, _hints(cls).get(field)) for field, value in given},
        }


def _names(expected: object, meant: str = "") -> str:
    """Returns in words what may stand somewhere."""
    known = sorted(kinds(expected))
    if not known:
        return "a number, a text or several of them"
    near = difflib.get_close_matches(meant, known, n=1)
    return f"one of {known}" + (f" (did you mean {near[0]}?)" if near else "")
