"""One split of a data set at its final image size, read row by row or held decoded."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array
from numpy.typing import ArrayLike

from robust_jax.data.images import NUM_CROP_DRAWS, Transform, check_images, check_labels
from robust_jax.data.order import uniforms
from robust_jax.data.sources import ArrayExamples, Examples

_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Split:
    """One split at its final image size.

    Attributes:
        name: "train", "validation" or "test".
        examples: the source's examples.
        rows: row in `examples` of each example of this split.
        transform: brings an image to its final size.
        shape: height, width and channels of every image.
        num_classes: number of classes.
        seed: seed of the random crops.
        memory: "device" or "stream".
        num_workers: processes that decode streamed batches.

    Example:
        >>> from robust_jax.data import from_arrays
        >>> images = np.full((3, 2, 2, 1), 255, np.uint8)
        >>> split = from_arrays(images, np.array([0, 1, 1]), num_classes=2, name="validation")
        >>> len(split), split.shape, split.dtype
        (3, (2, 2, 1), dtype('uint8'))
        >>> image, label = split[2]
        >>> int(image.max()), label
        (255, 1)
    """

    name: str
    examples: Examples
    rows: np.ndarray
    transform: Transform
    shape: tuple[int, int, int]
    num_classes: int
    seed: int
    memory: Literal["device", "stream"]
    num_workers: int
    on_devices: dict[Sharding | None, tuple[Array, Array]] = field(default_factory=dict, repr=False)
    """Copies of `arrays` that `batches` keeps, by how they lie."""
    at_sizes: "dict[int, Split]" = field(default_factory=dict, repr=False)
    """The split at other sizes, which `batches` keeps with their arrays."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.rows)

    @property
    def dtype(self) -> np.dtype:
        """Returns uint8; of arrays that a caller handed in as fractions, float32."""
        found = self.examples
        return found.images.dtype if isinstance(found, ArrayExamples) else np.dtype(np.uint8)

    def __getitem__(self, row: int, /) -> tuple[np.ndarray, int]:
        """Returns the image (no random crop) and the label of a row."""
        return self.read(row, None)

    def __getstate__(self) -> dict[str, object]:
        """Returns the fields without the decoded arrays: a worker process needs none."""
        emptied: dict[str, object] = {"on_devices": {}, "at_sizes": {}}
        return {n: v for n, v in self.__dict__.items() if n != "arrays"} | emptied

    def read(self, row: int, epoch: int | None) -> tuple[np.ndarray, int]:
        """Returns the image of a row as an epoch sees it (None: no random crop), and its label.

        Raises:
            ValueError: the image has another shape than the split, or the label is none.
        """
        image, label = self.examples[int(self.rows[row])]
        draws = None
        if epoch is not None and self.transform.crop_scale is not None:
            draws = uniforms(self.seed, "resized crop", epoch, row, NUM_CROP_DRAWS)
        image = self.transform(image, draws)
        if image.shape != self.shape:
            raise ValueError(
                f"Expected image {row} of {self.name} of shape {image.shape} to be {self.shape} "
                "(set image_size for images of varying size)."
            )
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f"Expected label={label} of image {row} of {self.name} in [0, {self.num_classes})."
            )
        return image, label

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (images, labels) of consecutive rows, without random crops."""
        if isinstance(self.examples, ArrayExamples) and self.transform.image_size is None:
            yield (
                self.transform.pad(self.examples.images[self.rows]),
                self.examples.labels[self.rows].astype(np.int32),
            )
            return

        def decode(start: int) -> tuple[np.ndarray, np.ndarray]:
            rows = range(start, min(start + _CHUNK, len(self)))
            images = np.empty((len(rows), *self.shape), np.uint8)
            labels = np.empty(len(rows), np.int32)
            for i, row in enumerate(rows):
                images[i], labels[i] = self.read(row, None)
            return images, labels

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            starts = list(range(0, len(self), _CHUNK))
            # A window of chunks at a time, so that a large split never waits decoded in memory.
            window = 4 * (os.cpu_count() or 1)
            for first in range(0, len(starts), window):
                yield from pool.map(decode, starts[first : first + window])

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All images ([n h w k], no random crop) and labels, decoded once and kept."""
        images = np.empty((len(self), *self.shape), self.dtype)
        labels = np.empty(len(self), np.int32)
        start = 0
        for chunk, chunk_labels in self.chunks():
            images[start : start + len(chunk)] = chunk
            labels[start : start + len(chunk)] = chunk_labels
            start += len(chunk)
        return images, labels

    def resized(self, image_size: int) -> "Split":
        """Returns the same examples at another `image_size`; `resize_to` keeps its proportion.

        Raises:
            ValueError: the images are not resized, or padded.
        """
        old = self.transform
        if old.image_size == image_size:
            return self
        if old.image_size is None or old.pad_to is not None:
            raise ValueError(
                f"Expected image_size={image_size} only for data with image_size and no pad_to."
            )
        resize_to = old.resize_to
        if resize_to is not None:
            resize_to = round(resize_to * image_size / old.image_size)
        transform = replace(old, image_size=image_size, resize_to=resize_to)
        shape = (image_size, image_size, self.shape[2])
        return replace(self, transform=transform, shape=shape, on_devices={}, at_sizes={})


def from_arrays(
    images: ArrayLike, labels: ArrayLike, *, num_classes: int, name: str = "test"
) -> Split:
    """Returns arrays as a split.

    Args:
        images: [n h w k], uint8 in 0 .. 255 or floating in [0, 1].
        labels: class of each [n], any integers.
        num_classes: c.
        name: "test", "validation" or "train".

    Raises:
        ValueError: a shape, dtype or value is wrong, or there are no images.

    Example:
        >>> from robust_jax.data import from_arrays
        >>> split = from_arrays(np.zeros((10, 28, 28, 1)), np.arange(10), num_classes=10)
        >>> split.shape, split.dtype
        ((28, 28, 1), dtype('float32'))
        >>> from_arrays(np.zeros((10, 28, 28, 1)), np.arange(10), num_classes=5)
        Traceback (most recent call last):
            ...
        ValueError: Expected labels[5]=5 in [0, 5).
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    check_labels(labels, num_classes)
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"Expected {len(images)} images to be {len(labels)} and at least one.")
    images = images if images.dtype == np.uint8 else images.astype(np.float32)
    height, width, channels = images.shape[1:]
    return Split(
        name=name,
        examples=ArrayExamples(images, labels.astype(np.int32)),
        rows=np.arange(len(images), dtype=np.int32),
        transform=Transform(),
        shape=(height, width, channels),
        num_classes=num_classes,
        seed=0,
        memory="device",
        num_workers=0,
    )
