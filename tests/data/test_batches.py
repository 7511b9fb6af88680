"""Splits, statistics and batches: the same wherever they live and wherever they start."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robust_jax.data import (
    NPZ,
    TFDS,
    Augmentation,
    Blobs,
    DataConfig,
    Digits,
    Folder,
    batches,
    eval_batches,
    num_steps_per_epoch,
    open_data,
    select,
    train_batches,
)
from tests.compilations import count_compilations

BLOBS = Blobs(num_train=50, num_test=11, image_size=4)


def take(iterator, num):
    return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(iterator, num)]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for name in one._fields:
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.fixture(scope="module")
def sharding():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def test_validation_is_carved_from_train_alone():
    data = open_data(DataConfig(source=Digits(), validation_size=200, seed=3))
    assert (len(data.train), len(data.validation), len(data.test)) == (1242, 200, 355)
    assert data.task.num_train == 1242
    rows = np.concatenate([data.train.rows, data.validation.rows])
    np.testing.assert_array_equal(np.sort(rows), np.arange(1442))
    assert data.validation.examples is data.train.examples
    assert data.validation.examples is not data.test.examples
    again = open_data(DataConfig(source=Digits(), validation_size=200, seed=3))
    np.testing.assert_array_equal(again.validation.rows, data.validation.rows)
    other = open_data(DataConfig(source=Digits(), validation_size=200, seed=4))
    assert not np.array_equal(other.validation.rows, data.validation.rows)
    assert len(open_data(DataConfig(source=BLOBS, validation_size=0.1)).validation) == 5


def test_an_epoch_shows_every_row_once_and_drops_the_rest():
    data = open_data(DataConfig(source=BLOBS))
    assert num_steps_per_epoch(data, 12) == 4
    first, second = (
        np.concatenate([b.index for b in take(train_batches(data, 12, start_step=s), 4)])
        for s in (0, 4)
    )
    for rows in (first, second):
        assert len(set(rows.tolist())) == 48
        assert set(rows.tolist()) <= set(range(50))
    assert not np.array_equal(first, second)


def test_batch_holds_the_rows_it_names():
    data = open_data(DataConfig(source=BLOBS, validation_size=7))
    (batch,) = take(train_batches(data, 8), 1)
    rows = data.train.rows[batch.index]
    source = BLOBS.load().train
    np.testing.assert_array_equal(batch.label, source.labels[rows])
    # Bit for bit the correctly rounded quotient.
    np.testing.assert_array_equal(batch.image, source.images[rows].astype(np.float32) / 255)
    assert batch.image.dtype == np.float32
    assert batch.label.dtype == batch.index.dtype == np.int32
    assert batch.mask.all()


@pytest.mark.parametrize("memory", ["device", "stream"])
def test_resumed_batches_are_those_of_an_unbroken_run(memory):
    data = open_data(DataConfig(source=BLOBS, memory=memory))
    assert_same(
        take(train_batches(data, 12), 9)[6:], take(train_batches(data, 12, start_step=6), 3)
    )


def test_same_batches_in_memory_and_streamed():
    device = open_data(DataConfig(source=BLOBS, memory="device", validation_size=6, pad_to=7))
    stream = open_data(DataConfig(source=BLOBS, memory="stream", validation_size=6, pad_to=7))
    assert_same(take(train_batches(device, 10), 6), take(train_batches(stream, 10), 6))
    assert_same(take(eval_batches(device.test, 4), 9), take(eval_batches(stream.test, 4), 9))
    for one, other in zip(device.statistics, stream.statistics, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("memory", ["device", "stream"])
def test_same_batches_on_one_and_four_devices(memory, sharding):
    data = open_data(DataConfig(source=BLOBS, memory=memory))
    sharded = next(train_batches(data, 8, sharding=sharding))
    for leaf in sharded:
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert_same(take(train_batches(data, 8), 5), take(train_batches(data, 8, sharding=sharding), 5))
    assert_same(
        take(eval_batches(data.test, 8), 9), take(eval_batches(data.test, 8, None, sharding), 9)
    )


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    data = open_data(DataConfig(source=BLOBS, memory="stream", num_workers=2))
    threads = open_data(DataConfig(source=BLOBS, memory="stream"))
    assert_same(
        take(train_batches(data, 10, start_step=3), 4),
        take(train_batches(threads, 10, start_step=3), 4),
    )


def test_seed_and_first_epoch():
    data = open_data(DataConfig(source=BLOBS))
    other = take(train_batches(data, 10, seed=1), 1)[0].index
    assert not np.array_equal(take(train_batches(data, 10), 1)[0].index, other)
    assert_same(
        take(train_batches(data, 10, start_step=5), 2),
        take(train_batches(data, 10, first_epoch=1), 2),
    )


@pytest.mark.parametrize("memory", ["device", "stream"])
@pytest.mark.parametrize(("num_rows", "batch_size"), [(1, 4), (11, 4), (8, 4), (11, 1), (11, 64)])
def test_evaluation_shows_every_example_once_in_order(memory, num_rows, batch_size):
    source = dataclasses.replace(BLOBS, num_test=num_rows)
    data = open_data(DataConfig(source=source, memory=memory))
    found = take(eval_batches(data.test, batch_size), 99)
    assert len(found) == -(-num_rows // batch_size)
    assert all(batch.image.shape == (batch_size, 4, 4, 3) for batch in found)
    mask = np.concatenate([b.mask for b in found])
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < num_rows)
    index = np.concatenate([b.index for b in found])
    np.testing.assert_array_equal(index[mask], np.arange(num_rows))
    np.testing.assert_array_equal(index[~mask], 0)
    images = np.concatenate([b.image for b in found])
    expected = source.load().test.images.astype(np.float32) / 255
    np.testing.assert_array_equal(images[mask], expected)
    np.testing.assert_array_equal(images[~mask], expected[np.zeros((~mask).sum(), int)])


def test_selected_rows():
    data = open_data(DataConfig(source=BLOBS))
    np.testing.assert_array_equal(select(data.test, 3), [0, 1, 2])
    (batch,) = take(eval_batches(data.test, 4, [9, 2, 5]), 99)
    np.testing.assert_array_equal(batch.index, [9, 2, 5, 0])
    np.testing.assert_array_equal(batch.mask, [True, True, True, False])
    np.testing.assert_array_equal(batch.label[:3], BLOBS.load().test.labels[[9, 2, 5]])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (0, r"Expected indices=0, the first examples, in \[1, 11\]"),
        (12, r"Expected indices=12"),
        ([], "to be integer rows"),
        ([1, 11], r"Expected index=11 in \[0, 11\)"),
        ([-1], r"Expected index=-1"),
        ([4, 2, 4], "Expected index=4 to be chosen once"),
    ],
)
def test_selection_refuses(indices, message):
    data = open_data(DataConfig(source=BLOBS))
    with pytest.raises(ValueError, match=message):
        eval_batches(data.test, 4, indices)


def test_batch_sizes_are_checked_before_the_first_batch(sharding):
    data = open_data(DataConfig(source=BLOBS))
    with pytest.raises(ValueError, match="Expected batch_size=51 <= 50 training examples"):
        train_batches(data, 51)
    with pytest.raises(ValueError, match="Expected batch_size=6 divisible by the 4 devices"):
        train_batches(data, 6, sharding=sharding)
    with pytest.raises(ValueError, match="Expected batch_size=6 divisible by the 4 devices"):
        eval_batches(data.test, 6, sharding=sharding)
    with pytest.raises(ValueError, match="Expected batch_size=0 >= 1"):
        eval_batches(data.test, 0)
    with pytest.raises(ValueError, match=r"validation split not to be empty \(set validation_size"):
        eval_batches(data.validation, 4)


def test_padding_and_statistics_against_numpy():
    data = open_data(DataConfig(source=BLOBS, validation_size=10, pad_to=7))
    assert data.task.input_shape == (7, 7, 3)
    images = BLOBS.load().train.images[data.train.rows].astype(np.float64) / 255
    # 4 to 7: one row before, two after.
    images = np.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)))
    np.testing.assert_array_equal(
        take(eval_batches(data.train, 40), 1)[0].image, images.astype(np.float32)
    )
    statistics = data.statistics
    np.testing.assert_allclose(statistics.channel_mean, images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(statistics.channel_std, images.std((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(statistics.pixel_mean, images.mean(0), rtol=1e-6, atol=1e-9)
    assert statistics.pixel_mean.dtype == np.float32


def test_real_cifar10_and_mnist(tfds_dir):
    config = DataConfig(source=TFDS("cifar10", str(tfds_dir), "train[:600]", "test[:20]"))
    data = open_data(config)
    image, label = data.train.examples[17]
    np.testing.assert_array_equal(data.train.arrays[0][17], image)
    assert data.train.arrays[1][17] == label
    streamed = open_data(dataclasses.replace(config, memory="stream"))
    assert_same(take(train_batches(data, 64), 2), take(train_batches(streamed, 64), 2))
    # The mean of the first 10,000 training rows is 120.077; of the first 600 it is near.
    assert abs(data.statistics.channel_mean.mean() * 255 - 120.077) < 3
    mnist = TFDS("mnist", str(tfds_dir), "train[:30]", "test[:20]")
    (batch,) = take(eval_batches(open_data(DataConfig(source=mnist, pad_to=32)).test, 20), 99)
    assert batch.image.shape == (20, 32, 32, 1)
    assert batch.image[:, :2].max() == batch.image[:, -2:].max() == 0
    raw, _ = mnist.load().test[3]
    np.testing.assert_array_equal(batch.image[3, 2:30, 2:30], raw.astype(np.float32) / 255)


@pytest.fixture
def cropped(tiny_tfds):
    source = TFDS("imagenet2012", str(tiny_tfds))
    augmentation = Augmentation(random_resized_crop=True)
    return DataConfig(source=source, image_size=32, resize_to=36, augmentation=augmentation)


def test_random_resized_crops_are_drawn_by_epoch_and_row(cropped, sharding):
    data = open_data(cropped)
    assert data.train.memory == "stream"
    first = take(train_batches(data, 3), 4)
    assert_same(first[2:], take(train_batches(data, 3, start_step=2), 2))
    epochs = [{}, {}]
    for step, batch in enumerate(first):
        for image, row in zip(batch.image, batch.index, strict=True):
            epochs[step // 2][int(row)] = image
    assert set(epochs[0]) == set(epochs[1]) == set(range(6))
    assert all(not np.array_equal(epochs[0][row], epochs[1][row]) for row in range(6))
    # Validation and statistics see the central crop, and so the same image every time.
    assert_same(take(eval_batches(data.train, 6), 9), take(eval_batches(data.train, 6), 9))
    assert_same(take(train_batches(data, 4), 2), take(train_batches(data, 4, sharding=sharding), 2))
    seeds = [take(train_batches(data, 6, seed=seed), 1)[0] for seed in (0, 1)]
    order = [np.argsort(batch.index) for batch in seeds]
    assert not np.array_equal(seeds[0].image[order[0]], seeds[1].image[order[1]])


@pytest.mark.parametrize("crop", [True, False])
def test_phases_change_the_image_size(cropped, crop):
    if not crop:
        cropped = dataclasses.replace(cropped, augmentation=Augmentation())
    data = open_data(cropped)
    (batch,) = take(train_batches(data, 4, image_size=48), 1)
    assert batch.image.shape == (4, 48, 48, 3)
    (small,) = take(train_batches(data, 4), 1)
    np.testing.assert_array_equal(batch.index, small.index)
    if not crop:
        direct = open_data(dataclasses.replace(cropped, image_size=48, resize_to=54))
        assert_same([batch], take(train_batches(direct, 4), 1))
    padded = open_data(DataConfig(source=BLOBS, pad_to=8))
    with pytest.raises(ValueError, match="Expected image_size=6 only for data with image_size"):
        train_batches(padded, 4, image_size=6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_size": 50}, "Expected validation_size=50 < 50 training examples."),
        ({"validation_size": 1.5}, "Expected validation_size=1.5 to be an integer or below 1."),
        ({"validation_size": 0.001}, "Expected validation_size=0.001 of 50 examples to be >= 1."),
        ({"validation_size": -1}, "Expected validation_size=-1 >= 0."),
        ({"pad_to": 3}, "Expected pad_to=3 >= image size 4 x 4."),
        ({"image_size": 0}, "Expected image_size=0 >= 1."),
        ({"resize_to": 9}, "Expected image_size with resize_to=9."),
        ({"image_size": 9, "resize_to": 8}, "Expected resize_to=8 >= image_size=9."),
        (
            {"augmentation": Augmentation(random_resized_crop=True)},
            "Expected image_size with random_resized_crop=True.",
        ),
        (
            {
                "augmentation": Augmentation(random_resized_crop=True),
                "image_size": 8,
                "memory": "device",
            },
            "Expected memory=auto or stream with random_resized_crop=True.",
        ),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        open_data(DataConfig(source=BLOBS, **fields))


def test_empty_split_and_unequal_shapes(tmp_path):
    path = tmp_path / "a.npz"
    images = np.zeros((2, 4, 4, 1), np.uint8)
    labels = np.zeros(2, np.int32)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:0], y_test=labels[:0])
    with pytest.raises(ValueError, match=r"the test split of NPZ.* not to be empty"):
        open_data(DataConfig(source=NPZ(str(path))))
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(ValueError, match=r"NPZ.* to have two classes at least"):
        open_data(DataConfig(source=NPZ(str(path))))
    labels = np.arange(2)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:, 1:], y_test=labels)
    with pytest.raises(ValueError, match=r"train images \(4, 4, 1\) and test images \(3, 4, 1\)"):
        open_data(DataConfig(source=NPZ(str(path))))


def test_streamed_decoding_error_names_the_file(class_folder):
    (class_folder / "train/dog/c.png").write_bytes(b"")
    data = open_data(DataConfig(source=Folder(str(class_folder)), image_size=8, memory="stream"))
    with pytest.raises(ValueError, match=r"dog/c.png to be a decodable image"):
        take(train_batches(data, 5), 1)


def test_gather_compiles_once(sharding):
    data = open_data(DataConfig(source=dataclasses.replace(BLOBS, num_train=53)))
    take(train_batches(data, 8, sharding=sharding), 1)
    for start_step in (0, 3):
        others = train_batches(data, 8, start_step=start_step, sharding=sharding)
        assert count_compilations(lambda others=others: take(others, 5)) == 0


def test_pixels_are_correctly_rounded_quotients():
    levels = np.arange(256, dtype=np.uint8)
    out = np.asarray(jax.jit(batches._unit_range)(levels))
    np.testing.assert_array_equal(out, levels.astype(np.float32) / np.float32(255))
