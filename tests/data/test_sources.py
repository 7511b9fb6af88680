"""The array sources and the checks of arrays."""

import numpy as np
import pytest

from robust_jax.data import (
    NPZ,
    Blobs,
    DataConfig,
    Digits,
    Examples,
    check_images,
    check_labels,
    open_data,
)


def test_digits_are_the_embedded_ones_split_by_class():
    from sklearn.datasets import load_digits

    splits = Digits().load()
    train, test = splits.train, splits.test
    assert (len(train), len(test), splits.num_classes) == (1442, 355, 10)
    assert isinstance(train, Examples)
    # A fifth of every class.
    counts = np.bincount(test.labels)
    total = np.bincount(load_digits()["target"])
    np.testing.assert_array_equal(counts, total // 5)
    # The first row of the data set is the first zero; the fifth zero is a test row.
    zeros = load_digits()["images"][load_digits()["target"] == 0]
    np.testing.assert_allclose(train.images[0, :, :, 0] / 255, zeros[0] / 16, atol=0.5 / 255)
    first_test_zero = test.images[test.labels == 0][0, :, :, 0]
    np.testing.assert_allclose(first_test_zero / 255, zeros[4] / 16, atol=0.5 / 255)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    image, label = train[3]
    np.testing.assert_array_equal(image, train.images[3])
    assert label == train.labels[3]


def test_blobs_are_reproducible_and_separable():
    first, second = Blobs(seed=1).load(), Blobs(seed=1).load()
    np.testing.assert_array_equal(first.train.images, second.train.images)
    means = np.stack([first.train.images[first.train.labels == c].mean(0) for c in range(4)])
    distances = ((first.test.images[:, None] - means[None]) ** 2).sum((2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(1), first.test.labels)
    assert not (Blobs(seed=2).load().train.images == first.train.images).all()


@pytest.mark.parametrize("kind", ["uint8", "float32", "grey without channel"])
def test_npz_keeps_every_level(tmp_path, kind):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = {
        "uint8": levels,
        "float32": (levels / 255).astype(np.float32),
        "grey without channel": levels[..., 0],
    }[kind]
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[3], x_test=images, y_test=[1])
    splits = NPZ(str(tmp_path / "a.npz")).load()
    np.testing.assert_array_equal(splits.train.images, levels)
    assert splits.num_classes == 4
    assert open_data(DataConfig(source=NPZ(str(tmp_path / "a.npz")))).task == ((16, 16, 1), 4, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.full((2, 4, 4, 1), 1.5)}, r"Expected x_train with values in \[1.5, 1.5\]"),
        ({"x_train": np.full((2, 4, 4, 1), 0.3001)}, "Expected x_train to hold multiples of 1/255"),
        ({"x_train": np.zeros((2, 4, 4, 1), np.int64)}, "Expected x_train of dtype int64"),
        ({"x_train": np.zeros((2, 16))}, r"Expected x_train of shape \(2, 16\)"),
        ({"x_train": np.zeros((2, 4, 4, 2))}, r"to have 1 or 3 channels"),
        ({"x_train": np.zeros((3, 4, 4, 1))}, "x_train and y_train of equal length, got 3 and 2"),
        ({"y_train": np.array([0, -1])}, r"Expected y_train\[1\]=-1 in \[0, 1\)"),
        ({"y_test": np.array([0, 2])}, r"Expected y_test\[1\]=2 in \[0, 2\)"),
        ({"y_test": np.array([0.0, 1.0])}, "Expected y_test of shape .* to be integers"),
        ({"y_train": np.array([0.0, np.nan])}, "Expected y_train of shape .* to be integers"),
        ({"y_train": np.array(["cat", "dog"])}, "Expected y_train of shape .* to be integers"),
        ({"y_train": np.eye(2, dtype=np.int32)}, r"Expected y_train of shape \(2, 2\)"),
        ({"y_test": np.array([1])}, r"got 2 and 1, in /.*a\.npz\.$"),
    ],
)
def test_npz_names_the_bad_array(tmp_path, arrays, message):
    good = {
        "x_train": np.zeros((2, 4, 4, 1)),
        "y_train": np.array([0, 1]),
        "x_test": np.zeros((2, 4, 4, 1)),
        "y_test": np.array([0, 1]),
    }
    np.savez(tmp_path / "a.npz", **(good | arrays))
    with pytest.raises(ValueError, match=message):
        NPZ(str(tmp_path / "a.npz")).load()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">i2", "u4", "i8", "u8"])
def test_npz_takes_every_integer_label(tmp_path, dtype):
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.array([[2], [0]], dtype)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels[:, 0])
    splits = NPZ(str(tmp_path / "a.npz")).load()
    assert splits.num_classes == 3
    for examples in (splits.train, splits.test):
        assert examples.labels.dtype == np.int32
        np.testing.assert_array_equal(examples.labels, [2, 0])


def test_npz_that_is_missing_or_foreign(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.npz to be an existing"):
        NPZ(str(tmp_path / "nowhere.npz")).load()
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="to be a readable"):
        NPZ(str(tmp_path / "text.npz")).load()
    np.savez(tmp_path / "half.npz", x_train=np.zeros((1, 2, 2, 1)), y_train=[0])
    with pytest.raises(ValueError, match=r"to hold the arrays x_train, .* not x_train, y_train\.$"):
        NPZ(str(tmp_path / "half.npz")).load()
    whole = (tmp_path / "half.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.npz to be a readable .npz file: "):
        NPZ(str(tmp_path / "cut.npz")).load()
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"one.npz to be a readable .npz file: it is one array"):
        NPZ(str(tmp_path / "one.npz")).load()


def test_check_images():
    check_images(np.zeros((0, 4, 4, 3), np.float32))
    check_images(np.full((1, 4, 4, 3), 255, np.uint8))
    with pytest.raises(
        ValueError, match=r"Expected images with values in \[nan, nan\] in \[0, 1\]"
    ):
        check_images(np.full((1, 4, 4, 3), np.nan))
    with pytest.raises(ValueError, match=r"values in \[-0.25, 0\] in"):
        check_images(np.array([-0.25, 0.0]).reshape(1, 1, 2, 1))
    with pytest.raises(ValueError, match="of dtype bool"):
        check_images(np.zeros((1, 4, 4, 3), bool))
    for channels in (1, 3):  # PyTorch's order would be read as height, width and channels
        with pytest.raises(ValueError, match=r"\[b h w k\], not \[b k h w\]"):
            check_images(np.zeros((2, channels, 8, 8), np.uint8))
    check_images(np.zeros((2, 3, 8, 2)))  # of images three pixels high
    check_images(np.zeros((8, 1, 1, 8)))  # features


def test_check_labels():
    check_labels(np.array([0, 9]), 10)
    with pytest.raises(ValueError, match=r"Expected labels\[1\]=10 in \[0, 10\)"):
        check_labels(np.array([0, 10]), 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_test": 0}, "Expected num_test=0 >= 1."),
        ({"channels": 2}, "Expected channels=2 to be 1 or 3."),
        ({"noise": -1.0}, "Expected noise=-1.0 >= 0."),
    ],
)
def test_blobs_refuse(fields, message):
    with pytest.raises(ValueError, match=message):
        Blobs(**fields)
