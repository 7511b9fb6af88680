"""How the library compiles the functions that it calls itself, at the top level."""

import contextvars
import functools
from collections.abc import Callable, Sequence
from typing import (
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    runtime_checkable,
)

import jax
from jax import lax
from jaxtyping import Array, PyTree

from robust_jax.runtime.live import watched_for_host_draws

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Precision = Literal["default", "high", "highest", "bfloat16", "tensorfloat32", "float32"]
"""How products of float32 are computed where their own code does not say: JAX's names.

On a CPU all are the same. "default" is what a device is quickest at: on GPUs like A100 and H100
TensorFloat-32, with ten bits after the point, on TPUs bfloat16, with seven. "highest" is float32
everywhere. The last three are other names of the first three in turn.
"""

CPU_OPTIONS = {
    "xla_backend_optimization_level": 2,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}
"""Chosen by measurement on two cores with jax 0.10 and 0.12, for both alike: what won on one did
not lose on the other. `benchmarks/cpu.py` times what they make of a step and of PGD.

LLVM's last level takes longer to compile, most of all noise, and what it makes is no faster. Of
what XLA:CPU can hand to YNNPACK, products of matrices and sums gain; convolutions, in its list by
default, are slower there than in Eigen, so they are not named."""


_ASKS_FOR_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class JitFields(TypedDict, total=False):
    """What `jax.jit` is told besides, under its names."""

    in_shardings: PyTree
    out_shardings: PyTree
    static_argnames: str | Sequence[str]
    donate_argnums: int | Sequence[int]


@runtime_checkable
class Compiled(Protocol[P, R_co]):
    """A compiled function, as `jax.jit` gives one."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Returns what the function gives."""
        ...

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Lowered:
        """Returns the program of a call with such arguments."""
        ...

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Traced:
        """Returns the jaxpr of a call with such arguments."""
        ...


def jitted(function: Callable[P, R], **fields: Unpack[JitFields]) -> Compiled[P, R]:
    """Returns `jax.jit(function, **fields)`, on the CPU with `CPU_OPTIONS`.

    Not for functions that are called inside others' jit: options belong to the outermost.
    """
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    compiled = jax.jit(function, compiler_options=options, **fields)
    return compiled if options is None else _WithOptions(function, compiled)


_DRY: contextvars.ContextVar[bool] = contextvars.ContextVar("dry run", default=False)


class _WithOptions(Generic[P, R]):
    """A compiled function; in a dry run, whose trace JAX lets no options into, the function."""

    def __init__(self, function: Callable[P, R], compiled: Compiled[P, R]) -> None:
        self.function, self.compiled = function, compiled
        self.lower, self.trace = compiled.lower, compiled.trace

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return (self.function if _DRY.get() else self.compiled)(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.compiled, name)


def at_precision(function: Callable[P, R], precision: Precision) -> Callable[P, R]:
    """Returns the function with its products of float32 at a precision, its gradients' too."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return run


def dry_run(
    function: Callable[..., object], *arguments: PyTree, what: str, on_host: bool = False
) -> None:
    """Traces a function on the shapes of its arguments: nothing is computed or compiled.

    A compiled function keeps what was traced for the call that follows.

    Args:
        function: the function.
        arguments: arrays, or shapes of them.
        what: how an error calls it.
        on_host: does it look at numbers on the host? Then it is traced that far.

    Raises:
        ValueError: it fails; in one line.
    """
    token = _DRY.set(True)
    try:
        with watched_for_host_draws():
            traced = function.compiled if isinstance(function, _WithOptions) else function
            jax.eval_shape(traced, *arguments)
    except Exception as error:  # a model's or an attack's own, of every kind
        if on_host and isinstance(error, _ASKS_FOR_NUMBERS):
            return
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"Expected {what} to run on this model: {reason}") from error
    finally:
        _DRY.reset(token)


def computed_once(x: Array) -> Array:
    """Returns x; on the CPU its consumers read it instead of computing it again.

    XLA:CPU copies cheap-looking producers (a normalisation, a ReLU, noise) into each of their
    consumers' loops, also where a loop visits its elements in another order. One array a call:
    what a barrier takes together lives together.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
