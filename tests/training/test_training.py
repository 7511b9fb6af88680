"""Plans, states, and the loop of train.py: resumed bit for bit, stopped without loss."""

import dataclasses
import json
import os
import signal

import chex
import jax
import numpy as np
import pytest

from robust_jax import evaluation, experiment, training
from robust_jax.attacks import FGSM, PGD, AutoAttack
from robust_jax.commands import train
from robust_jax.data import NPZ, DataConfig, Digits, open_data
from robust_jax.experiment import checkpoints
from robust_jax.methods import Standard
from robust_jax.models import Normalization
from robust_jax.runtime import sharding
from robust_jax.training import (
    AdversarialTraining,
    FreeAdversarialTraining,
    OverfittingMonitor,
    Phase,
    TrainingConfig,
)
from robust_jax.training.plan import make_plan
from tests.small import NETWORK, THREAT, config, noisy


def unattacked(cfg):
    """Returns the configuration without the attacks of its evaluation."""
    return dataclasses.replace(cfg, evaluation=dataclasses.replace(cfg.evaluation, attacks={}))


def run(cfg, workdir):
    train.main(train.Arguments(cfg, workdir))
    return checkpoints.load(workdir, sharding.make_mesh(1))


def model(workdir, step):
    return checkpoints.load(workdir, sharding.make_mesh(1), step=step).variables


def test_plan_of_phases():
    phases = (Phase(2.0, batch_size=10), Phase(1.0, batch_size=25, image_size=16))
    mesh = sharding.make_mesh(1)
    plan = make_plan(TrainingConfig(phases), 103, mesh)
    assert plan.starts == (0, 20, 24)
    assert [plan.epoch_at(step) for step in (0, 10, 20, 22, 24)] == [0, 1, 2, 2.5, 3]
    assert [plan.step_at(epoch) for epoch in (0.0, 1.0, 2.0, 2.5, 3.0)] == [0, 10, 20, 22, 24]
    assert [plan.phase_at(step) for step in (0, 19, 20, 23)] == [0, 0, 1, 1]
    assert plan.validation_steps(1.0) == [10, 20, 24]
    assert plan.validation_steps(10.0) == [24]
    short = make_plan(TrainingConfig(phases, max_steps=5), 103, mesh)
    assert (short.num_steps, short.validation_steps(1.0)) == (5, [5])
    with pytest.raises(ValueError, match="Expected batch_size=10 <= 9 training examples"):
        make_plan(TrainingConfig(phases), 9, mesh)
    with pytest.raises(ValueError, match="Expected batch_size=25 to be a multiple of the 2"):
        make_plan(TrainingConfig(phases), 103, sharding.make_mesh(2))


def test_phases_go_on_counting_epochs():
    data = open_data(DataConfig(Digits()))
    mesh = sharding.make_mesh(1)
    phases = (Phase(1.0, batch_size=721), Phase(1.0, batch_size=360))
    plan = make_plan(TrainingConfig(phases), 1442, mesh)
    found = list(training.batches(data, plan, mesh, seed=0, start=0))
    assert [len(batch.label) for batch in found] == [721, 721, 360, 360, 360, 360]
    resumed = list(training.batches(data, plan, mesh, seed=0, start=3))
    chex.assert_trees_all_equal(resumed, found[3:])
    first = np.concatenate([batch.index for batch in found[:2]])
    assert sorted(first.tolist()) == list(range(1442))
    assert found[2].index.tolist() != found[0].index[:360].tolist()


@pytest.mark.parametrize(
    ("method", "adversarial"),
    [
        (None, AdversarialTraining(PGD(THREAT, num_steps=2))),
        pytest.param(  # stopped between two replays
            noisy(), FreeAdversarialTraining(THREAT, num_replays=2), marks=pytest.mark.slow
        ),
    ],
    ids=["standard", "kap_free"],
)
def test_resume_is_bitwise(tmp_path, method, adversarial, monkeypatch):
    """A run stopped in mid-epoch by SIGTERM ends in the same bits as one that was not."""
    cfg = unattacked(config(method, adversarial=adversarial))
    optimizer = dataclasses.replace(cfg.optimizer, frozen=("norm1.bias",), rates={"linear": 0.02})
    cfg = dataclasses.replace(cfg, optimizer=optimizer)
    run(cfg, tmp_path / "whole")

    real = training.make_train_step

    def stopping(*arguments):
        step_fn = real(*arguments)

        def wrapped(state, batch, key):
            if int(state.step) == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return step_fn(state, batch, key)

        return wrapped

    monkeypatch.setattr(training, "make_train_step", stopping)
    train.main(train.Arguments(cfg, tmp_path / "stopped"))
    monkeypatch.undo()
    assert checkpoints.resumable_step(tmp_path / "stopped", cfg) == 7
    run(cfg, tmp_path / "stopped")
    chex.assert_trees_all_equal(model(tmp_path / "stopped", 22), model(tmp_path / "whole", 22))
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    ]
    losses = [{row["step"]: row["loss"] for row in rows if "loss" in row} for rows in lines]
    assert losses[0][22] == losses[1][22]
    assert 7 in losses[1]


