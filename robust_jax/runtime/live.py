"""Functions that callers hand in, compiled as they are at the call.

A view that is attacked, trained on and attacked again is another function each time, though the
same object: a module, a bound method, a closure. `jax.jit` finds what it compiled by the object. So
functions are traced at every call here, the arrays that they have captured become arguments, and
what is compiled is found by the program that the trace gives: other weights compile nothing.
"""

import contextlib
import dataclasses
import functools
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import Literal
from jax.tree_util import Partial

MAX_PROGRAMS = 128
"""Compiled programs that are kept, the last ones used; a program holds no captured array."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Live:
    """A function of which nothing is known but what it gives when it is called.

    Attributes:
        function: the function.
        traces: what was traced already, where it stays as it is for a while (see `held`).
    """

    function: Callable[..., Any]
    traces: dict[Any, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the function gives."""
        return self.function(*args, **kwargs)


def as_pytree(function: Any) -> Any:
    """Returns the function as an argument of `compiled` functions.

    A `jax.tree_util.Partial` that holds arrays, or a view made by this library, is one already: its
    arrays are its leaves, its function is taken to stay as it is, and no call traces it again.
    Any other function is traced at every call, a Partial of an object's bound method too.
    """
    if isinstance(function, Live) or _is_made_of_arguments(function):
        return function
    return Live(function)


def _is_made_of_arguments(function: Any) -> bool:
    ours = type(function).__module__.startswith("robust_jax.")
    # A module of nnx or Equinox is a pytree too, but what it does may depend on more than that.
    if not (ours or isinstance(function, Partial)) or jax.tree_util.all_leaves([function]):
        return False
    if isinstance(function, Partial) and _of_an_object(function.func):
        return False
    leaves = jax.tree.leaves(function)
    return bool(_lives(function)) or (bool(leaves) and all(map(_is_argument, leaves)))


def _of_an_object(function: Any) -> bool:
    """Returns whether it is a method of an object that may be another one at the next call.

    What equals by its values (a linen module, a frozen dataclass) is not.
    """
    owner = getattr(function, "__self__", None)
    return inspect.ismethod(function) and type(owner).__eq__ is object.__eq__


def _is_argument(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))


def _is_live(node: Any) -> bool:
    return isinstance(node, Live)


def _lives(tree: Any) -> list[Live]:
    return [node for node in jax.tree.leaves(tree, is_leaf=_is_live) if _is_live(node)]


def held(tree: Any) -> Any:
    """Returns the functions as they are from here on, each traced once for every signature.

    For a loop on the host inside one public call, which takes a function as it is at that call.
    """
    traces: dict[Any, Any] = {}

    def hold(node: Any) -> Any:
        return Live(node.function, traces) if _is_live(node) and node.traces is None else node

    return jax.tree.map(hold, as_pytree(tree), is_leaf=_is_live)


def compiled(function: Callable[..., Any], *, static_argnames: Sequence[str] = ()) -> Any:
    """Returns `jax.jit(function)`, for arguments that may be or hold functions (`as_pytree`).

    Called with positional arguments alone. What it gives cannot be differentiated where such a
    function is not held as arrays and no argument is traced.
    """
    by_arrays = jax.jit(function, static_argnames=tuple(static_argnames))
    names = tuple(inspect.signature(function).parameters)

    def call(*args: Any) -> Any:
        lives = _lives(args)
        if not lives:
            return by_arrays(*args)
        static = {n: a for n, a in zip(names, args, strict=True) if n in static_argnames}
        given = {n: a for n, a in zip(names, args, strict=True) if n not in static_argnames}
        leaves, structure = jax.tree.flatten(given)
        found = None
        if not any(isinstance(leaf, Tracer) for leaf in leaves):
            traces = {} if lives[0].traces is None else lives[0].traces
            signature = (function, *static.items(), structure, *map(jax.typeof, leaves))
            if signature not in traces:
                traces[signature] = _trace(function, static, given)
            found = traces[signature]
        if found is None:
            # A part of a caller's transformation, which finds its program itself.
            return jax.jit(lambda given: function(**static, **given))(given)
        run, captured, tree = found
        return jax.tree.unflatten(tree, run(captured, *leaves))

    functools.update_wrapper(call, function, updated=())
    setattr(call, "of_arrays", by_arrays)  # noqa: B010 (functions have no such attribute to a checker)
    return call


