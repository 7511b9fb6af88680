"""How the library compiles the functions that it calls itself, at the top level."""

from collections.abc import Callable
from typing import Any

import jax

CPU_OPTIONS = {"xla_backend_optimization_level": 2}
"""LLVM's last level takes six times as long over every draw of noise (Threefry), 1.4 against .2 s
with jax 0.10, and what it makes of it, or of a network, is no faster."""


def jitted(function: Callable[..., Any], **fields: Any) -> Any:
    """Returns `jax.jit(function, **fields)`, on the CPU at the optimization level that pays.

    Not for functions that are called inside others' jit: options belong to the outermost.
    """
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options, **fields)
