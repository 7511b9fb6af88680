"""What every attack is: a frozen configuration that is called on a view and a batch of images.

Nothing here knows of networks: a view is any JAX function from images to logits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, Key

from robust_jax import rng
from robust_jax.attacks.threat import ThreatModel
from robust_jax.types import Variables


class View(Protocol):
    """Returns logits of images: what the adversary may see and differentiate.

    Logits are [b c]. A view may also return [s b c], s draws of a random model: attacks then
    average the loss over the draws and decide by the mean probabilities (see `views.eot`).
    """

    def __call__(self, images: Any, *, key: Any) -> Any: ...


def bind(method_view: Callable, variables: Variables) -> Callable:
    """Returns the view of a method's view function at given variables.

    The variables stay arguments of the compiled attack (they are leaves of the view, which is a
    pytree), so other weights of the same shapes compile nothing anew.

    Args:
        method_view: function `(variables, images, *, key) -> logits`.
        variables: the network's arrays.
    """
    return jax.tree_util.Partial(method_view, variables)


def as_view(fn: Callable) -> Callable:
    """Returns the view of a plain function of images; the key is not used.

    Args:
        fn: function `images -> logits`, deterministic. Arrays that it closes over are constants
            of the compiled attack; use `bind` to keep them arguments.
    """
    return jax.tree_util.Partial(_without_key, jax.tree_util.Partial(fn))


def _without_key(fn: Callable, images: Any, *, key: Any) -> Any:
    del key
    return fn(images)


@dataclasses.dataclass(frozen=True)
class Attack:
    """Hyper-parameters of an attack, called as `attack(view, images, labels, key=key)`.

    Subclasses add their fields and `perturb`. Where the arrays are concrete (a notebook), the
    call checks their values too and compiles once per attack, view and shape; inside a caller's
    `jit` only shapes and dtypes can be checked, and values are the caller's.

    Guarantees:
        The result has the images' shape and dtype and lies in the box. No gradient flows through
        it. Calling is the same inside and outside `jit`. For a deterministic view row i depends
        only on row i, its index and the key (up to the rounding of the view itself): not on
        batch size, padding, order or sharding.

    Attributes:
        needs_logits: is a view that gives probabilities an error? Not for attacks that only
            compare scores, to which a method's `predict` may be handed.
        on_host: does it run on the host over compiled parts? Then it cannot be traced by `jit`.
        targeted: are the labels classes to reach, not to leave? A field of the attacks that can
            be either.
    """

    needs_logits: ClassVar[bool] = True
    on_host: ClassVar[bool] = False
    targeted = False  # without an annotation, so that subclasses may make it a field

    @property
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""
        raise TypeError(f"Expected {type(self).__name__} to define box.")

    def check(self, images: Any) -> None:
        """Raises ValueError where images of this shape do not suit the attack."""

    def perturb(
        self, view: Any, images: Array, labels: Array, *, key: Array, index: Array
    ) -> Array:
        """Returns the adversarial images; `__call__` has checked and prepared the arguments."""
        raise TypeError(f"Expected {type(self).__name__} to define perturb(...).")

    def __call__(
        self,
        view: Any,
        images: Any,
        labels: Any,
        *,
        key: Key[Array, ""],
        index: Any = None,
    ) -> Any:
        """Returns the adversarial images.

        Args:
            view: the model under attack, see `View`; `as_view` makes one of a plain function.
            images: clean images [b ...], floating point, inside the box.
            labels: class of each image [b]; of a targeted attack the class to reach.
            key: root of the attack's random draws.
            index: dataset row of each image [b], from which its own draws are derived; default
                0, 1, ..., b-1. Give it where a batch is a part of a dataset.

        Raises:
            ValueError: shapes, dtypes or (where they are concrete) values do not fit.
        """
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        index = jnp.arange(len(labels)) if index is None else jnp.asarray(index)
        check_batch(images, labels, index)
        self.check(images)
        if images.shape[0] == 0:
            return images
        view = as_pytree(view)
        if not isinstance(images, Tracer):
            check_images(images, self.box)
        if not isinstance(labels, Tracer) and not isinstance(images, Tracer):
            check_logits(
                view,
                images,
                labels,
                key=rng.stream(key, "check"),
                allow_probabilities=not self.needs_logits,
            )
        return _run(self, view, images, labels, key, index)


def as_pytree(view: Any) -> Any:
    """Returns the view as a pytree: a plain function becomes one without leaves."""
    leaves = jax.tree_util.all_leaves([view])
    return jax.tree_util.Partial(view) if leaves else view


@jax.jit(static_argnames=("attack",))
def _run(attack, view, images, labels, key, index):
    # The arguments are cut too, so that loops inside are not differentiated for nothing.
    view, images = jax.lax.stop_gradient((view, images))
    return jax.lax.stop_gradient(attack.perturb(view, images, labels, key=key, index=index))


def check_batch(images: Any, labels: Any, index: Any) -> None:
    """Raises ValueError unless shapes and dtypes are those of a batch."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"Expected images.dtype={images.dtype} to be floating; pixels belong in the box."
        )
    if images.ndim < 2:
        raise ValueError(f"Expected images.shape={images.shape} to be [b ...].")
    for name, array in (("labels", labels), ("index", index)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(f"Expected {name}.dtype={array.dtype} to be integer.")
        if array.shape != images.shape[:1]:
            raise ValueError(
                f"Expected {name}.shape={array.shape} to be {images.shape[:1]}, one per image."
            )


def check_images(images: Any, bounds: tuple[float, float]) -> None:
    """Raises ValueError where concrete images lie outside the box (by more than 1e-6)."""
    low, high = np.min(images), np.max(images)
    if not (low >= bounds[0] - 1e-6 and high <= bounds[1] + 1e-6):
        raise ValueError(
            f"Expected images in bounds={bounds}, found [{low}, {high}]; normalisation belongs "
            "inside the view."
        )


def check_logits(
    view: Any,
    images: Any,
    labels: Any,
    *,
    key: Key[Array, ""],
    allow_probabilities: bool = False,
) -> None:
    """Raises ValueError where a view of concrete images does not give finite logits.

    Checked on at most eight images: rows that are non-negative and sum to one are taken for
    probabilities, whose softmax would hide the model's gradients.
    """
    view = as_pytree(view)
    labels = np.asarray(labels)
    shape = jax.eval_shape(lambda v, x, k: v(x, key=k), view, images, key).shape
    if len(shape) not in (2, 3) or shape[-2] != len(images):
        raise ValueError(f"Expected the view's shape={shape} to be [b c] with b={len(images)}.")
    if labels.min() < 0 or labels.max() >= shape[-1]:
        found = f"[{labels.min()}, {labels.max()}]"
        raise ValueError(f"Expected labels in [0, {shape[-1]}), found {found}.")
    finite, probabilities = _describe_logits(view, images[:8], key)
    if not finite:
        raise ValueError("Expected the view to give finite logits, found NaN or infinity.")
    if probabilities and not allow_probabilities:
        raise ValueError(
            "Expected the view to give logits, found probabilities (rows in [0, 1] that sum to "
            "1); take their logarithm, or the values before softmax."
        )


@jax.jit
def _describe_logits(view, images, key) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    logits = view(images, key=key)
    positive = jnp.all(logits >= 0)
    sums_to_one = jnp.all(jnp.abs(jnp.sum(logits, axis=-1) - 1) < 1e-4)
    return jnp.all(jnp.isfinite(logits)), positive & sums_to_one


@dataclasses.dataclass(frozen=True)
class BoundedAttack(Attack):
    """An attack inside a ball.

    Guarantees:
        Also: the result is in the ball (`ThreatModel` states the rounding) and eps = 0 gives the
        images back.

    Attributes:
        threat: the ball.
    """

    threat: ThreatModel

    @property
    def box(self) -> tuple[float, float]:
        """Returns the smallest and largest pixel value."""
        return self.threat.bounds

    def check(self, images: Any) -> None:
        """Raises ValueError where the ball is larger than the box of such images."""
        self.threat.check(images.shape[1:])


def start_keys(key: Key[Array, ""], index: Int[Array, " b"], *counters: Any) -> Key[Array, " b"]:
    """Returns each example's key for the starting point of a restart."""
    return rng.per_example(rng.stream(key, "start", *counters), index)
