"""Configurations as JSON: nested frozen dataclasses, every field's name and type checked.

`to_json` and `from_json` carry a configuration into a checkpoint and back. A field annotated with
a base class (`method: MethodConfig`) may hold any of its subclasses; the JSON says which. Both
directions check, so a mistake is one line before any work starts.
"""

import contextvars
import dataclasses
import difflib
import functools
import gc
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Literal, TypeVar

T = TypeVar("T")


def to_json(config: object) -> dict[str, object]:
    """Returns a configuration as what `json.dumps` takes.

    Raises:
        ValueError: it is no instance of a dataclass, or its class is called as another one is
            that could stand in its place: the name is all that is stored.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"Expected {config!r} to be an instance of a dataclass.")
    _refuse_namesakes(type(config), of=_family(type(config)))
    fields = {f.name: _encoded(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return {"type": type(config).__name__, **fields}


def _encoded(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encoded(item) for item in value]
    return value


def from_json(expected: type[T], value: object, *, name: str = "config") -> T:
    """Returns the configuration that `to_json` wrote, every field checked.

    Args:
        expected: class of the configuration, or a base class of it.
        value: what `json.loads` gave.
        name: how errors call the value.

    Raises:
        ValueError: unknown or missing field, unknown type, or a value of another type.
    """
    found = _decode(expected, value, name)
    assert isinstance(found, expected)
    return found


def draft(expected: type[T], value: object, *, name: str = "config") -> T:
    """Returns what `from_json` does, before it is known whether its values go together.

    Names and types of fields are checked; classes' own checks are left to a later `check`.

    Raises:
        ValueError: as `from_json`.
    """
    token = _DRAFT.set(True)
    try:
        return from_json(expected, value, name=name)
    finally:
        _DRAFT.reset(token)


_DRAFT: contextvars.ContextVar[bool] = contextvars.ContextVar("draft", default=False)


def _made(cls: type, arguments: Mapping[str, object]) -> object:
    """Returns an instance of a dataclass; of a draft without its `__post_init__`."""
    if not _DRAFT.get():
        return cls(**arguments)
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in arguments:
            value = arguments[field.name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise TypeError(f"missing argument: {field.name!r}")
        object.__setattr__(made, field.name, value)
    return made


def kinds(expected: object) -> dict[str, type]:
    """Returns the dataclasses that a field of this annotation may hold, alone or among others."""
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        named = {name: ones[0] for name, ones in _subclasses(expected).items()}
        return {name: one for name, one in named.items() if not inspect.isabstract(one)}
    found: dict[str, type] = {}
    for argument in typing.get_args(expected):
        found |= kinds(argument)
    return found


def completed(expected: type, value: object) -> object:
    """Returns what `to_json` writes today of a stored configuration, for comparisons.

    Fields that it was written without have their defaults. One that today's classes do not take
    is returned as it is, so that a comparison names what differs.
    """
    try:
        return to_json(from_json(expected, value))
    except ValueError:
        return value


def check(config: T, *, name: str = "config") -> T:
    """Returns `config` with every field checked against its annotation.

    Raises:
        ValueError: names the first field whose value is of another type.
    """
    return from_json(type(config), to_json(config), name=name)


def differences(first: object, second: object, *, name: str = "config") -> list[str]:
    """Returns one line per field in which two `to_json` values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        lines = []
        for key in sorted(first.keys() | second.keys()):
            lines += differences(first.get(key), second.get(key), name=f"{name}.{key}")
        return lines
    return [] if first == second else [f"{name}: {first!r} != {second!r}"]


def _subclasses(base: type) -> dict[str, list[type]]:
    """Returns a class and its subclasses by name, of one that was defined again the last."""
    found: dict[str, list[type]] = {}
    waiting = [base]
    for cls in waiting:
        waiting += cls.__subclasses__()
        alike = found.setdefault(cls.__name__, [])
        places = [_defined_at(one) for one in alike]
        if _defined_at(cls) not in places:
            alike.append(cls)
        elif _stands(cls) or not _stands(alike[places.index(_defined_at(cls))]):
            alike[places.index(_defined_at(cls))] = cls
    return found


