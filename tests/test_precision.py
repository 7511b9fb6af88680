"""At which precision products are computed: in programs, claims and summaries."""

import json
from contextlib import nullcontext as nothing

import jax
import jax.numpy as jnp
import optax
import pytest

from robust_jax import evaluation, formats, training
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.data import Augmentation, DataConfig, Digits, open_data
from robust_jax.evaluation import claims, environment
from robust_jax.evaluation.protocol import AttackRun, Evaluation
from robust_jax.methods import Standard
from robust_jax.models import CNNConfig
from robust_jax.runtime import sharding
from robust_jax.training import AdversarialTraining, TrainingConfig
from robust_jax.types import Batch, Task
from tests.jaxprs import products

PGD_2 = PGD(ThreatModel("linf", 0.1), num_steps=2)
TASK = Task((8, 8, 1), 10, 100)
METHOD = Standard(network=CNNConfig(widths=(4,), strides=(2,))).make(TASK)
BATCH = Batch(jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32), jnp.ones(4, bool), jnp.arange(4))
PRECISIONS = {
    "default": jax.lax.Precision.DEFAULT,
    "high": jax.lax.Precision.HIGH,
    "highest": jax.lax.Precision.HIGHEST,
}


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(key=jax.random.key(0))


@pytest.mark.parametrize("precision", [None, "high"])
def test_steps_of_an_evaluation(precision, variables):
    """Attacks, their gradients, and judges; by default in float32."""
    fields = {} if precision is None else {"precision": precision}
    config = Evaluation(attacks={"pgd": AttackRun(PGD_2)}, batch_size=4, **fields)
    evaluator = evaluation.make_evaluator(METHOD, config, sharding.make_mesh(1))
    for name, least in (("clean", 2), ("pgd", 6)):
        step = evaluator.steps[name]
        attack = None if name == "clean" else PGD_2
        traced = step.trace(attack, variables, (), None, BATCH, BATCH.label, jax.random.key(0))
        found = products(traced.jaxpr)
        assert len(found) >= least
        assert set(found) == {(PRECISIONS[precision or "highest"],) * 2}


@pytest.mark.parametrize("precision", [None, "highest"])
def test_steps_of_a_training(precision, variables):
    """Examples, loss and gradients; by default the device's quickest, whatever JAX is set to."""
    fields = {} if precision is None else {"precision": precision}
    config = TrainingConfig(adversarial=AdversarialTraining(PGD_2), **fields)
    mesh = sharding.make_mesh(1)
    step = training.make_train_step(METHOD, optax.sgd(0.1), config, Augmentation(), mesh)
    state = training.init_state(variables, optax.sgd(0.1), config, mesh)
    with jax.default_matmul_precision("high"):
        found = products(step.trace(state, BATCH, jax.random.key(0)).jaxpr)
    assert len(found) > 6
    assert set(found) == {(PRECISIONS[precision or "default"],) * 2}


def test_it_is_part_of_the_claim_where_it_changes_results(tmp_path, monkeypatch):
    model = {"name": "a", "step": 1, "weights": "0", "method": {}, "sources": {}, "data": "abc"}
    claim = {**model, "evaluation": {"type": "Evaluation", "precision": "highest"}}
    other = {**model, "evaluation": {"type": "Evaluation", "precision": "default"}}
    claims.claim(tmp_path, claim)
    (tmp_path / "records" / "clean.jsonl").write_text("{}\n")
    claims.claim(tmp_path, other)  # on a CPU the same
    for device in ("cpu", "NVIDIA H100"):
        with pytest.raises(ValueError, match="precision") if "H100" in device else nothing():
            formats.write_lines(tmp_path / "environments.jsonl", [{"device": device}])
            claims.claim(tmp_path, other)
    formats.write_lines(tmp_path / "environments.jsonl", [])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"it has .evaluation.precision: 'highest' != 'default'"):
        claims.claim(tmp_path, other)


def test_another_environment_is_said_on_resumption(tmp_path, capsys):
    split = open_data(DataConfig(Digits())).test
    mesh = sharding.make_mesh(1)
    found = environment.describe("highest", mesh, split)
    assert found["device"] == jax.devices()[0].device_kind
    assert found["versions"]["jax"] == jax.__version__
    assert environment.remember(tmp_path, found) == [found]
    assert environment.remember(tmp_path, found) == [found]
    assert capsys.readouterr().out == ""
    elsewhere = {**found, "device": "H100"}
    assert environment.remember(tmp_path, elsewhere) == [found, elsewhere]
    said = capsys.readouterr().out
    assert "another environment" in said
    assert f".device: {found['device']!r} != 'H100'" in said
    lines = formats.read_lines("environment", tmp_path / "environments.jsonl")
    assert lines == [found, elsewhere]


def test_claims_of_format_2_say_how_they_were_computed(tmp_path):
    """What was certified then is not mixed with what is certified under the same name today."""
    margins = {"type": "Margins", "eps": 0.1}
    smoothing = {"type": "Smoothing", "sigma": 0.5}
    for kind in ("Standard", "RandomLayerSampling"):
        claim = {
            "name": "a", "step": 1, "weights": "0", "method": {"type": kind}, "sources": {},
            "evaluation": {"certificates": {"crown": margins, "votes": smoothing}},
        }  # fmt: skip
        (tmp_path / "evaluation.json").write_text(json.dumps({"format": 2, **claim}))
        found = formats.read("claim", tmp_path / "evaluation.json")["evaluation"]
        assert found["precision"] == "default"
        assert found["certificates"]["crown"] == {**margins, "of": "mean_logit", "tolerance": 0.0}
        same = found["certificates"]["votes"] == smoothing
        assert same == (kind == "Standard")
