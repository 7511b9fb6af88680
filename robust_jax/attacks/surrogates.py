"""A view whose gradient is another's: backward pass differentiable approximation (BPDA)."""

import dataclasses

import jax
from jaxtyping import Array, Float

from robust_jax import rng
from robust_jax.runtime.live import as_pytree
from robust_jax.types import KeyArray, View


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StraightThrough:
    """The view that `straight_through` makes."""

    forward: View
    backward: View

    def __call__(self, images: Array, *, key: KeyArray) -> Float[Array, "*s b c"]:
        """Returns the forward view's logits, to the last bit, with the backward view's gradient.

        Raises:
            ValueError: their logits are not of one shape.
        """
        return _through(self, images, key)


@jax.custom_jvp
def _through(view: StraightThrough, images: Array, key: KeyArray) -> Array:
    return view.forward(images, key=rng.stream(key, "forward"))


@_through.defjvp
def _through_backward(
    primals: tuple[StraightThrough, Array, KeyArray],
    tangents: tuple[StraightThrough, Array, object],
) -> tuple[Array, Array]:
    """Returns the logits, and the backward view's slope: where none is asked it is not called."""
    (view, images, key), (slopes, slope, _) = primals, tangents

    def shadow(backward: View, images: Array) -> Array:
        return backward(images, key=rng.stream(key, "backward"))

    values = _through(view, images, key)
    other, slope = jax.jvp(shadow, (view.backward, images), (slopes.backward, slope))
    if values.shape != other.shape:
        raise ValueError(f"Expected logits {values.shape} and {other.shape} of one shape.")
    return values, slope.astype(values.dtype)


@jax.custom_jvp
def _sloped(values: Array, shadow: Array) -> Array:
    del shadow
    return values


@_sloped.defjvp
def _slope_of_shadow(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return primals[0], tangents[1].astype(primals[0].dtype)


def with_gradient_of(
    values: Float[Array, "..."], shadow: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns values as they are, whose gradient is another array's.

    A sum of what cancels, `shadow + stop_gradient(values - shadow)`, is rounded at the size of the
    shadow, and decides ties by that.

    Args:
        values: that are returned.
        shadow: of the same shape, to which the whole gradient goes.

    Raises:
        ValueError: their shapes differ.

    Example:
        >>> from robust_jax.attacks import with_gradient_of
        >>> def rounded(x):
        ...     return with_gradient_of(jnp.round(x), 1e9 * x)
        >>> rounded(jnp.asarray(0.6)).item(), jax.grad(rounded)(jnp.asarray(0.6)).item()
        (1.0, 1000000000.0)
    """
    if values.shape != shadow.shape:
        raise ValueError(f"Expected values {values.shape} and shadow {shadow.shape} of one shape.")
    return _sloped(values, shadow)


def straight_through(forward: View, backward: View) -> StraightThrough:
    """Returns the view with the logits of one view and the gradient of another (BPDA).

    Args:
        forward: the model as it is, differentiable or not.
        backward: a differentiable surrogate with logits of the same shape.

    Example:
        >>> from robust_jax.attacks import as_view, straight_through
        >>> view = straight_through(as_view(jnp.round), as_view(lambda images: images))
        >>> images, key = jnp.asarray([[0.4, 0.8]]), jax.random.key(0)
        >>> view(images, key=key).tolist()  # rounded, yet
        [[0.0, 1.0]]
        >>> jax.grad(lambda images: view(images, key=key).sum())(images).tolist()
        [[1.0, 1.0]]

    References:
        Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", 2018.
    """
    return StraightThrough(as_pytree(forward), as_pytree(backward))
