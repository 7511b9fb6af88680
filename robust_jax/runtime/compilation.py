"""How the library compiles the functions that it calls itself, at the top level."""

import functools
import os
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
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, PyTree

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
    name: value
    for name, value in {
        "xla_backend_optimization_level": 2,
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
        ),
    }.items()
    if f"--{name}=" not in os.environ.get("XLA_FLAGS", "")
}
"""Chosen by measurement on two cores with jax 0.10 and 0.12, for both alike: what won on one did
not lose on the other. `benchmarks/cpu.py` times what they make of a step and of PGD. What XLA_FLAGS
names at the import stays as it says.

LLVM's last level takes longer to compile, most of all noise, and what it makes is no faster. Of
what XLA:CPU can hand to YNNPACK, products of matrices and sums gain; convolutions, in its list by
default, are slower there than in Eigen, so they are not named."""


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


def at_top_level() -> bool:
    """Returns whether JAX computes here, and traces or transforms nothing."""
    return get_opaque_trace_state() == _TOP_LEVEL


_TOP_LEVEL = get_opaque_trace_state()


class Jitted(Generic[P, R]):
    """A function that `jitted` has compiled."""

    def __init__(self, function: Callable[P, R], fields: JitFields) -> None:
        self.inside = jax.jit(function, **fields)
        self._function, self._fields = function, fields
        functools.update_wrapper(self, function, updated=())

    @functools.cached_property
    def outermost(self) -> Compiled[P, R]:
        """Returns what is called at the top level; the device is known at the first call."""
        return self.with_options(dict(CPU_OPTIONS) if jax.default_backend() == "cpu" else None)

    def with_options(self, options: dict[str, int | str] | None) -> Compiled[P, R]:
        """Returns the function compiled with these options, beside what it is called as."""
        return jax.jit(self._function, compiler_options=options, **self._fields)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Returns what the function gives."""
        return (self.outermost if at_top_level() else self.inside)(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.outermost, name)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Lowered:
        """Returns the program of a call with such arguments."""
        return self.outermost.lower(*args, **kwargs)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Traced:
        """Returns the jaxpr of a call with such arguments."""
        return self.outermost.trace(*args, **kwargs)


def jitted(function: Callable[P, R], **fields: Unpack[JitFields]) -> Jitted[P, R]:
    """Returns `jax.jit(function, **fields)`, on the CPU with `CPU_OPTIONS`.

    Options belong to the outermost function: inside another's trace it is `jax.jit` alone.
    """
    return Jitted(function, fields)


def at_precision(function: Callable[P, R], precision: Precision) -> Callable[P, R]:
    """Returns the function with its products of float32 at a precision, its gradients' too."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return run


def computed_once(x: Array) -> Array:
    """Returns x; on the CPU its consumers read it instead of computing it again.

    XLA:CPU copies cheap-looking producers (a normalisation, a ReLU, noise) into each of their
    consumers' loops, also where a loop visits its elements in another order. One array a call:
    what a barrier takes together lives together.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
