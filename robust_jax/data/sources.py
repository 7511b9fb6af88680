"""Where images come from: each source is a frozen config whose `load` gives random access."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from robust_jax.data.images import check_images, check_labels


@runtime_checkable
class Examples(Protocol):
    """Random access to labelled images: `len(examples)` and `examples[row]`.

    An item is (uint8 image [h w k], label). Reading a row must be safe from several threads, and
    the object must pickle (worker processes read from a copy).
    """

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, row: int, /) -> tuple[np.ndarray, int]:
        """Returns the image and the label of a row."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Examples held in memory.

    Attributes:
        images: uint8 [n h w k]; of `from_arrays` float32 in [0, 1] too.
        labels: integers [n].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    def __getitem__(self, row: int, /) -> tuple[np.ndarray, int]:
        """Returns the image and the label of a row."""
        return self.images[row], int(self.labels[row])


class Splits(NamedTuple):
    """What a source holds.

    Attributes:
        train: the examples to learn from (a validation split is carved from them later).
        test: the examples that only the evaluation may see.
        num_classes: number of classes.
        class_names: name of each class, in label order.

    Example:
        >>> from robust_jax.data import Digits
        >>> train, test, num_classes, class_names = Digits().load()
        >>> image, label = train[0]
        >>> image.shape, image.dtype, class_names[label]
        ((8, 8, 1), dtype('uint8'), '0')
    """

    train: Examples
    test: Examples
    num_classes: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Base of the data sources.

    Attributes:
        in_order: do rows lie class by class, as files of folders do? Then they are taken in one
            order drawn once and for all: the first of them are of all classes.

    Example:
        >>> from dataclasses import dataclass
        >>> from robust_jax.data import DataConfig, Source, Splits, open_data
        >>> from robust_jax.data.sources import ArrayExamples
        >>> @dataclass(frozen=True)
        ... class Greys(Source):
        ...     def load(self):
        ...         images = np.repeat(np.uint8([9, 90, 180, 240]), 64).reshape(4, 8, 8, 1)
        ...         examples = ArrayExamples(images, np.array([0, 0, 1, 1]))
        ...         return Splits(examples, examples, 2, class_names=("dark", "light"))
        >>> open_data(DataConfig(Greys())).task
        Task(input_shape=(8, 8, 1), num_classes=2, num_train=4)
    """

    in_order: ClassVar[bool] = False

    def load(self) -> Splits:
        """Returns the source's examples, ready for random access.

        Raises:
            ValueError: the data is missing or malformed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Digits(Source):
    """Scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels, embedded: nothing to download.

    Pixels 0..16 become round(255 v / 16). Split: within each class, in the data set's order,
    every fifth example (the 5th, 10th, ...) is a test example: 1,442 for training, 355 for test,
    stratified, and the same everywhere.

    References:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (test part).

    Example:
        >>> from robust_jax.data import Digits
        >>> splits = Digits().load()
        >>> len(splits.train), len(splits.test), splits.num_classes
        (1442, 355, 10)
    """

    def load(self) -> Splits:
        """Returns the digits."""
        # Imported here: it takes a second, and only this source needs it.
        from sklearn.datasets import load_digits

        pixels, target = load_digits(return_X_y=True)
        images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        labels = target.astype(np.int32)
        rank = np.zeros(len(labels), np.int32)
        for label in range(10):
            members = labels == label
            rank[members] = np.arange(members.sum())
        test = rank % 5 == 4
        return Splits(
            train=ArrayExamples(images[~test], labels[~test]),
            test=ArrayExamples(images[test], labels[test]),
            num_classes=10,
            class_names=tuple(str(label) for label in range(10)),
        )


