"""Tiny data sets on disk, written with real encoders, in the layouts that the sources read."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteTFDS = Callable[..., Path]


def encode(pixels: np.ndarray, image_format: str = "JPEG", mode: str | None = None) -> bytes:
    """Returns the file of an image."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, image_format)
    return buffer.getvalue()


def picture(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Returns a smooth random image, which JPEG keeps almost as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)[..., :channels]


def write_tfds(
    data_dir: Path,
    name: str,
    version: str,
    splits: dict[str, list[tuple[bytes, int]]],
    num_classes: int,
    shape: tuple[int | None, int | None, int],
) -> Path:
    """Returns the folder of a TFDS dataset in array_record files, written without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / name / version
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        writer = ArrayRecordWriter(
            str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for encoded, label in rows:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(encoded)
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
    prefix = "tensorflow_datasets.core.features"
    dimensions = {"dimensions": [str(side or -1) for side in shape]}
    features = {
        "pythonClassName": f"{prefix}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {
                    "pythonClassName": f"{prefix}.image_feature.Image",
                    "image": {"dtype": "uint8", "shape": dimensions},
                },
                "label": {
                    "pythonClassName": f"{prefix}.class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": str(num_classes)},
                },
            }
        },
    }
    info = {
        "name": name,
        "version": version,
        "fileFormat": "array_record",
        "splits": [
            {
                "name": split,
                "shardLengths": [str(len(rows))],
                "numBytes": str(sum(len(encoded) for encoded, _ in rows)),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, rows in splits.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def tiny_tfds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with tiny svhn_cropped, cifar100 and imagenet2012 (JPEGs of varying size)."""
    data_dir = tmp_path_factory.mktemp("tfds")
    small = [(encode(picture(i, 32, 32), "PNG"), i % 10) for i in range(12)]
    write_tfds(
        data_dir, "svhn_cropped", "3.1.0", {"train": small[:8], "test": small[8:]}, 10, (32, 32, 3)
    )
    small = [(encode(picture(i, 32, 32), "PNG"), i % 100) for i in range(12)]
    write_tfds(
        data_dir, "cifar100", "3.0.2", {"train": small[:8], "test": small[8:]}, 100, (32, 32, 3)
    )
    sizes = [(300 + 17 * i % 90, 260 + 31 * i % 170) for i in range(10)]
    large = [(encode(picture(i, *size)), (37 * i) % 1000) for i, size in enumerate(sizes)]
    # As the real one, with an unlabelled test split.
    unlabelled = [(encoded, -1) for encoded, _ in large[:2]]
    write_tfds(
        data_dir,
        "imagenet2012",
        "5.1.0",
        {"train": large[:6], "validation": large[6:], "test": unlabelled},
        1000,
        (None, None, 3),
    )
    return data_dir


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """A folder of two classes whose images differ in size, format and colour mode."""
    files = {
        "train/cat/a.jpg": encode(picture(0, 20, 30)),
        "train/cat/b.jpeg": encode(picture(1, 24, 24), "JPEG", "CMYK"),
        "train/cat/notes.txt": b"not an image",
        "train/dog/c.png": encode(picture(2, 31, 17), "PNG", "P"),
        "train/dog/d.JPG": encode(picture(3, 40, 21, channels=1)),
        "train/dog/e.png": encode(picture(4, 18, 18), "PNG", "RGBA"),
        "val/cat/f.jpg": encode(picture(5, 19, 33)),
        "val/dog/g.png": encode(picture(6, 25, 16, channels=1), "PNG"),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path
