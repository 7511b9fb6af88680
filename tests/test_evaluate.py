"""The command evaluate.py on what train.py wrote."""

import json

import jax
import jax.numpy as jnp
import pytest

import evaluate
import train
from robust_jax import checkpoints, evaluation, records, sharding
from robust_jax.data import DataConfig, Digits, open_data
from tests import small

QUIET = """
from robust_jax.methods import KAP
from tests import small
VARIANTS = ("default",)
def get_config(variant):
    return small.config(KAP(network=small.NETWORK, sigma=0.2, noise_in_prediction=False))
"""


def test_evaluate_reads_what_train_wrote(tmp_path, capsys):
    cfg = small.config(small.noisy())
    train.main(train.Arguments(cfg, tmp_path))
    trained = json.loads((tmp_path / "summary.json").read_text())
    evaluate.main(evaluate.Arguments(tmp_path, runtime=cfg.runtime))
    step = checkpoints.load(tmp_path, sharding.make_mesh(1)).step
    out = tmp_path / "evaluations" / f"default-{step}"
    again = json.loads((out / "summary.json").read_text())
    assert again["clean_accuracy"] == trained["clean_accuracy"]
    assert again["robust_accuracy"] == trained["robust_accuracy"]
    assert "worst case" in capsys.readouterr().out
    quiet = tmp_path / "quiet.py"
    quiet.write_text(QUIET)
    evaluate.main(evaluate.Arguments(tmp_path, method=str(quiet), runtime=cfg.runtime))
    found = records.read_records(tmp_path / "evaluations" / f"default-quiet-{step}")
    checkpoint = checkpoints.load(tmp_path, sharding.make_mesh(1))
    noise_off = cfg.method.make(checkpoint.task).views["noise_off"]
    images = jnp.asarray(open_data(cfg.data).test.arrays[0][:90] / 255, jnp.float32)
    expected = jnp.argmax(jax.jit(noise_off)(checkpoint.variables, images), -1).tolist()
    assert [record.headline.prediction for record in found["clean"].values()] == expected
    with pytest.raises(ValueError, match=r"it has .evaluation.num_examples: 90 != 50"):
        evaluate.main(evaluate.Arguments(tmp_path, num_examples=50, out=out, runtime=cfg.runtime))


def test_evaluate_refuses_data_of_another_shape(tmp_path):
    cfg, data = small.config(), open_data(DataConfig(Digits()))
    train.main(train.Arguments(cfg, tmp_path))
    found = checkpoints.load(tmp_path, sharding.make_mesh(1))
    task = found.task._replace(num_classes=7)
    with pytest.raises(ValueError, match="Expected the dataset's num_classes=10 to be the netw"):
        evaluation.check_data(data, task, data.test)
    with pytest.raises(ValueError, match="Expected the validation split not to be empty"):
        evaluation.check_data(data, found.task, data.validation)