def _trace(function: Callable[..., Any], static: dict[str, Any], given: dict[str, Any]) -> Any:
    """Returns the compiled program of a call, the arrays captured in it, its result's tree.

    None where it has captured what a caller's transformation is about.
    """

    # JAX's own caches go by identity too: each trace has functions of its own.
    def renewed(node: Any) -> Any:
        if not _is_live(node):
            return node
        return Live(functools.partial(_without_inner_arrays, node.function))

    given = jax.tree.map(renewed, given, is_leaf=_is_live)
    leaves, structure = jax.tree.flatten(given)

    def flat(*leaves: Any) -> Any:
        return function(**static, **jax.tree.unflatten(structure, leaves))

    with watched_for_host_draws():
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    captured = [*closed.consts]
    if any(isinstance(array, Tracer) for array in captured):
        return None

    def of_arguments(captured: list[Any], *leaves: Any) -> Any:
        return eval_jaxpr(closed.jaxpr, captured, *leaves)

    program = jax.make_jaxpr(of_arguments)(captured, *leaves)
    return _compiled(_Program(program)), captured, jax.tree.structure(shapes)


@contextlib.contextmanager
def watched_for_host_draws() -> Iterator[None]:
    """Warns where NumPy's global generator moves on inside: a function is traced there.

    What it draws there is drawn once and stays, in the compiled program, for every call. (Python's
    own moves on for others' reasons, as type checkers that look at a sample.)
    """

    def state() -> bytes:
        return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002 (whom others ask)

    before = state()
    yield
    if state() != before:
        warnings.warn(
            "Expected a function to draw from its key; it drew from np.random, once, while it was "
            "traced: every call has the same draw. Use jax.random and `key`.",
            stacklevel=2,
        )


def _without_inner_arrays(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns what a function gives; what a `jit` in it has captured is captured by itself.

    The loops of whoever calls it then take these arrays as arguments too.
    """
    leaves, structure = jax.tree.flatten((args, kwargs))

    def flat(*leaves: Any) -> Any:
        args, kwargs = jax.tree.unflatten(structure, leaves)
        return function(*args, **kwargs)

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, leaves))


def _evaluate(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    if not any(map(_holds_arrays, closed.jaxpr.eqns)):
        return eval_jaxpr(closed.jaxpr, closed.consts, *arguments)
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if _holds_arrays(equation):
            found = _evaluate(equation.params["jaxpr"], operands)
        else:
            params = equation.primitive.get_bind_params(equation.params)
            with equation.ctx.manager:
                found = equation.primitive.bind(*operands, **params)
            found = found if equation.primitive.multiple_results else [found]
        values |= dict(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _holds_arrays(equation: Any) -> bool:
    if equation.primitive.name != "jit":
        return False
    inner = equation.params["jaxpr"]
    return bool(inner.consts) or any(map(_holds_arrays, inner.jaxpr.eqns))


class _Program:
    """A jaxpr that equals every other that computes the same in the same way."""

    def __init__(self, closed: Any) -> None:
        self.closed = closed
        self.key = _key_of_jaxpr(closed, {})
        self.hash = hash(self.key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Program) and self.key == other.key


@functools.lru_cache(MAX_PROGRAMS)
def _compiled(program: _Program) -> Callable[..., list[Any]]:
    closed = program.closed

    def run(captured: list[Any], *leaves: Any) -> list[Any]:
        return eval_jaxpr(closed.jaxpr, closed.consts, *captured, *leaves)

    return jax.jit(run)


@dataclasses.dataclass(frozen=True, eq=False)
class _Itself:
    """An object that equals itself alone, and lives as long as this key of it."""

    value: Any

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def _key_of_jaxpr(closed: Any, known: dict[int, Any]) -> Any:
    """Returns what two jaxprs that compute the same in the same way share."""
    if id(closed) in known:
        return known[id(closed)]
    jaxpr = getattr(closed, "jaxpr", closed)
    numbers = {v: n for n, v in enumerate((*jaxpr.constvars, *jaxpr.invars))}

    def key_of_atom(atom: Any) -> Any:
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


def _key_of(value: Any, known: dict[int, Any]) -> Any:
    """Returns what a parameter of an equation shares with those that mean the same."""
    if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
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
