"""Sources that decode image files: a folder tree and prepared TFDS datasets."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from robust_jax.data.images import decode_image
from robust_jax.data.sources import Source, Splits

_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".pbm", ".pgm", ".ppm", ".pnm"}
)
# What archives and file servers add beside hidden files: resource forks, thumbnails.
_FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir"})


@dataclass(frozen=True, eq=False)
class FileExamples:
    """Examples in image files, decoded when read.

    Attributes:
        paths: one file a row.
        labels: integers [n].
        channels: 1 or 3.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    channels: int

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.paths)

    def __getitem__(self, row: int, /) -> tuple[np.ndarray, int]:
        """Returns the decoded image and the label of a row."""
        path = self.paths[row]
        return decode_image(Path(path).read_bytes(), self.channels, path), int(self.labels[row])


@dataclass(frozen=True)
class Folder(Source):
    """Image files under `train/<class>/...` and `val/<class>/...` (or `test/<class>/...`).

    Classes are the folders under `train`, in sorted order; rows are sorted by class and path, and
    mixed where data is opened (`in_order`).
    Passed over are files that do not end like an image and, at any depth, hidden files and
    folders (`.ipynb_checkpoints`, `._a.png`), `__MACOSX` and `@eaDir`; links are followed.
    Pixels are those stored, see `decode_image`. TinyImageNet's own layout is recognised
    by its `wnids.txt`: `train/<wnid>/images/*`, and `val/images/*` labelled by
    `val/val_annotations.txt` (its `test` has no labels and is not read); its classes are the
    sorted wnids too.

    Attributes:
        path: the folder that holds `train`.
        channels: 3 converts every image to RGB, 1 to grey.

    Raises:
        ValueError: other channels; of `load`, no such folder, or no image of a class.

    Example:
        >>> import pathlib
        >>> from PIL import Image
        >>> from robust_jax.data import Folder
        >>> for place in ("train/cat", "train/dog", "val/cat"):
        ...     pathlib.Path("pets", place).mkdir(parents=True)
        ...     Image.new("RGB", (4, 4)).save(f"pets/{place}/0.png")
        >>> splits = Folder("pets").load()
        >>> splits.class_names, len(splits.train), len(splits.test)
        (('cat', 'dog'), 2, 1)
    """

    in_order: ClassVar[bool] = True

    path: str
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        """Checks the number of channels."""
        if self.channels not in (1, 3):
            raise ValueError(f"Expected channels={self.channels} to be 1 or 3.")

    def load(self) -> Splits:
        """Returns the listed files; nothing is decoded yet."""
        root = Path(self.path).expanduser()
        train = root / "train"
        if not train.is_dir():
            raise ValueError(f"Expected path={self.path} to be a folder that holds train/<class>.")
        if (root / "wnids.txt").is_file():
            class_names = tuple(sorted((root / "wnids.txt").read_text().split()))
            test = _annotated(root / "val", class_names)
        else:
            class_names = _subfolders(train)
            held_out = next((root / n for n in ("val", "test") if (root / n).is_dir()), None)
            if held_out is None:
                raise ValueError(f"Expected {root} to hold val/<class> or test/<class>.")
            unknown = sorted(set(_subfolders(held_out)) - set(class_names))
            if unknown:
                raise ValueError(f"Expected {held_out / unknown[0]} to be a class of {train}.")
            test = _listed(held_out, class_names, every_class=False)
        if not class_names:
            raise ValueError(f"Expected {train} to hold one folder for each class.")
        return Splits(
            train=self._examples(_listed(train, class_names, every_class=True)),
            test=self._examples(test),
            num_classes=len(class_names),
            class_names=class_names,
        )

    def _examples(self, rows: list[tuple[str, int]]) -> FileExamples:
        labels = np.array([label for _, label in rows], np.int32)
        return FileExamples(tuple(path for path, _ in rows), labels, self.channels)


