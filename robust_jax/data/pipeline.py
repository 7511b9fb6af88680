"""From a data config to fixed-size splits with statistics; the batches are in `batches.py`."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from robust_jax.data.augment import Augmentation
from robust_jax.data.fingerprint import fingerprint
from robust_jax.data.images import Transform
from robust_jax.data.order import permutation
from robust_jax.data.sources import Digits, Examples, Source
from robust_jax.data.split import Split
from robust_jax.types import SplitName, Task

MEMORY_LIMIT = 2 * 2**30
"""Largest decoded split, in bytes, that memory="auto" keeps on the device."""


@dataclass(frozen=True)
class DataConfig:
    """What to train and test on.

    Attributes:
        source: where the images come from.
        validation_size: training examples set apart for validation: a number, or a fraction of
            the training split if it is a float below 1. Never taken from the test split.
        image_size: side of the square images after resizing; None if they all have one size.
        resize_to: length of the shorter side before the central crop to `image_size` (ImageNet:
            256 and 224); None resizes both sides straight to `image_size`.
        pad_to: side of the square after zero padding (MNIST: 28 to 32); None pads nothing.
        augmentation: what is done to training images only.
        seed: decides the validation split, and the order of `train_batches` where that is given
            none. A run's order is of the run's seed.
        memory: where decoded images live: "device" (all of a split, once), "stream" (decoded
            batch by batch on the host), or "auto" = device up to 2 GiB a split. Random resized
            crops always stream. The batches are the same either way.
        num_workers: processes that decode streamed batches; 0 = threads of this process.

    Raises:
        ValueError: a size is out of range, or sizes and crops do not go together.

    Example:
        >>> from robust_jax.data import Augmentation, DataConfig, Digits
        >>> config = DataConfig(Digits(), validation_size=200, augmentation=Augmentation(shift=0.1))
        >>> DataConfig(Digits(), validation_size=1.5)
        Traceback (most recent call last):
            ...
        ValueError: Expected validation_size=1.5 to be an integer or below 1.
    """

    source: Source = field(default_factory=Digits)
    validation_size: int | float = 0
    image_size: int | None = None
    resize_to: int | None = None
    pad_to: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    memory: Literal["auto", "device", "stream"] = "auto"
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Checks the values that need no data."""
        for name in ("validation_size", "seed", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 0.")
        if isinstance(self.validation_size, float) and self.validation_size >= 1:
            raise ValueError(
                f"Expected validation_size={self.validation_size} to be an integer or below 1."
            )
        for name in ("image_size", "resize_to", "pad_to"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected {name}={value} >= 1.")
        if self.memory not in ("auto", "device", "stream"):
            raise ValueError(f"Expected memory={self.memory} to be auto, device or stream.")
        if self.image_size is None:
            if self.resize_to is not None:
                raise ValueError(f"Expected image_size with resize_to={self.resize_to}.")
            if self.augmentation.random_resized_crop:
                raise ValueError("Expected image_size with random_resized_crop=True.")
        elif self.resize_to is not None and self.resize_to < self.image_size:
            raise ValueError(
                f"Expected resize_to={self.resize_to} >= image_size={self.image_size}."
            )
        if self.augmentation.random_resized_crop and self.memory == "device":
            raise ValueError("Expected memory=auto or stream with random_resized_crop=True.")


class Statistics(NamedTuple):
    """Mean and deviation of training pixels in [0, 1].

    Attributes:
        channel_mean: [k].
        channel_std: [k], over all pixels of all images.
        pixel_mean: [h w k].

    Example:
        >>> from robust_jax.data import DataConfig, Digits, open_data
        >>> found = open_data(DataConfig(Digits())).statistics
        >>> found.channel_mean.round(2), found.channel_std.round(2), found.pixel_mean.shape
        (array([0.31], dtype=float32), array([0.38], dtype=float32), (8, 8, 1))
    """

    channel_mean: np.ndarray
    channel_std: np.ndarray
    pixel_mean: np.ndarray


@dataclass(frozen=True, eq=False)
class Data:
    """The splits of an opened data config.

    Attributes:
        config: what was opened.
        task: image shape, number of classes, number of training examples.
        class_names: name of each class.
        train: training examples, the validation rows taken out.
        validation: the rows set apart; empty where `validation_size` is 0.
        test: test examples.

    Example:
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> data = open_data(DataConfig(Blobs(num_train=256, num_test=64), validation_size=0.25))
        >>> len(data.train), len(data.validation), len(data.test)
        (192, 64, 64)
        >>> data.task
        Task(input_shape=(8, 8, 3), num_classes=4, num_train=192)
    """

    config: DataConfig
    task: Task
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def split(self, name: SplitName) -> Split:
        """Returns the split of a name.

        Example:
            >>> from robust_jax.data import Blobs, DataConfig, open_data
            >>> len(open_data(DataConfig(Blobs(), validation_size=32)).split("validation"))
            32
        """
        splits: dict[SplitName, Split] = {
            "train": self.train, "validation": self.validation, "test": self.test
        }  # fmt: skip
        return splits[name]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of what is trained on: `data.fingerprint` of the training split."""
        return fingerprint(self.train)

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of the training split, at its final size, without random crops.

        They are exact (integer sums). For a streamed split this reads every image once.
        """
        total = np.zeros(self.train.shape, np.int64)
        counts = np.zeros((self.train.shape[2], 256), np.int64)
        chunks = [self.train.arrays] if self.train.memory == "device" else self.train.chunks()
        for images, _ in chunks:
            total += images.sum(0, dtype=np.int64)
            for channel in range(self.train.shape[2]):
                counts[channel] += np.bincount(images[..., channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        share = counts / counts.sum(1, keepdims=True)
        mean = share @ levels
        variance = np.array([s @ (levels - m) ** 2 for s, m in zip(share, mean, strict=True)])
        return Statistics(
            channel_mean=mean.astype(np.float32),
            channel_std=np.sqrt(variance).astype(np.float32),
            pixel_mean=(total / (255 * len(self.train))).astype(np.float32),
        )


def open_data(config: DataConfig) -> Data:
    """Returns the splits of a data config; images are decoded when first needed.

    Args:
        config: what to open.

    Guarantees:
        The validation and training splits are disjoint, together they are the source's training
        split, and the test split is the source's own. They depend on the source, the seed and
        `validation_size` alone.

    Raises:
        ValueError: the data is missing, a split is empty, `validation_size` leaves nothing to
            train on, the first image does not decode, is not uint8, or its shape differs between
            the splits.

    Example:
        >>> from robust_jax.data import DataConfig, Digits, open_data
        >>> data = open_data(DataConfig(Digits(), validation_size=200, seed=0))
        >>> data.task, len(data.validation), len(data.test)
        (Task(input_shape=(8, 8, 1), num_classes=10, num_train=1242), 200, 355)
        >>> set(data.train.rows) & set(data.validation.rows)
        set()
    """
    splits = config.source.load()
    for name, examples in (("train", splits.train), ("test", splits.test)):
        if len(examples) == 0:
            raise ValueError(f"Expected the {name} split of {config.source} not to be empty.")
    if splits.num_classes < 2:  # on which nothing could be wrong
        raise ValueError(f"Expected {config.source} to have two classes at least.")
    num_rows = len(splits.train)
    size = config.validation_size
    num_validation = round(size * num_rows) if isinstance(size, float) else size
    if num_validation >= num_rows:
        raise ValueError(f"Expected validation_size={size} < {num_rows} training examples.")
    if isinstance(size, float) and size > 0 and num_validation == 0:
        raise ValueError(f"Expected validation_size={size} of {num_rows} examples to be >= 1.")
    order = permutation(config.seed, "validation split", 0, num_rows)

    augmentation = config.augmentation
    transform = Transform(config.image_size, config.resize_to, config.pad_to)
    crop = replace(transform, crop_scale=augmentation.scale, crop_ratio=augmentation.ratio)
    shapes = [transform(examples[0][0]).shape for examples in (splits.train, splits.test)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected train images {shapes[0]} and test images {shapes[1]} of one shape "
            "(set image_size)."
        )
    height, width, channels = shapes[0]
    for name, examples in (("train", splits.train), ("test", splits.test)):
        if (dtype := examples[0][0].dtype) != np.uint8:
            raise ValueError(
                f"Expected {name} images of dtype uint8 from {config.source}, found {dtype}."
            )

    def split(name: str, examples: Examples, rows: np.ndarray) -> Split:
        cropped = name == "train" and augmentation.random_resized_crop
        fits = len(rows) * height * width * channels <= MEMORY_LIMIT
        on_device = config.memory == "device" or (config.memory == "auto" and fits)
        return Split(
            name=name,
            examples=examples,
            rows=rows,
            transform=crop if cropped else transform,
            shape=(height, width, channels),
            num_classes=splits.num_classes,
            seed=config.seed,
            memory="device" if on_device and not cropped else "stream",
            num_workers=config.num_workers,
        )

    in_order = config.source.in_order
    arranged = (lambda rows: rows) if in_order else np.sort
    train_rows = arranged(order[num_validation:])
    test_rows = np.arange(len(splits.test))
    if in_order:  # whatever the seed: it is one test split
        test_rows = permutation(0, "test split", 0, len(splits.test))
    return Data(
        config=config,
        task=Task((height, width, channels), splits.num_classes, len(train_rows)),
        class_names=splits.class_names,
        train=split("train", splits.train, train_rows),
        validation=split("validation", splits.train, arranged(order[:num_validation])),
        test=split("test", splits.test, test_rows),
    )
