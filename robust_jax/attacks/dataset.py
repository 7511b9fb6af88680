"""Runs an attack over as many images as there are, in batches of one size."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from rich.progress import track

from robust_jax.attacks.base import Attack


def over_dataset(
    attack: Attack,
    view: Any,
    images: Any,
    labels: Any,
    *,
    key: Key[Array, ""],
    batch_size: int,
    progress: bool = True,
) -> np.ndarray:
    """Returns the adversarial images of a whole dataset, and shows a progress bar.

    Every batch has `batch_size` images, the last one padded, so that one program is compiled. The
    result does not depend on the batch size: each image's draws come from its row.

    Args:
        attack: the attack.
        view: the model under attack.
        images: clean images [n ...].
        labels: class of each image.
        key: root of all draws.
        batch_size: images at a time.
        progress: show the bar?

    Raises:
        ValueError: the batch size is not positive, or what the attack raises.
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size={batch_size} >= 1.")
    images, labels = np.asarray(images), np.asarray(labels)
    adversarial = np.empty_like(images)
    starts = range(0, len(images), batch_size)
    for start in track(starts, description=type(attack).__name__, disable=not progress):
        rows = np.arange(start, min(start + batch_size, len(images)))
        padded = np.concatenate([rows, np.full(batch_size - len(rows), rows[0])])
        found = attack(view, images[padded], labels[padded], key=key, index=padded)
        adversarial[rows] = jax.device_get(found)[: len(rows)]
    return adversarial