@dataclass(frozen=True)
class NPZ(Source):
    """A NumPy archive with the arrays `x_train`, `y_train`, `x_test`, `y_test`.

    Images are [n h w k] or [n h w] (grey); uint8, or floating in [0, 1] if every value is one of
    the 256 grey levels (v / 255), so that nothing is rounded away. Labels are integers [n], or
    [n 1] as Keras has them.

    Attributes:
        path: the .npz file.
        num_classes: number of classes; 0 takes the largest training label plus one.

    Raises:
        ValueError: a negative number of classes; of `load`, no such archive or other arrays.

    Example:
        >>> from robust_jax.data import NPZ
        >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 2, 1])
        >>> np.savez("mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        >>> splits = NPZ("mine.npz").load()
        >>> len(splits.train), splits.num_classes, splits.train[0][0].shape
        (4, 3, (8, 8, 1))
    """

    path: str
    num_classes: int = 0

    def __post_init__(self) -> None:
        """Checks the number of classes."""
        if self.num_classes < 0:
            raise ValueError(f"Expected num_classes={self.num_classes} >= 0.")

    def load(self) -> Splits:
        """Returns the archive's arrays."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise ValueError(f"Expected path={self.path} to be an existing .npz file.")
        names = ("x_train", "y_train", "x_test", "y_test")
        try:
            with path.open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise ValueError("it is one array, not an archive")
                held = sorted(archive.files)
                arrays = {name: archive[name] for name in names if set(names) <= set(held)}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = str(error).rstrip(".")
            raise ValueError(f"Expected {path} to be a readable .npz file: {reason}.") from error
        if not arrays:
            found = ", ".join(held)
            raise ValueError(f"Expected {path} to hold the arrays {', '.join(names)}, not {found}.")
        try:
            return _splits(arrays, self.num_classes)
        except ValueError as error:
            raise ValueError(f"{str(error).removesuffix('.')}, in {path}.") from error


def _splits(arrays: dict[str, np.ndarray], num_classes: int) -> Splits:
    """Returns the checked arrays of an archive; 0 classes are as many as the training labels."""
    for name in ("y_train", "y_test"):
        labels = arrays[name]
        arrays[name] = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    largest = arrays["y_train"]
    if not num_classes and largest.size and np.issubdtype(largest.dtype, np.integer):
        num_classes = int(largest.max()) + 1
    splits = []
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        check_labels(labels, num_classes, f"y_{split}")
        images = _as_uint8(images[..., None] if images.ndim == 3 else images, f"x_{split}")
        if len(images) != len(labels):
            raise ValueError(
                f"Expected x_{split} and y_{split} of equal length, "
                f"got {len(images)} and {len(labels)}."
            )
        splits.append(ArrayExamples(images, labels.astype(np.int32)))
    class_names = tuple(str(label) for label in range(num_classes))
    return Splits(splits[0], splits[1], num_classes, class_names)


def _as_uint8(images: np.ndarray, name: str) -> np.ndarray:
    """Returns checked images as uint8, refusing values between the grey levels."""
    check_images(images, name)
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"Expected {name} of shape {images.shape} to have 1 or 3 channels.")
    if images.dtype == np.uint8:
        return images
    levels = np.rint(images.astype(np.float64) * 255)
    error = np.abs(images.astype(np.float64) * 255 - levels).max(initial=0.0)
    if error > 1e-3:
        raise ValueError(f"Expected {name} to hold multiples of 1/255 (off by {error:.2g}/255).")
    return levels.astype(np.uint8)


@dataclass(frozen=True)
class Blobs(Source):
    """Synthetic images for tests: a fixed random image for each class plus Gaussian noise.

    Labels go round the classes (0, 1, 2, ...), and rows are reproducible from `seed`.

    Attributes:
        num_train: number of training examples.
        num_test: number of test examples.
        image_size: side of the square images.
        channels: 1 or 3.
        num_classes: number of classes.
        noise: standard deviation of the noise, for pixels in [0, 1] (then rounded and limited to
            the 256 grey levels).
        seed: seed of the class images and of the noise.

    Example:
        >>> from robust_jax.data import Blobs
        >>> splits = Blobs(num_train=6, num_classes=3, image_size=4).load()
        >>> [splits.train[row][1] for row in range(6)], splits.train[0][0].shape
        ([0, 1, 2, 0, 1, 2], (4, 4, 3))
    """

    num_train: int = 256
    num_test: int = 64
    image_size: int = 8
    channels: int = 3
    num_classes: int = 4
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the sizes."""
        for name in ("num_train", "num_test", "image_size", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        if self.channels not in (1, 3):
            raise ValueError(f"Expected channels={self.channels} to be 1 or 3.")
        if self.noise < 0:
            raise ValueError(f"Expected noise={self.noise} >= 0.")

    def load(self) -> Splits:
        """Returns freshly drawn images."""
        generator = np.random.default_rng(self.seed)
        shape = (self.image_size, self.image_size, self.channels)
        means = generator.uniform(0.2, 0.8, (self.num_classes, *shape))
        train = _blobs(generator, means, self.num_train, self.noise)
        test = _blobs(generator, means, self.num_test, self.noise)
        class_names = tuple(f"blob{label}" for label in range(self.num_classes))
        return Splits(train, test, self.num_classes, class_names)


def _blobs(
    generator: np.random.Generator, means: np.ndarray, num_examples: int, noise: float
) -> ArrayExamples:
    """Returns noisy copies of the class images."""
    labels = np.arange(num_examples, dtype=np.int32) % len(means)
    images = means[labels] + noise * generator.standard_normal((num_examples, *means.shape[1:]))
    return ArrayExamples(np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8), labels)