@pytest.mark.slow
def test_overfitting_stops_the_run_and_deploys_the_best(tmp_path, capsys):
    """A run that goes on from a robust checkpoint and is far less so at its next validation."""
    cfg = config(
        phases=(Phase(epochs=3.0, batch_size=104),),
        best_by="robust_accuracy",
        validation_attack=FGSM(THREAT),
        overfitting=OverfittingMonitor(action="stop"),
    )
    cfg = unattacked(cfg)
    data, mesh = open_data(cfg.data), sharding.make_mesh(1)
    variables = experiment.init_variables(cfg, data, cfg.method.make(data.task), mesh)
    plan = make_plan(cfg.training, data.task.num_train, mesh)
    optimizer = cfg.optimizer.make(plan.step_at, plan.epochs[-1])
    state = training.init_state(variables, optimizer, cfg.training, mesh)
    robust = {"accuracy": 0.99, "robust_accuracy": 0.98}
    with checkpoints.open_manager(tmp_path, best_by="robust_accuracy") as manager:
        state = state._replace(step=state.step + 11)
        experiment.save(manager, state, config=cfg, data=data, metrics=robust)

    found = run(cfg, tmp_path)
    kept = checkpoints.kept_metrics(tmp_path)
    assert set(kept) == {11, 22}  # of the 33 steps
    assert kept[22]["robust_accuracy"] < 0.78
    assert found.step == 11
    assert "Catastrophic overfitting: robust validation" in capsys.readouterr().out
    run(cfg, tmp_path)
    assert set(checkpoints.kept_metrics(tmp_path)) == {11, 22}
    # A larger drop is none, and no monitor sees none.
    larger = dataclasses.replace(cfg.training, overfitting=OverfittingMonitor(drop=0.985))
    assert experiment.overfits(larger, tmp_path) is None
    assert experiment.overfits(TrainingConfig(), tmp_path) is None


@pytest.mark.slow
def test_finished_run_evaluates_again(tmp_path, capsys):
    cfg = config()
    run(cfg, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    before = capsys.readouterr().out
    run(cfg, tmp_path)
    again = json.loads((tmp_path / "summary.json").read_text())
    assert summary == again
    assert "clean" in before
    assert summary["num_examples"] == 90
    assert set(summary) >= {
        "clean_accuracy", "robust_accuracy", "worst_case_accuracy", "wall_seconds",
    }  # fmt: skip


def test_non_finite_loss_names_step_and_checkpoint(tmp_path):
    cfg = config(ema_decay=None)
    cfg = dataclasses.replace(cfg, optimizer=dataclasses.replace(cfg.optimizer, learning_rate=1e30))
    with pytest.raises(FloatingPointError, match=r"at step \d+ to be finite; the last good"):
        run(cfg, tmp_path)
    assert checkpoints.resumable_step(tmp_path, cfg) is None


def test_names_of_parameters_are_known_before_training(tmp_path):
    cfg = config()
    cfg = dataclasses.replace(cfg, optimizer=dataclasses.replace(cfg.optimizer, frozen=("conv9",)))
    with pytest.raises(ValueError, match=r"frozen=\['conv9'\] to be names of parameters"):
        run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_seeds_are_runs_of_their_own_by_one_compiled_step(tmp_path, capsys, monkeypatch):
    """Stopped in the second, gone on with; each ends in the bits of a run of that seed alone."""
    cfg, seeds, made = unattacked(config()), (0, 1), []
    real = training.make_train_step

    def stopping(*arguments):
        made.append(real(*arguments))

        def wrapped(state, batch, key):
            if (len(made), int(state.step), int(jax.random.key_data(key)[-1])) == (1, 6, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            return made[-1](state, batch, key)

        return wrapped

    monkeypatch.setattr(training, "make_train_step", stopping)
    validators = []
    make_evaluator = evaluation.make_evaluator
    monkeypatch.setattr(
        evaluation, "make_evaluator", lambda *a: validators.append(a) or make_evaluator(*a)
    )
    everything = train.Arguments(cfg, tmp_path / "seeds", seeds)
    train.main(everything)
    assert (len(made), made[0]._cache_size(), len(validators)) == (1, 1, 2)
    assert "Stopped and saved at step 7" in capsys.readouterr().out
    assert not (tmp_path / "seeds" / "compare.html").exists()
    train.main(everything)
    said = capsys.readouterr().out
    assert "Seed 0 is trained and evaluated" in said
    assert "Going on from step 7" in said
    assert "n = 2" in said
    assert (tmp_path / "seeds" / "compare.html").is_file()
    run(dataclasses.replace(cfg, seed=1), tmp_path / "alone")
    chex.assert_trees_all_equal(
        model(tmp_path / "seeds" / "seed1", 22), model(tmp_path / "alone", 22)
    )


def test_seeds_differ_and_have_a_place_of_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"Expected seeds=\(1, 2, 1\) to differ"):
        train.main(train.Arguments(config(), tmp_path, (1, 2, 1)))
    with pytest.raises(ValueError, match="Expected 0 <= seed=-1"):
        train.main(train.Arguments(config(), tmp_path, (0, -1)))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="of seeds to be no single run's"):
        train.main(train.Arguments(config(), tmp_path, (0, 1)))


