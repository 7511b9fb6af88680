"""The harness: every example once, judged by the deployed rule, whatever devices and stops."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import evaluate
import train
from robust_jax import checkpoints, evaluation, records, rng, sharding
from robust_jax.attacks import APGD, FGSM, PGD, AutoAttack, ThreatModel, bind
from robust_jax.config import AttackRun, Evaluation
from robust_jax.data import DataConfig, Digits, open_data
from tests import small

QUIET = """
from robust_jax.methods import KAP
from tests import small
VARIANTS = ("default",)
def get_config(variant):
    return small.config(KAP(network=small.NETWORK, sigma=0.2, noise_in_prediction=False))
"""


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module", params=["standard", "kap"])
def model(request, data):
    method_config = small.noisy() if request.param == "kap" else small.config().method
    method = method_config.make(data.task)
    return method, jax.jit(lambda key: method.init(key=key))(jax.random.key(0))


def records_of(model, data, *, num_devices=1, directory=None, **fields):
    method, variables = model
    mesh = sharding.make_mesh(num_devices)
    wanted = dataclasses.replace(small.config().evaluation, **fields)
    evaluator = evaluation.make_evaluator(method, wanted, mesh)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    return evaluation.evaluate(evaluator, method, variables, data.test, directory=directory)


def decisions(records):
    return {
        name: [(r.index, r.label, r.prediction, r.top5) for r in found.values()]
        for name, found in records.items()
    }


def test_records_do_not_depend_on_devices_or_batch_size(model, data):
    one = records_of(model, data)
    assert list(one["clean"]) == list(range(90))
    assert decisions(records_of(model, data, num_devices=4)) == decisions(one)
    if not model[0].stochastic:
        assert decisions(records_of(model, data, batch_size=64)) == decisions(one)


def test_the_harness_keeps_the_ball_and_measures(model, data):
    found = records_of(model, data)
    attacked = [r for r in found["pgd"].values() if r.linf > 0]
    assert attacked
    assert max(r.linf for r in attacked) <= 0.1 + 1e-6
    assert max(r.l2 for r in attacked) <= 0.1 * 8 + 1e-5
    assert all(r.linf == r.l2 == 0 for r in found["clean"].values())


def test_misclassified_examples_are_left_alone_or_attacked(model, data):
    skipped = records_of(model, data)
    wrong = [row for row, record in skipped["clean"].items() if not record.correct]
    assert wrong
    assert all(skipped["pgd"][row] == skipped["clean"][row] for row in wrong)
    attacked = records_of(model, data, skip_misclassified=False)
    assert all(attacked["pgd"][row].linf > 0 for row in wrong)
    summary = records.summarize(attacked, 0.0)
    right = {row for row, record in attacked["clean"].items() if record.correct}
    both = sum(attacked["pgd"][row].correct for row in right)
    assert summary["robust_accuracy"]["pgd"] == both / 90


def test_predicted_labels_are_what_the_attack_leaves(data):
    method = small.config().method.make(data.task)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    fields = {"attack_labels": "predicted", "skip_misclassified": False}
    found = records_of((method, variables), data, **fields)
    labels = jnp.asarray([record.prediction for record in found["clean"].values()], jnp.int32)
    images = jnp.asarray(data.test.arrays[0][:90] / 255, jnp.float32)
    view = bind(method.views["deployed"], variables)
    attacked = FGSM(small.THREAT)(view, images, labels, key=jax.random.key(0))
    expected = jnp.argmax(view(attacked, key=jax.random.key(0)), -1).tolist()
    assert [record.prediction for record in found["fgsm"].values()] == expected
    assert any(record.prediction != record.label for record in found["clean"].values())


@pytest.mark.parametrize("cut", ["in a line", "in a batch", "between batches"])
def test_stopped_evaluation_goes_on(model, data, tmp_path, cut):
    expected = records_of(model, data, directory=tmp_path)
    file = tmp_path / "records" / "clean.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    keep = {"in a line": 47, "in a batch": 47, "between batches": 40}[cut]
    file.write_text("".join(lines[:keep]) + (lines[keep][:9] if cut == "in a line" else ""))
    (tmp_path / "records" / "pgd.jsonl").unlink()
    assert decisions(records_of(model, data, directory=tmp_path)) == decisions(expected)
    assert len(file.read_text().splitlines()) == 90
    read = records.read_records(tmp_path)
    assert read["clean"] == expected["clean"]
    assert records.wall_seconds(tmp_path) > 0


def test_foreign_records_are_refused(model, data, tmp_path):
    records_of(model, data, directory=tmp_path)
    file = tmp_path / "records" / "clean.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[5:] + lines[:5]))
    with pytest.raises(ValueError, match="to hold this evaluation's examples in order"):
        records_of(model, data, directory=tmp_path)


def test_judges_of_a_random_method(data):
    method = small.noisy().make(data.task)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    images = jnp.asarray(data.test.arrays[0][:6] / 255, jnp.float32)
    wanted = Evaluation(num_draws=3)
    honest = jax.jit(evaluation.judge_fn(method, wanted))
    key = jax.random.key(1)
    draws = [
        jax.nn.softmax(method.predict(variables, images, key=rng.stream(key, "draw", n)))
        for n in range(3)
    ]
    np.testing.assert_allclose(
        honest(variables, images, key=key), np.mean(draws, axis=0), rtol=1e-4, atol=1e-6
    )
    paper = jax.jit(evaluation.judge_fn(method, dataclasses.replace(wanted, judge="paper")))
    np.testing.assert_allclose(paper(variables, images, key=key), draws[0], rtol=1e-4, atol=1e-6)
    quiet = dataclasses.replace(wanted, judge="paper", judged_view="noise_off")
    np.testing.assert_allclose(
        jax.jit(evaluation.judge_fn(method, quiet))(variables, images, key=key),
        jax.nn.softmax(method.views["noise_off"](variables, images)),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    fixed = jax.jit(evaluation.judge_fn(method, dataclasses.replace(wanted, judge="fixed")))
    scores = fixed(variables, images, key=key)
    other = fixed(variables, images[::-1], key=jax.random.key(2))[::-1]
    # A function of the image alone: neither the key, nor the row, nor its neighbours.
    np.testing.assert_allclose(scores, other, rtol=1e-5, atol=1e-7)


def test_suites_run_on_the_host(data, tmp_path):
    method = small.config().method.make(data.task)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    apgd = APGD(small.THREAT, num_steps=3)
    suite = AutoAttack(small.THREAT, version="custom", attacks=(apgd,), batch_size=40)
    runs = {"apgd": AttackRun(apgd), "suite": AttackRun(suite)}
    found = records_of((method, variables), data, attacks=runs, directory=tmp_path)
    for row, record in found["suite"].items():
        assert record.linf <= 0.1 + 1e-6
        # What the attack alone fools the suite fools; what it does not is given back clean.
        assert record.correct == found["apgd"][row].correct
        assert record.linf == 0 or not record.correct


def test_summary_is_a_reduction_of_the_records():
    def rows(correct):
        return {
            i: records.Record(i, 0, int(not c), c, [0], 0.0, 0.0) for i, c in enumerate(correct)
        }

    summary = records.summarize(
        {
            "clean": rows([True, True, True, False]),
            "a": rows([True, False, True, False]),
            "b": rows([False, True, True, True]),
        },
        wall_seconds=2.0,
    )
    assert summary["num_examples"] == 4
    assert summary["clean_accuracy"] == 0.75
    assert summary["robust_accuracy"] == {"a": 0.5, "b": 0.5}
    assert summary["worst_case_accuracy"] == 0.25
    low, high = summary["intervals"]["clean_accuracy"]
    assert 0 < low < 0.75 < high < 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attacks": {"clean": AttackRun(FGSM(small.THREAT))}}, "to leave the name 'clean'"),
        ({"attacks": {"a": AttackRun(FGSM(small.THREAT), view="x")}}, "Expected view='x' to be"),
        ({"batch_size": 6, "num_devices": 4}, "Expected batch_size=6 to be a multiple of the 4"),
    ],
)
def test_mistakes_are_found_before_work(model, data, fields, message):
    with pytest.raises(ValueError, match=message):
        records_of(model, data, **fields)


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
    assert [record.prediction for record in found["clean"].values()] == expected
    with pytest.raises(ValueError, match=r"it has .evaluation.num_examples: 90 != 50"):
        evaluate.main(evaluate.Arguments(tmp_path, num_examples=50, out=out, runtime=cfg.runtime))


def test_evaluate_refuses_data_of_another_shape(tmp_path, data):
    cfg = small.config()
    train.main(train.Arguments(cfg, tmp_path))
    found = checkpoints.load(tmp_path, sharding.make_mesh(1))
    task = found.task._replace(num_classes=7)
    with pytest.raises(ValueError, match="Expected the dataset's num_classes=10 to be the netw"):
        evaluation.check_data(data, task, data.test)
    with pytest.raises(ValueError, match="Expected the validation split not to be empty"):
        evaluation.check_data(data, found.task, data.validation)


def test_description_names_what_matters():
    wanted = Evaluation(
        attacks={"p": AttackRun(PGD(ThreatModel("linf", 8 / 255)), view="noise_off", eot_samples=4)}
    )
    assert evaluation.describe(wanted) == {
        "p": "PGD, linf eps 0.03137, num_steps 10, num_restarts 1, on noise_off, EOT 4"
    }