def _defined_at(cls: type) -> tuple[str, str]:
    """Returns where a class was defined: a file that is read twice has two names, and one path."""
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", None) or cls.__module__, cls.__qualname__


def _stands(cls: type) -> bool:
    """Returns whether a class is what its module holds by its name: the last that was defined."""
    found: object = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def _family(cls: type) -> type:
    """Returns the widest dataclass that a class is one of."""
    return [base for base in cls.__mro__ if dataclasses.is_dataclass(base)][-1]


def _refuse_namesakes(cls: type, *, of: type) -> None:
    """Refuses a class whose name another subclass of `of` has too.

    Raises:
        ValueError: says where both were defined.
    """
    alike = _subclasses(of).get(cls.__name__, [])
    if len(alike) > 1:
        gc.collect()  # of one that nobody has any more
        alike = _subclasses(of).get(cls.__name__, [])
    if len(alike) > 1:
        places = " and ".join(".".join((one.__module__, one.__qualname__)) for one in alike)
        raise ValueError(
            f"Expected one class to be called {cls.__name__}: {places} are, and the name is all "
            "that is stored of a class. Call yours otherwise."
        )


def _decode(expected: object, value: object, name: str) -> object:
    """Returns a value of a field with this annotation."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"Expected {name}={value!r} in {list(arguments)}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"Expected {name}={value!r} to be a tuple.")
        if arguments and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise ValueError(f"Expected {name}={value!r} to have {len(arguments)} entries.")
            kinds = arguments
        else:
            kinds = (arguments[0] if arguments else object,) * len(value)
        return tuple(
            _decode(k, v, f"{name}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise ValueError(f"Expected {name}={value!r} to be a dict.")
        return {k: _decode(arguments[1], v, f"{name}.{k}") for k, v in value.items()}
    if not isinstance(expected, type):
        raise TypeError(f"Expected the annotation {expected!r} of {name} to be a type.")
    if dataclasses.is_dataclass(expected):
        return _decode_dataclass(expected, value, name)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"Expected {name}={value!r} to be of type {expected.__name__}.")
    return value


def _decode_union(options: tuple[object, ...], value: object, name: str) -> object:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _decode(options[0], value, name)
    if isinstance(value, Mapping) and "type" in value:
        # The first class that it is one of, whose own errors say what is wrong with it.
        for option in options:
            if isinstance(option, type) and value["type"] in _subclasses(option):
                return _decode(option, value, name)
    for option in options:
        try:
            return _decode(option, value, name)
        except ValueError:
            continue
    kinds = " | ".join(getattr(option, "__name__", str(option)) for option in options)
    raise ValueError(f"Expected {name}={value!r} to be of type {kinds}.")


_hints = functools.cache(typing.get_type_hints)


def _decode_dataclass(expected: type, value: object, name: str) -> object:
    if not isinstance(value, Mapping) or "type" not in value:
        raise ValueError(f"Expected {name}={value!r} to be a {expected.__name__}.")
    known = kinds(expected)
    if value["type"] not in known:
        raise ValueError(
            f"Expected {name} of type {value['type']!r} to be one of {sorted(known)} (a class of "
            "one's own is known once its file is run: --define FILE)."
        )
    cls = known[value["type"]]
    _refuse_namesakes(cls, of=expected)
    hints = _hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    for key in value:
        if key != "type" and key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"Expected {name}.{key} to be a field of {cls.__name__}{hint}.")
    arguments = {
        key: _decode(hints[key], item, f"{name}.{key}")
        for key, item in value.items()
        if key != "type"
    }
    try:
        return _made(cls, arguments)
    except TypeError as error:
        missing = str(error).split("argument")[-1].lstrip("s: ")
        raise ValueError(f"Expected {name} to have the field {missing}.") from error
