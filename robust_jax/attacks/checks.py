"""What is checked of hyper-parameters, and of a batch before an attack runs on it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from robust_jax.attacks.views import as_pytree


def check_counts(config: Any, *names: str) -> None:
    """Raises ValueError unless each of these fields is at least one."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"Expected {name}={getattr(config, name)} >= 1.")


def check_positive(config: Any, *names: str) -> None:
    """Raises ValueError unless each of these fields is positive and finite."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"Expected {name}={getattr(config, name)} > 0 and finite.")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless this field is one of the choices."""
    if getattr(config, name) not in choices:
        raise ValueError(
            f"Expected {name}={getattr(config, name)!r} to be one of {sorted(choices)}."
        )


def check_height_and_width(images: Any) -> None:
    """Raises ValueError unless the images are [b h w k]."""
    if images.ndim != 4:
        raise ValueError(f"Expected images.shape={images.shape} to be [b h w k].")


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
