"""Data: sources, splits, batches and augmentation."""

from robust_jax.data.augment import Augmentation, augment
from robust_jax.data.batches import eval_batches, num_steps_per_epoch, train_batches
from robust_jax.data.fingerprint import fingerprint
from robust_jax.data.image_files import TFDS, Folder
from robust_jax.data.images import check_images, check_labels
from robust_jax.data.pipeline import Data, DataConfig, Statistics, open_data
from robust_jax.data.plan import select
from robust_jax.data.sources import NPZ, Blobs, Digits, Examples, Source, Splits
from robust_jax.data.split import Split, from_arrays

__all__ = [
    "NPZ",
    "TFDS",
    "Augmentation",
    "Blobs",
    "Data",
    "DataConfig",
    "Digits",
    "Examples",
    "Folder",
    "Source",
    "Split",
    "Splits",
    "Statistics",
    "augment",
    "check_images",
    "check_labels",
    "eval_batches",
    "fingerprint",
    "from_arrays",
    "num_steps_per_epoch",
    "open_data",
    "select",
    "train_batches",
]
