"""Shapes and types of the package's annotated functions are checked while the tests run.

jaxtyping's import hook decorates every function where it is defined, those inside functions anew at
every call of the outer one: a third of the time in which a network is traced. Here the checks of
such a function are made once, by its code, and nobody's before it is called. And it binds the
arguments of every call to their names, which takes ten times as long as to check them: where no
annotation has a shape, beartype does.
"""

import ast
import functools
import threading
import typing
import warnings
from collections.abc import Callable
from types import CodeType
from typing import ParamSpec, TypeVar

import beartype
import jaxtyping
from beartype.roar import (
    BeartypeCallHintViolation,
    BeartypeDecorHintPep585DeprecationWarning,
)
from jaxtyping import _import_hook

P = ParamSpec("P")
R = TypeVar("R")

_CHECKED: dict[CodeType, Callable] = {}

# Filters of warnings are the process's: who restores them last must have changed them last.
_ONE_AT_A_TIME = threading.RLock()


class _Running(threading.local):
    """The functions whose checks are at work, the innermost last."""

    def __init__(self) -> None:
        self.functions: list[Callable] = []


_RUNNING = _Running()


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function with its arguments and result checked, by checks of its first call."""
    has_shape = any(map(_has_shape, function.__annotations__.values()))

    @functools.cache
    def checks() -> Callable[P, R]:
        if has_shape:
            return jaxtyping.jaxtyped(function, typechecker=beartype.beartype)
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            # Of types that other packages write in the old way.
            warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
            return beartype.beartype(function)

    if any(isinstance(annotation, str) for annotation in function.__annotations__.values()):
        checks()  # a name that only a type checker imports is asked for once all is imported

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        try:
            return checks()(*args, **kwargs)
        except BeartypeCallHintViolation as error:
            raise jaxtyping.TypeCheckError(str(error)) from error

    return run


def _has_shape(annotation: object) -> bool:
    if isinstance(annotation, str):
        return "[" in annotation
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(_has_shape, typing.get_args(annotation)))


def checked_once(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function with its arguments and result checked, by checks of all with its code.

    Of several, what their annotations name is the first one's.
    """
    checks = _CHECKED.get(function.__code__)
    if checks is None:

        @functools.wraps(function)
        def innermost(*args: P.args, **kwargs: P.kwargs) -> R:
            return _RUNNING.functions[-1](*args, **kwargs)

        checks = checked(innermost)
        _CHECKED[function.__code__] = checks

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _RUNNING.functions.append(function)
        try:
            return checks(*args, **kwargs)
        finally:
            _RUNNING.functions.pop()

    return run


class _Transformer(_import_hook.JaxtypingTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:  # noqa: N802 (its name)
        is_inside = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        if _is_annotated(node):
            name = "checked_once" if is_inside else "checked"
            decorator = ast.parse(f"jaxtyping._import_hook.{name}", mode="eval").body
            node.decorator_list.append(ast.copy_location(decorator, node))
        self._parents.append(node)
        self.generic_visit(node)
        self._parents.pop()
        return node


def _is_annotated(node: ast.FunctionDef) -> bool:
    return node.returns is not None or any(
        isinstance(part, ast.arg) and part.annotation is not None for part in ast.walk(node.args)
    )


def install() -> None:
    """Checks every module of the package that is imported from now on."""
    _import_hook.JaxtypingTransformer = _Transformer
    _import_hook.checked, _import_hook.checked_once = checked, checked_once
    # The blanks give compiled modules a name of their own: others' are decorated otherwise.
    _import_hook.install_import_hook("robust_jax", "beartype.beartype  ")
