"""What is checked of images, labels and scores before anything is certified of them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_batch(images: jax.Array, labels: jax.Array, bounds: tuple[float, float]) -> None:
    """Raises ValueError unless these are float32 images in the box and one integer label of each.

    Values are checked where arrays are concrete.
    """
    if images.ndim < 2 or images.dtype != jnp.float32:
        raise ValueError(
            f"Expected images of shape {images.shape} and dtype {images.dtype} to be [b ...] and "
            "float32."
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"Expected labels.shape={labels.shape} to be {images.shape[:1]}, one per image."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"Expected labels.dtype={labels.dtype} to be integer.")
    if not bounds[0] < bounds[1]:
        raise ValueError(f"Expected bounds={bounds} to be increasing.")
    if not isinstance(images, Tracer) and images.size:
        low, high = np.min(np.asarray(images)), np.max(np.asarray(images))
        if not bounds[0] <= low <= high <= bounds[1]:
            raise ValueError(f"Expected images in bounds={bounds}, found [{low}, {high}].")


def check_classes(labels: jax.Array, num_classes: int) -> None:
    """Raises ValueError where concrete labels are none of the classes."""
    if isinstance(labels, Tracer) or not labels.size:
        return
    low, high = np.min(np.asarray(labels)), np.max(np.asarray(labels))
    if not 0 <= low <= high < num_classes:
        raise ValueError(f"Expected labels in [0, {num_classes}), found [{low}, {high}].")


def shape_of(scores: object, wanted: str, num_images: int) -> tuple[int, ...]:
    """Returns the shape of what a function gave; raises ValueError unless it is as wanted.

    Args:
        scores: an array, or its shape and dtype.
        wanted: "[b c]", or a choice: "[b c] or [b m c]".
        num_images: b.
    """
    shape, dtype = getattr(scores, "shape", None), getattr(scores, "dtype", None)
    if shape is None or dtype is None:
        raise ValueError(
            f"Expected the function's {type(scores).__name__} to be one array of scores; take them "
            "out of it inside the function."
        )
    ranks = {each.count(" ") + 1 for each in wanted.split(" or ")}
    if len(shape) not in ranks or shape[0] != num_images:
        raise ValueError(f"Expected scores.shape={shape} to be {wanted} with b={num_images}.")
    if shape[-1] < 2:
        raise ValueError(f"Expected scores.shape={shape} to have two classes at least.")
    return shape
