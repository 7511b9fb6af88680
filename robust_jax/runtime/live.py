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
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, ParamSpec, TypeGuard, TypeVar

import jax
import numpy as np
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.tree_util import Partial
from jaxtyping import PyTree

from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.programs import Executable, Program, executable

P = ParamSpec("P")
R = TypeVar("R")


class Traced(NamedTuple):
    """What a call is compiled to.

    Attributes:
        program: compiled, of captured arrays and leaves of the arguments.
        captured: the arrays that the functions had captured at the call.
        tree: of the result, a PyTreeDef.
    """

    program: Executable
    captured: list[object]
    tree: object


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Live(Generic[P, R]):
    """A function of which nothing is known but what it gives when it is called.

    Attributes:
        function: the function.
        traces: what was traced already, where it stays as it is for a while (see `held`), by the
            call; None for a call that is a part of a caller's transformation.
    """

    function: Callable[P, R]
    traces: dict[Hashable, Traced | None] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Returns what the function gives."""
        return self.function(*args, **kwargs)


def as_pytree(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function as an argument of `compiled` functions.

    A `jax.tree_util.Partial` that holds arrays, or a view made by this library, is one already: its
    arrays are its leaves, its function is taken to stay as it is, and no call traces it again.
    Every other function is traced at every call, a Partial of an object's bound method too.
    """
    if isinstance(function, Live) or _is_made_of_arguments(function):
        return function
    return Live(function)


def _is_made_of_arguments(function: object) -> bool:
    ours = type(function).__module__.startswith("robust_jax.")
    # A module of nnx or Equinox is a pytree too, but what it does may depend on more than that.
    if not (ours or isinstance(function, Partial)) or jax.tree_util.all_leaves([function]):
        return False
    if isinstance(function, Partial) and _of_an_object(function.func):
        return False
    leaves = jax.tree.leaves(function)
    return bool(_lives(function)) or (bool(leaves) and all(map(_is_argument, leaves)))


def _of_an_object(function: object) -> bool:
    """Returns whether it is a method of an object that may be another one at the next call.

    What equals by its values (a linen module, a frozen dataclass) is not.
    """
    owner = getattr(function, "__self__", None)
    return inspect.ismethod(function) and type(owner).__eq__ is object.__eq__


def _is_argument(leaf: object) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))


def _is_live(node: object) -> TypeGuard[Live[..., object]]:
    return isinstance(node, Live)


def _lives(tree: PyTree) -> list[Live[..., object]]:
    return [node for node in jax.tree.leaves(tree, is_leaf=_is_live) if _is_live(node)]


def held(function: Callable[P, R]) -> Callable[P, R]:
    """Returns a function as it is from here on, traced once for every signature.

    Those that it holds as arguments are held too.
    For a loop on the host inside one public call, which takes a function as it is at that call.
    """
    traces: dict[Hashable, Traced | None] = {}

    def hold(node: object) -> object:
        return Live(node.function, traces) if _is_live(node) and node.traces is None else node

    return jax.tree.map(hold, as_pytree(function), is_leaf=_is_live)


class CompiledAtCall(Generic[P, R]):
    """`jax.jit(function)`, for arguments that may be or hold functions (`as_pytree`).

    What it gives cannot be differentiated where such a function is not held as arrays and no
    argument is traced.

    Attributes:
        of_arrays: what calls without such functions go to.
    """

    def __init__(self, function: Callable[P, R], static_argnames: Sequence[str]) -> None:
        self.of_arrays = jitted(function, static_argnames=tuple(static_argnames))
        self._function, self._static = function, frozenset(static_argnames)
        self._names = tuple(inspect.signature(function).parameters)
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Returns what the function gives."""
        lives = _lives((args, kwargs))
        if not lives:
            return self.of_arrays(*args, **kwargs)
        named = dict(zip(self._names, args, strict=False)) | kwargs
        static = {
            name: named.pop(name) for name in self._names if name in self._static & named.keys()
        }
        leaves, structure = jax.tree.flatten(named)
        found = None
        if not any(isinstance(leaf, Tracer) for leaf in leaves):
            traces = {} if lives[0].traces is None else lives[0].traces
            signature = (self._function, *static.items(), structure, *map(jax.typeof, leaves))
            if signature not in traces:
                traces[signature] = _trace(self._function, static, named)
            found = traces[signature]
        if found is None:
            # A part of a caller's transformation, which finds its program itself.
            return jax.jit(functools.partial(self._function, **static))(**named)
        return jax.tree.unflatten(found.tree, found.program(found.captured, *leaves))


def compiled(
    function: Callable[P, R], *, static_argnames: Sequence[str] = ()
) -> CompiledAtCall[P, R]:
    """Returns the function, compiled as its arguments are at the call."""
    return CompiledAtCall(function, static_argnames)


def _trace(
    function: Callable[..., object], static: Mapping[str, object], given: Mapping[str, object]
) -> Traced | None:
    """Returns what a call is compiled to, None where it captured what a transformation is about."""

    # JAX's own caches go by identity too: each trace has functions of its own.
    def renewed(node: object) -> object:
        if not _is_live(node):
            return node
        return Live(functools.partial(_without_inner_arrays, node.function))

    given = jax.tree.map(renewed, given, is_leaf=_is_live)
    leaves, structure = jax.tree.flatten(given)

    def flat(*leaves: object) -> object:
        return function(**static, **jax.tree.unflatten(structure, leaves))

    with watched_for_host_draws():
        closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    captured = [*closed.consts]
    if any(isinstance(array, Tracer) for array in captured):
        return None

    def of_arguments(captured: list[object], *leaves: object) -> list[object]:
        return eval_jaxpr(closed.jaxpr, captured, *leaves)

    program = Program(jax.make_jaxpr(of_arguments)(captured, *leaves))
    return Traced(executable(program), captured, jax.tree.structure(shapes))


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


def _without_inner_arrays(function: Callable[..., R], *args: object, **kwargs: object) -> R:
    """Returns what a function gives; what a `jit` in it has captured is captured by itself.

    The loops of whoever calls it then take these arrays as arguments too.
    """
    leaves, structure = jax.tree.flatten((args, kwargs))

    def flat(*leaves: object) -> R:
        args, kwargs = jax.tree.unflatten(structure, leaves)
        return function(*args, **kwargs)

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, leaves))


def _evaluate(closed: ClosedJaxpr, arguments: Sequence[object]) -> list[object]:
    if not any(map(_holds_arrays, closed.jaxpr.eqns)):
        return eval_jaxpr(closed.jaxpr, closed.consts, *arguments)
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, arguments, strict=True))

    def read(atom: Var | Literal) -> object:
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


def _holds_arrays(equation: JaxprEqn) -> bool:
    if equation.primitive.name != "jit":
        return False
    inner = equation.params["jaxpr"]
    return bool(inner.consts) or any(map(_holds_arrays, inner.jaxpr.eqns))
