"""Does a function run on arrays of these shapes? Asked before anything is computed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from robust_jax.runtime.compilation import Jitted
from robust_jax.runtime.live import watched_for_host_draws
from robust_jax.types import Batch

_ASKS_FOR_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


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
    try:
        with watched_for_host_draws():
            traced = function.outermost if isinstance(function, Jitted) else function
            jax.eval_shape(traced, *arguments)
    except Exception as error:  # a model's or an attack's own, of every kind
        if on_host and isinstance(error, _ASKS_FOR_NUMBERS):
            return
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"Expected {what} to run on this model: {reason}") from error


def batch_of(shape: tuple[int, ...]) -> Batch:
    """Returns the shapes of a batch, from those of its images [b h w k]."""
    images: PyTree = jax.ShapeDtypeStruct(shape, jnp.float32)
    numbers: PyTree = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    mask: PyTree = jax.ShapeDtypeStruct(shape[:1], jnp.bool_)
    return Batch(images, numbers, mask, numbers)
