"""Test images under common corruptions, as CIFAR-10-C and CIFAR-100-C are published.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019.
"""

from pathlib import Path

import numpy as np

from robust_jax.data.image_files import TFDS
from robust_jax.data.split import Split, from_arrays

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
"""The fifteen of the benchmark, in its order."""

SEVERITIES = (1, 2, 3, 4, 5)

_IN_TFDS = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
"""What TFDS calls some of them."""


def found(place: str | Path) -> list[str]:
    """Returns the corruptions that a folder holds: of published files, or of TFDS.

    Raises:
        ValueError: it holds none.
    """
    place = Path(place).expanduser()
    held = [name for name in CORRUPTIONS if (place / f"{name}.npy").is_file()]
    if not held:
        prepared = place / "cifar10_corrupted"
        held = [
            name for name in CORRUPTIONS if (prepared / f"{_IN_TFDS.get(name, name)}_1").is_dir()
        ]
    if not held:
        raise ValueError(
            f"Expected data={str(place)!r} to hold CORRUPTION.npy files and labels.npy, or TFDS's "
            f"cifar10_corrupted, of {list(CORRUPTIONS)}."
        )
    return held


def load(place: str | Path, corruption: str, severity: int, *, num_classes: int) -> Split:
    """Returns the test images under a corruption.

    A published file has the test set five times, by rising severity.

    Args:
        place: the folder.
        corruption: of those that `found` returns.
        severity: 1 to 5.
        num_classes: of the labels.

    Raises:
        ValueError: a file is missing, or not as it is published.
    """
    place = Path(place).expanduser()
    if severity not in SEVERITIES:
        raise ValueError(f"Expected severity={severity} to be one of {SEVERITIES}.")
    file = place / f"{corruption}.npy"
    if not file.is_file():
        name = f"cifar10_corrupted/{_IN_TFDS.get(corruption, corruption)}_{severity}"
        # The dataset has no split to train on.
        test = TFDS(name, data_dir=str(place), train_split="test").load().test
        rows = [test[row] for row in range(len(test))]
        images, labels = (np.stack(part) for part in zip(*rows, strict=True))
        return from_arrays(images, labels, num_classes=num_classes, name="test")
    images, labels = _read(file), _read(place / "labels.npy")
    count = len(images) // len(SEVERITIES)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) % len(SEVERITIES):
        raise ValueError(f"Expected {file} to hold uint8 [5 n h w k], found {images.shape}.")
    if len(labels) not in (count, len(images)):
        raise ValueError(
            f"Expected {place / 'labels.npy'} to hold {count} labels or as many again."
        )
    rows = slice((severity - 1) * count, severity * count)
    labels = labels if len(labels) == count else labels[rows]
    return from_arrays(images[rows], labels, num_classes=num_classes, name="test")


def _read(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"Expected {file} to be a readable .npy file: {error}") from error
