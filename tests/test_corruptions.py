"""Common corruptions: published files, the table, the mean corruption error."""

import json
import pathlib

import numpy as np
import pytest

from robust_jax.commands import corruptions
from robust_jax.data import corrupted
from robust_jax.runtime.sharding import RuntimeConfig

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 12)
RUNTIME = RuntimeConfig(num_devices=1, progress=False)
MINE = """
import jax
def net(images):  # the number of bright pixels in the first row
    count = (images[:, 0, :, 0] > 0.5).sum(-1)
    return jax.nn.one_hot(count, 10)
def other(images):
    return jax.nn.one_hot(images[:, 0, 0, 0].astype(int), 10)
"""


@pytest.fixture
def folder(tmp_path):
    """Images whose first row counts to their label; fog hides one more of them by severity."""
    clean = np.zeros((12, 10, 10, 1), np.uint8)
    for image, label in zip(clean, LABELS, strict=True):
        image[0, :label] = 200
    severe = np.concatenate([clean] * 5)
    for severity in range(5):
        for row in range(severity + 1):
            image = severe[12 * severity + row]
            image[0] = 255 - image[0]  # 10 - label
    np.save(tmp_path / "fog.npy", severe)
    np.save(tmp_path / "brightness.npy", np.concatenate([clean] * 5))
    np.save(tmp_path / "labels.npy", np.concatenate([LABELS] * 5))
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_errors_by_severity(folder, capsys):
    assert corrupted.found(folder) == ["fog", "brightness"]
    out = folder / "not there yet" / "numbers.json"
    found = corruptions.main(
        corruptions.Arguments(
            folder, model=f"{folder / 'mine.py'}:net", batch_size=12, out=out, runtime=RUNTIME
        )
    )
    # Of a label 5 its complement is five too.
    wrong = np.cumsum(LABELS[:5] != 5)
    assert found["errors"]["brightness"] == [0.0] * 5
    assert found["errors"]["fog"] == pytest.approx(wrong / 12)
    assert found["mean_error"] == pytest.approx(wrong.mean() / 24)
    assert json.loads(out.read_text()) == found
    assert "fog" in capsys.readouterr().out


def test_numbers_lie_beside_a_file(tmp_path):
    (tmp_path / "net.safetensors").touch()
    for checkpoint, out, place in (
        (tmp_path, None, tmp_path / "corruptions.json"),
        (tmp_path / "net.safetensors", None, tmp_path / "corruptions.json"),
        (None, None, pathlib.Path("corruptions.json")),
        (tmp_path, tmp_path / "x.json", tmp_path / "x.json"),
    ):
        asked = corruptions.Arguments(tmp_path, checkpoint=checkpoint, out=out)
        assert corruptions._place(asked) == place


def test_a_checkpoint_that_is_not_there_leaves_nothing(tmp_path):
    asked = corruptions.Arguments(tmp_path, checkpoint=tmp_path / "typo" / "net.safetensors")
    with pytest.raises(ValueError, match="typo"):
        corruptions.main(asked)
    assert not (tmp_path / "typo").exists()


def test_severities_are_the_files_parts(folder):
    for severity in (1, 5):
        split = corrupted.load(folder, "fog", severity, num_classes=10)
        images, labels = split.arrays
        whole = np.load(folder / "fog.npy")
        np.testing.assert_array_equal(images, whole[12 * (severity - 1) : 12 * severity])
        np.testing.assert_array_equal(labels, LABELS)
    np.save(folder / "labels.npy", LABELS)  # once, as some write it
    np.testing.assert_array_equal(
        corrupted.load(folder, "fog", 5, num_classes=10).arrays[1], LABELS
    )


def test_what_is_not_as_published_is_said(folder, tmp_path_factory):
    with pytest.raises(ValueError, match=r"to hold CORRUPTION.npy files"):
        corrupted.found(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match="severity=6"):
        corrupted.load(folder, "fog", 6, num_classes=10)
    np.save(folder / "labels.npy", LABELS[:7])
    with pytest.raises(ValueError, match="12 labels"):
        corrupted.load(folder, "fog", 1, num_classes=10)
    np.save(folder / "fog.npy", np.zeros((7, 3, 3, 1), np.uint8))
    with pytest.raises(ValueError, match=r"\[5 n h w k\], found \(7, 3, 3, 1\)"):
        corrupted.load(folder, "fog", 1, num_classes=10)
    (folder / "fog.npy").write_bytes(b"torn")
    with pytest.raises(ValueError, match="readable"):
        corrupted.load(folder, "fog", 1, num_classes=10)
    with pytest.raises(ValueError, match="one of them"):
        corruptions.main(corruptions.Arguments(folder))


def test_relative_to_a_reference():
    found = {"fog": [0.1, 0.2], "snow": [0.4, 0.5]}
    assert corruptions.mean_corruption_error(found, found) == 1.0
    assert corruptions.mean_error(found) == pytest.approx(0.3)
