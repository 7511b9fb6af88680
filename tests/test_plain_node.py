"""A node with JAX, Flax and their company alone: what reads datasets and command lines is late."""

import json
import subprocess
import sys

import pytest

MISSING = ("grain", "tensorflow_datasets", "array_record", "tyro", "tensorboardX")

SCRIPT = """
import dataclasses, importlib, pathlib, pkgutil, sys
for name in {missing}:
    sys.modules[name] = None  # importing it raises ImportError
sys.path.insert(0, {repository!r})
import numpy as np
import robust_jax
from robust_jax.commands import evaluate, train
for module in pkgutil.walk_packages(robust_jax.__path__, "robust_jax."):
    importlib.import_module(module.name)
for file in pathlib.Path({repository!r}, "configs").rglob("*.py"):
    if file.parent.name != "recipes" and file.stem != "__init__":
        robust_jax.experiment.config.load_module(str(file))
from robust_jax.certify import Margins, Smoothing
from robust_jax.data import NPZ
from robust_jax.evaluation.protocol import Selection
from tests import small

x = np.random.default_rng(0).integers(0, 256, (260, 8, 8, 1), dtype=np.uint8)
y = (x.mean((1, 2, 3)) > 127).astype(np.int64)
out = pathlib.Path({out!r})
np.savez(out / "arrays.npz", x_train=x[:220], y_train=y[:220], x_test=x[220:], y_test=y[220:])
found = small.config()
certificates = {{"crown": Margins(0.01), "smoothing": Smoothing(0.25, num_samples=200)}}
found = dataclasses.replace(
    found,
    data=dataclasses.replace(found.data, source=NPZ(str(out / "arrays.npz")), validation_size=12),
    evaluation=dataclasses.replace(
        found.evaluation, selection=Selection(num_examples=8), certificates=certificates,
        num_certified=2,
    ),
)
train.main(train.Arguments(found, out / "run"))
evaluate.main(evaluate.Arguments(out / "run", runtime=found.runtime))
loaded = [name for name in {missing} if sys.modules.get(name) is not None]
assert not loaded, loaded
"""


@pytest.mark.slow
def test_everything_but_the_command_line_runs_without_them(tmp_path, repository):
    script = SCRIPT.format(missing=MISSING, repository=str(repository), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "tensorboardX is not installed: metrics.jsonl is written" in done.stdout
    run = tmp_path / "run"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 4  # two epochs of 208 // 104 batches
    for directory in (run, *(run / "evaluations").iterdir()):
        summary = json.loads((directory / "summary.json").read_text())
        assert summary["num_examples"] == 8
        assert set(summary["certificates"]) == {"crown", "smoothing"}
