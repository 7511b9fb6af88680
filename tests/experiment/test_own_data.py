"""A run goes on with the images that it was trained on, wherever they lie."""

import dataclasses

import numpy as np
import pytest

from robust_jax import experiment
from robust_jax.commands import train
from robust_jax.data import NPZ, Blobs, DataConfig, open_data
from robust_jax.evaluation import Evaluation
from robust_jax.experiment.config import Config
from robust_jax.methods import Standard
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.training import Phase, TrainingConfig


@pytest.fixture
def stored(tmp_path):
    """Returns where images lie, by the seed that they are made of."""

    def write(name, *, seed=0, test_seed=0):
        splits = {"train": (seed, 32), "test": (test_seed, 8)}
        arrays = {}
        for split, (one, number) in splits.items():
            blobs = Blobs(num_train=number, num_test=1, image_size=4, seed=one).load().train
            images, labels = zip(*(blobs[row] for row in range(number)), strict=True)
            arrays |= {f"x_{split}": np.stack(images), f"y_{split}": np.array(labels)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        return str(tmp_path / f"{name}.npz")

    return write


@pytest.mark.slow
def test_what_lies_elsewhere_is_the_same_or_refused(stored, tmp_path):
    mesh, workdir = sharding.make_mesh(1), tmp_path / "run"
    cfg = Config(
        "blobs", DataConfig(NPZ(stored("first"))),
        Standard(CNNConfig(widths=(4,), strides=(2,))),
        training=TrainingConfig((Phase(epochs=1.0, batch_size=16),)),
        evaluation=Evaluation(batch_size=8, sanity=False, measures={}),
        runtime=sharding.RuntimeConfig(num_devices=1, progress=False),
    )  # fmt: skip
    parts = train.make_parts(cfg, mesh)
    train.main(train.Arguments(cfg, workdir))

    def elsewhere(path):
        return dataclasses.replace(cfg, data=DataConfig(NPZ(path)))

    def is_done(path):
        moved = elsewhere(path)
        return experiment.is_done(moved, workdir, parts.plan, open_data(moved.data))

    assert is_done(stored("moved"))
    assert not is_done(stored("tested on others", test_seed=1))
    others = stored("trained on others", seed=1)
    with pytest.raises(ValueError, match="hold a run on these training images"):
        is_done(others)
    with pytest.raises(ValueError, match="hold a run on these training images"):
        train.main(train.Arguments(elsewhere(others), workdir))
