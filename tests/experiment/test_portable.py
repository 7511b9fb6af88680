"""A checkpoint as one file is what it was as a directory."""

import json

import chex
import jax
import pytest
import safetensors
import safetensors.numpy

from robust_jax import formats
from robust_jax.experiment import checkpoints, portable
from robust_jax.runtime import sharding
from robust_jax.types import Task
from tests.small import config, noisy

TASK = Task((8, 8, 1), 10, 1242)
CONFIG = config(noisy())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    method = CONFIG.method.make(TASK)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    found = checkpoints.Checkpoint(CONFIG, TASK, ("a", "b"), 7, {"accuracy": 0.5}, variables)
    place = tmp_path_factory.mktemp("kept") / "small.safetensors"
    checkpoints.save_file(place, found)
    return place, found


def test_it_is_read_on_other_devices(file):
    place, saved = file
    for devices in (1, 4):
        found = checkpoints.load(place, sharding.make_mesh(devices))
        assert found[:5] == saved[:5]
        chex.assert_trees_all_equal(found.variables, saved.variables)
    assert checkpoints.config_of(place) == CONFIG
    assert checkpoints.load(place, sharding.make_mesh(1), step=7).step == 7
    with pytest.raises(ValueError, match=r"step=8 to be one of \[7\]"):
        checkpoints.load(place, sharding.make_mesh(1), step=8)


def test_the_same_checkpoint_is_the_same_bytes(file, tmp_path):
    place, saved = file
    again = tmp_path / "again.safetensors"
    checkpoints.save_file(again, saved)
    assert again.read_bytes() == place.read_bytes()
    with pytest.raises(ValueError, match=r"to end in \.safetensors"):
        checkpoints.save_file(tmp_path / "again.npz", saved)


def change(place, to, *, meta=None, arrays=None):
    """Writes the file with another part."""
    with safetensors.safe_open(place, "np") as opened:
        said = json.loads(opened.metadata()[portable.KEY])
    content = safetensors.numpy.load_file(place)
    said = {portable.KEY: json.dumps(said | (meta or {}))}
    safetensors.numpy.save_file(content | (arrays or {}), to, metadata=said)


def test_what_is_damaged_is_said_in_a_line(file, tmp_path):
    place, _ = file
    mesh, broken = sharding.make_mesh(1), tmp_path / "broken.safetensors"
    content = place.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        broken.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"broken\.safetensors' to be a whole checkpoint"):
            checkpoints.load(broken, mesh)
    safetensors.numpy.save_file(safetensors.numpy.load_file(place), broken)
    with pytest.raises(ValueError, match="that robust_jax wrote"):
        checkpoints.load(broken, mesh)
    change(place, broken, meta={"format": formats.FORMAT + 1})
    with pytest.raises(ValueError, match=f"{formats.FORMAT + 1}"):
        checkpoints.load(broken, mesh)
    name, array = next(iter(safetensors.numpy.load_file(place).items()))
    change(place, broken, arrays={name: array + 1})
    with pytest.raises(ValueError, match="the arrays that were saved"):
        checkpoints.load(broken, mesh)
    with pytest.raises(ValueError, match=r"missing\.safetensors"):
        checkpoints.load(tmp_path / "missing.safetensors", mesh)
