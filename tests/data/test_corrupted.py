"""TFDS's corrupted CIFAR-10, whose configurations have a test split and no other."""

import numpy as np
import pytest

from robust_jax.data import corrupted
from tests.data.conftest import encode, picture, write_tfds


def test_prepared_sets_are_found_and_read(tmp_path):
    pytest.importorskip("array_record", reason="needs the extra robust_jax[tfds]")
    images = [picture(number, 32, 32) for number in range(6)]
    written = {}
    for config, order in (("elastic_1", 1), ("elastic_5", -1), ("fog_1", 2)):
        rows = [(encode(images[order * n % 6], "PNG"), order * n % 6) for n in range(6)]
        folder = write_tfds(
            tmp_path / "in", "cifar10_corrupted", "1.0.0", {"test": rows}, 10, (32, 32, 3)
        )
        (tmp_path / "cifar10_corrupted" / config).mkdir(parents=True)
        written[config] = folder.rename(tmp_path / "cifar10_corrupted" / config / "1.0.0")
    assert corrupted.found(tmp_path) == ["fog", "elastic_transform"]
    for corruption, severity, order in (
        ("elastic_transform", 1, 1), ("elastic_transform", 5, -1), ("fog", 1, 2),
    ):  # fmt: skip
        found, labels = corrupted.load(tmp_path, corruption, severity, num_classes=10).arrays
        expected = [order * n % 6 for n in range(6)]
        assert labels.tolist() == expected
        np.testing.assert_array_equal(found, np.stack([images[n] for n in expected]))
