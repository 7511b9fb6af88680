"""Which data a number is of, in twelve hex digits."""

import hashlib

import numpy as np

from robust_jax.data.split import Split

NUM_READ = 64
"""Images that are read, evenly spread: a second for ImageNet's, whatever the split's size."""


def fingerprint(split: Split) -> str:
    """Returns twelve hex digits that two splits share only if they look the same.

    That is: as many images, of one shape and number of classes, and 64 of them, the first and the
    last among them, with the same pixels (as decoded and resized here) and the same labels.

    Raises:
        ValueError: an image cannot be read.

    Example:
        >>> from robust_jax.data import fingerprint, from_arrays
        >>> images, labels = np.zeros((5, 2, 2, 1)), np.arange(5)
        >>> first = fingerprint(from_arrays(images, labels, num_classes=5))
        >>> first == fingerprint(from_arrays(images, labels, num_classes=5))
        True
        >>> first == fingerprint(from_arrays(images, labels[::-1], num_classes=5))
        False
    """
    digest = hashlib.sha256(f"{len(split)} {split.shape} {split.num_classes}".encode())
    rows = np.unique(np.linspace(0, len(split) - 1, min(NUM_READ, len(split))).astype(int))
    for row in rows.tolist():
        image, label = split[row]
        digest.update(f" {row} {label} ".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:12]
