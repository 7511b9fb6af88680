"""Folders and TFDS datasets of real image files."""

import dataclasses
import pickle
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from robust_jax.data import TFDS, Augmentation, DataConfig, Folder, open_data
from robust_jax.data.images import decode_image


def test_folder_decodes_every_mode_to_rgb(class_folder):
    splits = Folder(str(class_folder)).load()
    assert splits.class_names == ("cat", "dog")
    np.testing.assert_array_equal(splits.train.labels, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(splits.test.labels, [0, 1])
    for row in range(5):
        image, label = splits.train[row]
        path = splits.train.paths[row]
        expected = np.asarray(Image.open(path).convert("RGB"))
        np.testing.assert_array_equal(image, expected)
        assert label == splits.train.labels[row]
    grey, _ = Folder(str(class_folder), channels=1).load().train[3]
    assert grey.shape == (40, 21, 1)


def test_folder_of_varying_sizes_needs_an_image_size(class_folder):
    source = Folder(str(class_folder))
    with pytest.raises(ValueError, match="set image_size"):
        open_data(DataConfig(source=source))
    data = open_data(DataConfig(source=source, image_size=16))
    assert data.task == ((16, 16, 3), 2, 5)
    images, labels = data.train.arrays
    assert images.shape == (5, 16, 16, 3)
    (place,) = np.flatnonzero(data.train.rows == 3)
    expected = Image.open(data.train.examples.paths[3]).convert("RGB")
    expected = np.asarray(expected.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images[place], expected)
    # Rows of folders lie class by class, and are mixed where they are opened.
    np.testing.assert_array_equal(labels, np.array([0, 0, 1, 1, 1])[data.train.rows])
    assert sorted(data.train.rows) == list(range(5)) != data.train.rows.tolist()


def test_folder_names_the_undecodable_file(class_folder):
    (class_folder / "train/cat/b.jpeg").write_bytes(b"\xff\xd8 not a jpeg")
    data = open_data(DataConfig(source=Folder(str(class_folder)), image_size=8))
    with pytest.raises(ValueError, match=r"Expected .*cat/b.jpeg to be a decodable image"):
        _ = data.train.arrays
    whole = (class_folder / "train/dog/d.JPG").read_bytes()
    (class_folder / "train/cat/b.jpeg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cat/b.jpeg to be a decodable image: .*[Tt]runcated"):
        _ = data.train.arrays


def test_what_archives_and_notebooks_leave_is_passed_over(class_folder):
    expected = Folder(str(class_folder)).load()
    copy = (class_folder / "train/cat/a.jpg").read_bytes()
    for name in (
        "train/cat/.ipynb_checkpoints/a-checkpoint.jpg",
        "train/cat/deeper/.thumbnails/a.jpg",
        "train/cat/@eaDir/a.jpg",
        "train/dog/._c.png",
        "train/dog/__MACOSX/._c.png",
        "train/__MACOSX/cat/._a.jpg",
        "val/__MACOSX/cat/._a.jpg",
    ):
        (class_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (class_folder / name).write_bytes(copy)
    (class_folder / "train/dog/folder.png").mkdir()
    found = Folder(str(class_folder)).load()
    assert found.class_names == expected.class_names
    assert found.train.paths == expected.train.paths
    assert found.test.paths == expected.test.paths
    # A folder named like an image is a folder.
    (class_folder / "train/dog/folder.png/z.JFIF").write_bytes(copy)
    assert len(Folder(str(class_folder)).load().train) == 6


def test_links_are_followed_or_named(class_folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "g.pgm").write_bytes(b"P5 2 2 255 abcd")
    (class_folder / "train/dog/linked").symlink_to(outside)
    train = Folder(str(class_folder)).load().train
    assert train.paths[-1].endswith("dog/linked/g.pgm")
    np.testing.assert_array_equal(
        train[5][0][..., 1], np.frombuffer(b"abcd", np.uint8).reshape(2, 2)
    )
    (class_folder / "train/dog/linked").unlink()
    for name, target, message in (
        ("train/dog/up", class_folder / "train", "dog/up not to link to a folder that holds it"),
        ("train/dog/h.png", class_folder / "nowhere", "dog/h.png to be a file"),
        ("train/bird", class_folder / "nowhere", "train/bird not to be a broken link"),
    ):
        (class_folder / name).symlink_to(target)
        with pytest.raises(ValueError, match=message):
            Folder(str(class_folder)).load()
        (class_folder / name).unlink()


def test_links_between_classes_list_nothing_twice(class_folder):
    """A ring of them would list its images until the system gives up."""
    cat, dog = class_folder / "train/cat", class_folder / "train/dog"
    (cat / "x").symlink_to("../dog")
    again = r"cat/x not to list the images of .*/train/dog again|dog not to .*/cat/x again"
    with pytest.raises(ValueError, match=again):
        Folder(str(class_folder)).load()
    (dog / "y").symlink_to("../cat")
    with pytest.raises(ValueError, match=r"not to list the images of .* again"):
        Folder(str(class_folder)).load()
    (cat / "x").unlink()
    (dog / "y").unlink()
    (dog / "inner").mkdir()
    (dog / "z").symlink_to("inner")
    with pytest.raises(ValueError, match=r"not to list the images of .* again"):
        Folder(str(class_folder)).load()


def png16(channels):
    """A 16-bit PNG of a 12-bit camera; Pillow writes none in colour."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = np.arange(16 * channels, dtype=">u2").reshape(4, 4, channels) * 60
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 4, 4, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff16():
    """A 16-bit RGB TIFF of one pixel."""
    bits = 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, bits + 6), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHII", tag, kind, count, value) for tag, kind, count, value in tags
    )
    values = struct.pack("<3H", 16, 16, 16) + struct.pack("<3H", 4095, 60, 0)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + values


DEEP = {
    "grey.png": png16(1),
    "grey and alpha.png": png16(2),
    "colour.png": png16(3),
    "colour and alpha.png": png16(4),
    "grey.pgm": b"P5 2 1 4095 " + struct.pack(">2H", 4095, 60),
    "colour.ppm": b"P6 1 1 65535 " + struct.pack(">3H", 4095, 60, 0),
    "plain.ppm": b"P3 1 1 4095 4095 60 0\n",
    "colour.tif": tiff16(),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_images_are_refused_not_cut(name, channels):
    with pytest.raises(ValueError, match=f"Expected {name} of .* to have 8 bits a channel"):
        decode_image(DEEP[name], channels, name)


def test_folder_that_is_missing_or_odd(tmp_path, class_folder):
    with pytest.raises(ValueError, match=r"nowhere to be a folder that holds train/<class>"):
        Folder(str(tmp_path / "nowhere")).load()
    (class_folder / "val" / "bird").mkdir()
    with pytest.raises(ValueError, match=r"val/bird to be a class of"):
        Folder(str(class_folder)).load()
    (class_folder / "val" / "bird").rmdir()
    (class_folder / "train" / "ant").mkdir()
    with pytest.raises(ValueError, match=r"train/ant to hold at least one image"):
        Folder(str(class_folder)).load()
    (class_folder / "train" / "ant").rmdir()
    (class_folder / "val/cat/f.jpg").unlink()
    (class_folder / "val/dog/g.png").unlink()
    with pytest.raises(ValueError, match=r"the test split of Folder.* not to be empty"):
        open_data(DataConfig(source=Folder(str(class_folder)), image_size=8))


def test_tiny_imagenet_layout(tmp_path):
    rng = np.random.default_rng(0)

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)

    # The real list is not sorted either.
    (tmp_path / "wnids.txt").write_text("n02\nn01\nn03\n")
    for wnid in ("n01", "n02", "n03"):
        for i in range(2):
            write(tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    annotated = ["n03", "n01", "n02", "n01"]
    for i in range(4):
        write(tmp_path / "val" / "images" / f"val_{i}.JPEG")
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\t{wnid}\t0\t0\t1\t1\n" for i, wnid in enumerate(annotated))
    )
    splits = Folder(str(tmp_path)).load()
    assert splits.class_names == ("n01", "n02", "n03")
    np.testing.assert_array_equal(splits.train.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(splits.test.labels, [2, 0, 1, 0])
    assert splits.test.paths[0].endswith("val_0.JPEG")
    config = DataConfig(
        source=Folder(str(tmp_path)),
        image_size=128,
        augmentation=Augmentation(random_resized_crop=True),
    )
    data = open_data(config)
    assert data.task == ((128, 128, 3), 3, 6)
    assert (data.train.memory, data.test.memory) == ("stream", "device")
    annotation = tmp_path / "val" / "val_annotations.txt"
    annotation.write_text("val_0.JPEG n01\n")
    with pytest.raises(ValueError, match=r"class  of val_0.JPEG n01 to be listed in wnids.txt"):
        Folder(str(tmp_path)).load()
    annotation.write_text("val_0.JPEG\tn99\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"class n99 of val_0.JPEG to be listed in wnids.txt"):
        Folder(str(tmp_path)).load()


def test_tfds_rows_are_those_of_the_data_source(tfds_dir):
    import tensorflow_datasets as tfds

    for name, shape in (("cifar10", (32, 32, 3)), ("mnist", (28, 28, 1))):
        splits = TFDS(name, str(tfds_dir)).load()
        assert (len(splits.train), len(splits.test)) == (
            (50_000 if shape[2] == 3 else 60_000),
            10_000,
        )
        reference = tfds.builder(name, data_dir=tfds_dir, file_format="array_record")
        reference = reference.as_data_source("test")
        for row in (0, 1, 2, 4999, 9999):
            image, label = splits.test[row]
            assert image.shape == shape
            np.testing.assert_array_equal(image, reference[row]["image"])
            assert label == reference[row]["label"]
    assert splits.class_names[3] == "3"
    assert TFDS("cifar10", str(tfds_dir)).load().class_names[0] == "airplane"


@pytest.mark.parametrize(
    ("name", "num_classes", "lengths"),
    [("svhn_cropped", 10, (8, 4)), ("cifar100", 100, (8, 4)), ("imagenet2012", 1000, (6, 4))],
)
def test_tfds_by_name(tiny_tfds, name, num_classes, lengths):
    # ImageNet's labelled held-out split is `validation`: rows 6 to 9 of the fixture.
    splits = TFDS(name, str(tiny_tfds)).load()
    assert splits.num_classes == len(splits.class_names) == num_classes
    assert (len(splits.train), len(splits.test)) == lengths
    image, label = splits.test[1]
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert label == {"svhn_cropped": 9, "cifar100": 9, "imagenet2012": 37 * 7}[name]
    # Worker processes read from a pickled copy.
    copy = pickle.loads(pickle.dumps(splits.test))
    np.testing.assert_array_equal(copy[1][0], image)


def test_imagenet_is_resized_and_cropped_to_the_centre(tiny_tfds):
    source = TFDS("imagenet2012", str(tiny_tfds))
    data = open_data(DataConfig(source=source, image_size=224, resize_to=256))
    assert data.task.input_shape == (224, 224, 3)
    raw, _ = data.test.examples[2]
    image, _ = data.test[2]
    height, width = raw.shape[:2]
    assert height != width
    scale = 256 / min(height, width)
    size = (max(256, round(width * scale)), max(256, round(height * scale)))
    resized = np.asarray(Image.fromarray(raw).resize(size, Image.Resampling.BILINEAR))
    top, left = (resized.shape[0] - 224) / 2, (resized.shape[1] - 224) / 2
    expected = resized[round(top) : round(top) + 224, round(left) : round(left) + 224]
    np.testing.assert_array_equal(image, expected)


def test_unlabelled_split_is_refused(tiny_tfds):
    source = TFDS("imagenet2012", str(tiny_tfds), test_split="test")
    data = open_data(DataConfig(source=source, image_size=32))
    with pytest.raises(ValueError, match=r"Expected label=-1 of image 0 of test in \[0, 1000\)"):
        _ = data.test.arrays


def test_missing_tfds_dataset_says_how_to_prepare_it(tmp_path, tiny_tfds):
    with pytest.raises(ValueError) as error:
        TFDS("cifar10", str(tmp_path)).load()
    message = str(error.value)
    assert "\n" not in message
    assert "pip install 'robust_jax[tfds]'" in message
    assert f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record')" in message
    with pytest.raises(ValueError, match="Expected name=cifar11 to be a TFDS dataset"):
        TFDS("cifar11", str(tmp_path)).load()
    source = dataclasses.replace(TFDS("cifar100", str(tiny_tfds)), test_split="validation")
    with pytest.raises(ValueError, match="split validation of cifar100 among train, test"):
        source.load()


def test_damaged_tfds_files_are_named(tiny_tfds, tmp_path):
    shutil.copytree(tiny_tfds / "cifar100", tmp_path / "cifar100")
    (damaged,) = (tmp_path / "cifar100" / "3.0.2").glob("*-test.*")
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"Expected row 0 of cifar100's test split to be readable"):
        open_data(DataConfig(source=TFDS("cifar100", str(tmp_path))))
    damaged.unlink()
    with pytest.raises(ValueError, match=r"Expected the test files in .* No such file"):
        open_data(DataConfig(source=TFDS("cifar100", str(tmp_path))))


@pytest.mark.slow
def test_reading_imports_no_tensorflow(tiny_tfds):
    code = (
        "import sys; from robust_jax.data import TFDS; "
        f"TFDS('cifar100', {str(tiny_tfds)!r}).load().train[0]; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