def _is_foreign(name: str) -> bool:
    """Returns whether a file or folder of this name is no part of the data."""
    return name.startswith(".") or name in _FOREIGN_FOLDERS


def _subfolders(folder: Path) -> tuple[str, ...]:
    """Returns the sorted names of the folders in a folder, foreign ones left out."""
    paths = sorted(path for path in folder.iterdir() if not _is_foreign(path.name))
    for path in paths:
        if not path.exists():
            raise ValueError(f"Expected {path} not to be a broken link.")
    return tuple(path.name for path in paths if path.is_dir())


def _images(folder: Path, seen: dict[Path, Path]) -> Iterator[str]:
    """Yields the path of each image file in a folder, at any depth.

    Args:
        folder: where.
        seen: folders of this split that were listed already, by where they really are; grows.

    Raises:
        ValueError: a link leads back to a folder above it, or to one that is listed already, or an
            image's leads nowhere.
    """
    for where, folders, files in os.walk(folder, followlinks=True):
        here = Path(where)
        first = seen.setdefault(here.resolve(), here)
        if first != here:
            raise ValueError(f"Expected {here} not to list the images of {first} again.")
        folders[:] = [name for name in folders if not _is_foreign(name)]
        for name in folders:
            inner = Path(where, name)
            if inner.is_symlink() and Path(where).resolve().is_relative_to(inner.resolve()):
                raise ValueError(f"Expected {inner} not to link to a folder that holds it.")
        for name in files:
            path = Path(where, name)
            if _is_foreign(name) or path.suffix.lower() not in _EXTENSIONS:
                continue
            if not path.is_file():
                raise ValueError(f"Expected {path} to be a file.")
            yield str(path)


def _listed(
    folder: Path, class_names: tuple[str, ...], *, every_class: bool
) -> list[tuple[str, int]]:
    """Returns (path, label) of each image under `<folder>/<class>`, at any depth."""
    rows = []
    seen: dict[Path, Path] = {}
    for label, name in enumerate(class_names):
        paths = sorted(_images(folder / name, seen))
        if every_class and not paths:
            raise ValueError(f"Expected {folder / name} to hold at least one image file.")
        rows.extend((path, label) for path in paths)
    return rows


def _annotated(folder: Path, class_names: tuple[str, ...]) -> list[tuple[str, int]]:
    """Returns (path, label) of TinyImageNet's validation images, in the order of its list."""
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        raise ValueError(f"Expected {annotations} to be an existing file (TinyImageNet's layout).")
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = []
    for line in annotations.read_text().splitlines():
        if not line.strip():
            continue
        file_name, _, wnid = line.partition("\t")
        wnid = wnid.split("\t")[0]
        if wnid not in label_of:
            raise ValueError(f"Expected class {wnid} of {file_name} to be listed in wnids.txt.")
        rows.append((str(folder / "images" / file_name), label_of[wnid]))
    return rows