@pytest.mark.parametrize("statistics", ["train_channel", "train_pixel"])
def test_training_statistics_reach_the_model(statistics):
    cfg = config(Standard(network=NETWORK, normalization=Normalization(statistics=statistics)))
    data = open_data(cfg.data)
    images = data.train.arrays[0] / 255
    found = experiment.init_variables(cfg, data, cfg.method.make(data.task), sharding.make_mesh(1))
    axes = (0, 1, 2) if statistics == "train_channel" else (0,)
    np.testing.assert_allclose(found["constants"]["mean"], images.mean(axes), rtol=1e-5)


def test_step_compiles_once_average_follows_and_frozen_stays():
    cfg = config()
    data = open_data(cfg.data)
    mesh = sharding.make_mesh(2)
    method = cfg.method.make(data.task)
    plan = make_plan(cfg.training, data.task.num_train, mesh)
    still = dataclasses.replace(cfg.optimizer, frozen=("conv1", "norm1.scale"))
    optimizer = still.make(plan.step_at, 1.0)
    step_fn = training.make_train_step(method, optimizer, cfg.training, cfg.data.augmentation, mesh)
    state = training.init_state(
        experiment.init_variables(cfg, data, method, mesh), optimizer, cfg.training, mesh
    )
    start = jax.device_get(state.variables["params"])
    average = start
    for batch in list(training.batches(data, plan, mesh, seed=0, start=0))[:3]:
        state, _ = step_fn(state, batch, jax.random.key(0))
        params = jax.device_get(state.variables["params"])
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, params)
    assert step_fn._cache_size() == 1
    chex.assert_trees_all_close(state.deployed["params"], average, rtol=1e-5, atol=1e-7)
    for found in (params["backbone"], state.deployed["params"]["backbone"]):
        frozen = found["conv1"]["kernel"], found["norm1"]["scale"]
        before = start["backbone"]["conv1"]["kernel"], start["backbone"]["norm1"]["scale"]
        chex.assert_trees_all_equal(frozen, before)
        assert not np.array_equal(found["norm1"]["bias"], start["backbone"]["norm1"]["bias"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phase(0.0), "Expected epochs=0.0 > 0."),
        (lambda: Phase(1.0, batch_size=0), "Expected batch_size=0 >= 1."),
        (lambda: TrainingConfig(phases=()), "Expected init_from=None to name a checkpoint"),
        (lambda: TrainingConfig(ema_decay=1.0), "Expected 0 < ema_decay=1.0 < 1."),
        (lambda: TrainingConfig(best_by="robust_accuracy"), "Expected validation_attack=None"),
        (
            lambda: TrainingConfig(overfitting=OverfittingMonitor()),
            "Expected best_by='accuracy' to be 'robust_accuracy', for overfitting.",
        ),
        (
            lambda: AdversarialTraining(AutoAttack(THREAT)),
            "Expected attack of class AutoAttack to run inside the step",
        ),
        (lambda: OverfittingMonitor(drop=0.0), "Expected 0 < drop=0.0 < 1."),
        (lambda: TrainingConfig(validate_every=0.0), "Expected validate_every=0.0 > 0."),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_label_stops_before_training(tmp_path):
    images = np.zeros((20, 8, 8, 1), np.uint8)
    labels = np.arange(20) % 3
    file = tmp_path / "data.npz"
    np.savez(file, x_train=images, y_train=labels - 1, x_test=images, y_test=labels)
    cfg = dataclasses.replace(config(), data=DataConfig(NPZ(str(file), num_classes=3)))
    with pytest.raises(ValueError, match=r"y_train\[0\]=-1 in \[0, 3\)"):
        run(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_attack_needs_a_split(tmp_path):
    cfg = config(validation_attack=PGD(THREAT), best_by="robust_accuracy")
    cfg = dataclasses.replace(cfg, data=DataConfig(Digits()))
    with pytest.raises(ValueError, match="Expected validation_size=0 > 0"):
        run(cfg, tmp_path / "run")


def test_unknown_view_of_adversarial_training(tmp_path):
    cfg = config(adversarial=AdversarialTraining(PGD(THREAT), view="batch"))
    with pytest.raises(ValueError, match="Expected view='batch' to be one of"):
        run(cfg, tmp_path / "run")
