"""What is checked of hyper-parameters, and of a batch before an attack runs on it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array
from numpy.typing import ArrayLike

from robust_jax.checks import at_least
from robust_jax.runtime.live import as_pytree, compiled
from robust_jax.types import Images, KeyArray, View


def check_counts(config: object, *names: str) -> None:
    """Raises ValueError unless each of these fields is an integer and at least one."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (int, np.integer)):
            raise ValueError(f"Expected {name}={value!r} to be an integer.")
    at_least(config, 1, *names)


def check_positive(config: object, *names: str) -> None:
    """Raises ValueError unless each of these fields is positive and finite, or left at None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"Expected {name}={value} > 0 and finite.")


def check_nonnegative(config: object, *names: str) -> None:
    """Raises ValueError unless each of these fields is zero or positive, and finite."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"Expected {name}={value} >= 0 and finite.")


def check_height_and_width(images: Array | np.ndarray) -> None:
    """Raises ValueError unless the images are [b h w k]."""
    if images.ndim != 4:
        raise ValueError(f"Expected images.shape={images.shape} to be [b h w k].")


def check_batch(
    images: Array | np.ndarray, labels: Array | np.ndarray, index: Array | np.ndarray
) -> None:
    """Raises ValueError unless shapes and dtypes are those of a batch.

    Steps and differences of pixels are lost in 16 bits, and balls are wider by a grey level.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"Expected images.dtype={images.dtype} to be floating; pixels belong in the box."
        )
    if images.dtype.itemsize < 4:
        raise ValueError(
            f"Expected images.dtype={images.dtype} to be float32; a model casts them inside."
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


def check_starts(starts: Array, images: Array | np.ndarray) -> None:
    """Raises ValueError unless these images to begin at fit those that are attacked."""
    if starts.ndim == 0 or not len(starts) or starts.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"Expected starts.shape={starts.shape} to be [n ...] with n >= 1 and images of shape "
            f"{images.shape[1:]}."
        )
    if starts.dtype != images.dtype:
        raise ValueError(f"Expected starts.dtype={starts.dtype} to be {images.dtype}.")


def check_images(images: ArrayLike, bounds: tuple[float, float], name: str = "images") -> None:
    """Raises ValueError where concrete images lie outside the box (by more than 1e-6).

    Args:
        images: concrete, of any shape.
        bounds: smallest and largest pixel value.
        name: how an error calls them.

    Raises:
        ValueError: a pixel lies outside, or is NaN.

    Example:
        >>> from robust_jax.attacks import check_images
        >>> check_images(np.asarray([[0.0, 255.0]]), (0.0, 1.0))
        Traceback (most recent call last):
        ValueError: Expected images in bounds=(0.0, 1.0), found [0.0, 255.0]; normalisation ...
    """
    images = np.asarray(images)  # no part of a program that is being traced
    low, high = np.min(images), np.max(images)
    if not (low >= bounds[0] - 1e-6 and high <= bounds[1] + 1e-6):
        raise ValueError(
            f"Expected {name} in bounds={bounds}, found [{low}, {high}]; normalisation belongs "
            "inside the view."
        )


def check_logits(
    view: View,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    key: KeyArray,
    index: ArrayLike | None = None,
    allow_probabilities: bool = False,
) -> int:
    """Returns the number of classes; raises ValueError where a view does not give finite logits.

    The error names the images, by `index` where it is given and by their place otherwise.
    Rows that are non-negative and sum to one are taken for probabilities, whose softmax would hide
    the model's gradients. Nothing is checked of a view that is itself being traced.

    Args:
        view: the model that is to be attacked.
        images: clean images [b ...].
        labels: class of each image [b].
        key: of the one pass that is asked for.
        index: dataset row of each image, by which an error names it.
        allow_probabilities: may rows sum to one, as scores that are only compared?

    Raises:
        ValueError: logits have another shape, are not finite, or are probabilities; or a label is
            none of the classes.

    Example:
        >>> from robust_jax.attacks import as_view, check_logits
        >>> view = as_view(lambda images: 9 * images)  # three pixels, three classes
        >>> images, labels = jnp.asarray([[0.6, 0.5, 0.4]]), jnp.asarray([0])
        >>> check_logits(view, images, labels, key=jax.random.key(0))
        3
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected labels.dtype={labels.dtype} to be integer.")
    found = _logits(as_pytree(view), jnp.asarray(images), key)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found)):
        return jax.tree.leaves(found)[0].shape[-1]
    if not isinstance(found, (jax.Array, np.ndarray)):
        raise ValueError(
            f"Expected the view's {type(found).__name__} to be one array of logits; take them out "
            "of it inside the view."
        )
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"Expected the view's dtype={found.dtype} to be floating: logits, not decisions."
        )
    logits = np.asarray(found)
    if logits.ndim not in (2, 3) or logits.shape[-2] != np.shape(images)[0]:
        raise ValueError(
            f"Expected the view's shape={logits.shape} to be [b c] with b={np.shape(images)[0]}."
        )
    if logits.shape[-1] < 2:
        raise ValueError(
            f"Expected the view's shape={logits.shape} to have two classes at least; those of a "
            "single logit z are [0, z]."
        )
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        labels_found = f"[{labels.min()}, {labels.max()}]"
        raise ValueError(f"Expected labels in [0, {logits.shape[-1]}), found {labels_found}.")
    check_finite(logits, index)
    sums_to_one = np.abs(np.sum(logits, axis=-1) - 1) < 1e-4
    if not allow_probabilities and np.all(logits >= 0) and np.all(sums_to_one):
        raise ValueError(
            "Expected the view to give logits, found probabilities (rows in [0, 1] that sum to "
            "1); take their logarithm, or the values before softmax."
        )
    return logits.shape[-1]


def check_finite(logits: np.ndarray, index: ArrayLike | None = None) -> None:
    """Raises ValueError where logits [*s b c] are not finite, and names the images."""
    finite = np.moveaxis(np.isfinite(logits), -2, 0).reshape(logits.shape[-2], -1)
    rows = np.flatnonzero(~finite.all(axis=1))
    if len(rows):
        found = "NaN" if np.isnan(logits).any() else "infinity"
        named = rows if index is None else np.asarray(index)[rows]
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        raise ValueError(
            f"Expected the view to give finite logits, found {found} on images "
            f"{named[:8].tolist()}{more}; a class is masked by a large negative logit, -1e4."
        )


@compiled
def _logits(view: View, images: Images, key: KeyArray) -> object:  # of a view that may be wrong
    return view(images, key=key)