@dataclass(frozen=True)
class TFDS(Source):
    """A prepared TFDS image-classification dataset (array_record), read without TensorFlow.

    Row i is row i of `tfds.builder(name, ...).as_data_source(split)`.

    Attributes:
        name: the dataset's name, as in TFDS: "cifar10", "mnist:3.0.1", "imagenet2012", ...
        data_dir: folder that holds prepared datasets; None for TFDS's own default.
        train_split: name (or slice, "train[:10%]") of the training split.
        test_split: name (or slice) of the test split; None takes "test", or "validation" where
            there is no labelled "test" (ImageNet's has no labels).

    Example:
        >>> from robust_jax.data import TFDS, DataConfig
        >>> source = TFDS("cifar10", data_dir="~/tensorflow_datasets", train_split="train[:10%]")
        >>> DataConfig(source, validation_size=1000).source.name  # `open_data` reads it
        'cifar10'
    """

    name: str
    data_dir: str | None = None
    train_split: str = "train"
    test_split: str | None = None

    def load(self) -> Splits:
        """Returns the dataset's rows, decoded when read."""
        info = _builder(self).info
        image_key, label_key = info.supervised_keys[:2] if info.supervised_keys else (None, None)
        image_key, label_key = image_key or "image", label_key or "label"
        features = info.features
        if (
            type(features).__name__ != "FeaturesDict"
            or image_key not in features
            or label_key not in features
            or type(features[image_key]).__name__ != "Image"
            or type(features[label_key]).__name__ != "ClassLabel"
        ):
            raise ValueError(f"Expected TFDS dataset {self.name} to hold images with a class each.")
        image, label = features[image_key], features[label_key]
        channels = image.shape[-1] or 3
        if image.np_dtype != np.uint8 or channels not in (1, 3):
            raise ValueError(f"Expected {self.name}'s images {image} to be uint8, 1 or 3 channels.")
        test_split = self.test_split
        if test_split is None:
            labelled = "test" in info.splits and not self.name.startswith("imagenet2012")
            test_split = "test" if labelled else "validation"
        splits = []
        for split in (self.train_split, test_split):
            if split.split("[")[0] not in info.splits:
                raise ValueError(
                    f"Expected split {split} of {self.name} among {', '.join(info.splits)}."
                )
            splits.append(TFDSExamples(self, split, image_key, label_key, channels))
        names = label.names if label.num_classes and label.names else None
        class_names = names or [str(i) for i in range(label.num_classes)]
        return Splits(splits[0], splits[1], label.num_classes, tuple(class_names))


@dataclass(frozen=True, eq=False)
class TFDSExamples:
    """Rows of one split of a prepared TFDS dataset, decoded when read."""

    source: TFDS
    split: str
    image_key: str
    label_key: str
    channels: int

    @cached_property
    def _rows(self) -> Sequence[Mapping[str, object]]:
        import tensorflow_datasets as tfds

        decoders = {self.image_key: tfds.decode.SkipDecoding()}
        builder = _builder(self.source)
        try:
            rows = builder.as_data_source(split=self.split, decoders=decoders)
            len(rows)
            rows[0]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"Expected the {self.split} files in {builder.data_path} to be readable: {reason}"
            ) from error
        return rows

    def __getstate__(self) -> dict[str, object]:
        """Returns the fields without the open files: each process opens its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_rows"}

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._rows)

    def __getitem__(self, row: int, /) -> tuple[np.ndarray, int]:
        """Returns the decoded image and the label of a row."""
        name = f"row {row} of {self.source.name}'s {self.split} split"
        try:
            example = self._rows[row]
        except RuntimeError as error:
            raise ValueError(f"Expected {name} to be readable: {error}") from error
        encoded, label = example[self.image_key], example[self.label_key]
        # None is what array_record gives of a file that was cut short.
        if not isinstance(encoded, bytes) or not isinstance(label, (int, np.integer)):
            raise ValueError(f"Expected {name} to be readable: the record is empty.")
        return decode_image(encoded, self.channels, name), int(label)


def _builder(source: TFDS) -> Any:
    """Returns the TFDS builder of a dataset that is prepared as array_record files."""
    import tensorflow_datasets as tfds

    where = "" if source.data_dir is None else f", data_dir={source.data_dir!r}"
    command = (
        f"tfds.builder({source.name!r}{where}, file_format='array_record').download_and_prepare()"
    )
    prepare = (
        f"prepare it by: pip install 'robust_jax[tfds]' && "
        f'python -c "import tensorflow_datasets as tfds; {command}"'
    )
    data_dir = None if source.data_dir is None else str(Path(source.data_dir).expanduser())
    try:
        builder = tfds.builder(source.name, data_dir=data_dir, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Expected name={source.name} to be a TFDS dataset: {reason}") from error
    if not builder.info.splits:
        raise ValueError(f"Expected TFDS dataset {source.name} in {builder.data_path}; {prepare}")
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"Expected {builder.data_path} to hold array_record files, "
            f"not {builder.info.file_format}; {prepare}"
        )
    return builder
