"""Members of a view, computed one at a time where the view can."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robust_jax.types import KeyArray, View


@runtime_checkable
class MemberFn(Protocol):
    """Returns the logits of one member, whose number may be traced."""

    def __call__(
        self, images: Array, number: Int[Array, ""] | int, /, *, key: KeyArray
    ) -> Float[Array, "b c"]: ...


def member_of(view: View) -> MemberFn | None:
    """Returns the function of one member's logits, which computes no other; None without one.

    A view has it in `member`: draws that `eot` keeps apart, and what `bind` makes of a method's
    view `members` that has one.
    """
    if not isinstance(view, jax.tree_util.Partial):
        return getattr(view, "member", None)
    member = getattr(view.func, "member", None)
    return None if member is None else jax.tree_util.Partial(member, *view.args)


def num_members_of(view: View, images: Array, *, key: KeyArray) -> int:
    """Returns how many members a view of logits [m b c] has; of [b c] it is one."""
    shape = jax.eval_shape(lambda images: view(images, key=key), images).shape
    return shape[0] if len(shape) == 3 else 1


def member_logits(
    view: View, images: Array, number: Int[Array, ""] | int, *, key: KeyArray
) -> Float[Array, "b c"]:
    """Returns the logits of one member, in float32 at least.

    Of a view that cannot compute it alone all are computed.

    Args:
        view: gives logits [m b c], or of one network [b c].
        images: what it sees.
        number: which member.
        key: of the view: at the same one members are the same.
    """
    alone = member_of(view)
    logits = view(images, key=key) if alone is None else alone(images, number, key=key)
    logits = logits[number] if logits.ndim == 3 else logits
    return logits.astype(jnp.float32) if logits.dtype.itemsize < 4 else logits
