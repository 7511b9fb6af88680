"""Studies: rows in order, claims, numbers of what lies on disk, the page."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from robust_jax.attacks import ThreatModel
from robust_jax.commands import train
from robust_jax.commands.train import LOCK
from robust_jax.evaluation import records
from robust_jax.experiment import config
from robust_jax.runtime import locks
from robust_jax.study import Row, Study, kept, page, plan, run, steps, table

LINF = ThreatModel("linf", 0.1)
ROWS = {"plain": Row("plain", "plain"), "ranks": Row("REGroup", "REGroup", after="plain")}
STUDY = Study("A study", ROWS, (LINF,))
MNIST = "configs/studies/mnist.py"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"reference": "x"}, "Expected 'x' among rows"),
        ({"checkpoints": ("plain", "y")}, "Expected 'y' among rows"),
        ({"rows": {"ranks": ROWS["ranks"], "plain": ROWS["plain"]}}, "after='plain' of 'ranks'"),
        ({"threats": ()}, "threats"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        Study(**{**vars(STUDY), **fields})


def test_tasks_come_after_what_they_start_from(tmp_path):
    found = run.tasks(STUDY, (), (0, 3))
    assert [(task.name, task.seed) for task in found] == [
        ("plain", 0), ("ranks", 0), ("plain", 3), ("ranks", 3),
    ]  # fmt: skip
    assert found[3].before(tmp_path) == found[2].workdir(tmp_path) == tmp_path / "plain" / "seed3"
    assert [str(task) for task in run.tasks(STUDY, ("ranks",), (0, 1))] == [
        "ranks",
        "ranks, seed 1",
    ]
    with pytest.raises(ValueError, match="'x'"):
        run.tasks(STUDY, ("x",), (0,))
    with pytest.raises(ValueError, match="seed"):
        run.tasks(STUDY, (), ())


def test_files_that_are_no_study_are_refused(tmp_path):
    with pytest.raises(ValueError, match="STUDY"):
        run.load("configs/quickstart.py")
    text = (config.LIBRARY / "quickstart.py").read_text()
    (tmp_path / "mine.py").write_text(
        f"{text}\nfrom robust_jax.study import Row, Study\n"
        "STUDY = Study('s', {'plain': Row('p', 'p')}, (ThreatModel('linf', 0.1),))\n"
    )
    with pytest.raises(ValueError, match=r"rows=\['plain'\]"):
        run.load(str(tmp_path / "mine.py"))


@pytest.mark.slow
def test_rows_of_mnist_train_alike():
    study = run.load(MNIST)
    assert len(study.rows) == 26
    configs = {name: config.load(f"{MNIST}:{name}") for name in study.rows}
    for name, one in configs.items():
        reference = configs[study.reference]
        assert (one.data, one.optimizer) == (reference.data, reference.optimizer), name
        if study.rows[name].after is None:
            assert one.training.phases == reference.training.phases, name
        else:
            assert one.training.init_from == f"runs/studies/mnist/{study.rows[name].after}/seed0"
        for ball in ("0.03", "0.1"):
            assert {f"paper_{ball}", f"frugal_{ball}"} <= set(one.evaluation.attacks), name
        assert {run.adaptive for attack, run in one.evaluation.attacks.items()
                if not attack.startswith("paper")} == {True}  # fmt: skip
        assert not one.evaluation.attacks["paper_0.1"].adaptive
        assert list(one.evaluation.judges)[:2] == ["paper", "honest"]


@pytest.mark.slow
def test_training_times_are_of_turns(tmp_path):
    file, out = tmp_path / "small.py", tmp_path / "out"
    file.write_text(SMALL)
    study = run.load(str(file))
    found = steps.measure(str(file), study, ["plain", "ranks"], out=out, num_turns=2)
    assert list(found) == ["plain"]  # the other trains nothing
    assert found["plain"].seconds > 0
    assert 0.1 < found["plain"].ratio < 10
    assert steps.read(out) == found
    kept.keep(str(file), [], out, tmp_path / "kept")
    kept.restore(tmp_path / "kept", tmp_path / "again")
    assert steps.read(tmp_path / "again") == found
    (out / steps.FILE).write_text((out / steps.FILE).read_text().replace('ratio": ', 'ratio": 1'))
    kept.restore(tmp_path / "kept", out)
    assert steps.read(out)["plain"].ratio != found["plain"].ratio  # measured here


SMALL = """
import dataclasses
from robust_jax.attacks import FGSM, PGD, ThreatModel
from robust_jax.data import DataConfig, Digits
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection, side_by_side
from robust_jax.experiment.config import Config
from robust_jax.methods import REGroup, Standard
from robust_jax.models import CNNConfig
from robust_jax.runtime.sharding import RuntimeConfig
from robust_jax.study import Row, Study
from robust_jax.training import Phase, TrainingConfig

THREAT = ThreatModel("linf", 0.1)
NETWORK = CNNConfig(widths=(8, 8), strides=(2, 2))
EVALUATION = Evaluation(
    {"paper_0.1": AttackRun(FGSM(THREAT)),
     "frugal_0.1": AttackRun(PGD(THREAT, num_steps=3), adaptive=True)},
    judges=side_by_side(), selection=Selection(num_examples=128), sanity=False, measures={},
)
PLAIN = Config(
    "small", DataConfig(Digits(), validation_size=100), Standard(network=NETWORK),
    training=TrainingConfig((Phase(epochs=15.0, batch_size=64),), validate_every=15.0),
    evaluation=EVALUATION, runtime=RuntimeConfig(num_devices=1),
)
VARIANTS = {
    "default": PLAIN,
    "plain": PLAIN,
    "ranks": dataclasses.replace(
        PLAIN, method=REGroup(network=NETWORK, num_layers=2),
        training=TrainingConfig((), init_from="set by the study"),
    ),
    "broken": dataclasses.replace(
        PLAIN, training=TrainingConfig((Phase(epochs=1.0, batch_size=5000),))
    ),
}
STUDY = Study("Small", {
    "plain": Row("plain", "plain"), "broken": Row("broken", "plain"),
    "ranks": Row("REGroup", "REGroup", after="plain"),
}, (THREAT,))


def get_config(variant="default"):
    return VARIANTS[variant]
"""


def test_nothing_starts_from_a_row_that_has_no_checkpoint(tmp_path, capsys):
    """As one that was restored from its records."""
    file, out = tmp_path / "small.py", tmp_path / "out"
    file.write_text(SMALL)
    (out / "plain" / "seed0").mkdir(parents=True)
    (out / "plain" / "seed0" / "summary.json").write_text("{}")
    todo = run.tasks(STUDY, ("ranks",), (0,))
    assert run.run(str(file), todo, out=out, budget="full") == []
    assert "ranks: waits for plain" in capsys.readouterr().out
    assert not (out / "ranks").exists()


def test_records_of_a_network_that_is_not_here_are_not_gone_on_with(tmp_path, capsys):
    """Before it is trained again, which would be for nothing: it would be another."""
    file, out = tmp_path / "small.py", tmp_path / "out"
    file.write_text(SMALL)
    records = out / "plain" / "seed0" / "records"
    records.mkdir(parents=True)
    (records / "clean.jsonl").write_text("{}\n")
    todo = run.tasks(STUDY, ("plain",), (0,))
    assert run.run(str(file), todo, out=out, budget="full") == todo
    assert f"remove {out / 'plain' / 'seed0'} to train it" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_of_a_split_is_forecast_with_its_certificates(tmp_path):
    """A little of a row says how long all of it takes; this one is judged on all 355 images."""
    file, out = tmp_path / "small.py", tmp_path / "out"
    text = SMALL.replace("Selection(num_examples=128)", "Selection()").replace(
        "measures={},", 'measures={}, certificates={"IBP": Margins(0.1, bound="interval")},'
    )
    file.write_text("from robust_jax.certify import Margins\n" + text)
    todo = run.tasks(run.load(str(file)), ("plain",), (0,))
    (found,) = plan.rehearse(str(file), todo, out=out)
    place = todo[0].workdir(out)
    took = records.seconds_by_attack(place, last=True)
    assert set(took) == {"clean", "paper_0.1", "frugal_0.1", "certificates/IBP"}
    attacks = sum(took.values()) - took["certificates/IBP"]
    assert found.attacks == pytest.approx(attacks / 16 * (355 - 32))
    assert found.certificates == pytest.approx(took["certificates/IBP"] / 8 * (355 - 16))
    assert found.training > 0
    assert found.total > max(found.fixed, found.training)
    assert plan.rehearse(str(file), todo, out=out) == [found]  # not run again


@pytest.mark.slow
def test_a_study_trains_judges_and_goes_on(tmp_path, capfd):
    file, out = tmp_path / "small.py", tmp_path / "out"
    file.write_text(SMALL)
    command = [
        sys.executable, "-m", "robust_jax.study", str(file), "--out", str(out),
        "--budget", "reduced",
    ]  # fmt: skip
    first = subprocess.run(command, text=True, capture_output=True, check=False)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "broken: failed: error: Expected batch_size=5000" in first.stdout
    written = {name: (out / name / "seed0" / "summary.json").read_text()
               for name in ("plain", "ranks")}  # fmt: skip
    again = subprocess.run(
        [*command, "--only", "plain", "ranks"], text=True, capture_output=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 of 2 rows are done." in again.stdout
    for name, text in written.items():
        assert (out / name / "seed0" / "summary.json").read_text() == text
        summary = json.loads(text)
        assert summary["num_examples"] == 64
        (found,) = table.read(run.load(str(file)), run.tasks(STUDY, (name,), (0,)), out)
        honest = summary["judges"]["honest"]
        assert found.clean.value == honest["clean_accuracy"]
        left = found.balls[str(LINF)]
        assert left.frugal is not None
        assert left.frugal.value == honest["robust_accuracy"]["frugal_0.1"]
        assert left.paper is not None
        assert left.paper.value == summary["judges"]["paper"]["robust_accuracy"]["paper_0.1"]
        assert left.worst.value <= left.frugal.value
    assert (out / "study.html").is_file()
    assert "REGroup" in again.stdout
    assert page.REDUCED in again.stdout
    file.write_text(SMALL.replace("num_steps=3", "num_steps=2"))
    shown = subprocess.run([*command, "--show"], text=True, capture_output=True, check=True)
    assert "Of an earlier evaluation than the file asks for: plain, ranks" in shown.stdout


@pytest.mark.nightly
def test_a_plan_is_of_a_little_of_each_row(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(SMALL)
    command = [sys.executable, "-m", "robust_jax.study", str(file), "--out", str(tmp_path / "out")]
    planned = subprocess.run(
        [*command, "--plan", "--only", "plain"], text=True, capture_output=True, check=False
    )
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "1 of 1 rows: 0.0 hours" in planned.stdout


LONG = SMALL.replace("epochs=15.0", "epochs=5000.0")


def started(file, out):
    """Returns a study whose row trains, and the row's directory."""
    words = [sys.executable, "-m", "robust_jax.study", str(file), "--out", str(out)]
    process = subprocess.Popen([*words, "--only", "plain"], stdout=subprocess.PIPE, text=True)
    metrics, deadline = out / "plain" / "seed0" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text()):
        assert process.poll() is None, (out / "plain" / "seed0.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, metrics.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGTERM]
)
def test_a_study_that_is_stopped_lets_its_row_save(tmp_path, number):
    file, out = tmp_path / "long.py", tmp_path / "out"
    file.write_text(LONG)
    process, row = started(file, out)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert "Stopped; the same command goes on." in said
    log = (out / "plain" / "seed0.log").read_text()
    assert "Stopped and saved at step" in log, log
    assert not locks.is_locked(out / "plain" / "seed0.lock")
    assert not locks.is_locked(row / LOCK)
    assert any((row / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_study_that_was_killed_leaves_its_row_alone(tmp_path):
    file, out = tmp_path / "long.py", tmp_path / "out"
    file.write_text(LONG)
    process, row = started(file, out)
    process.kill()
    process.communicate()
    assert not locks.is_locked(out / "plain" / "seed0.lock")
    assert locks.is_locked(row / LOCK)
    left = json.loads((row / LOCK).read_text())["process"]
    try:
        spec = f"{file}:plain"
        task = run.Task("plain", 0, None)
        assert run.run(str(file), [task], out=out, budget="full") == []  # left to the one there
        with pytest.raises(ValueError, match=rf"one program alone; process {left} of "):
            train.main(train.Arguments(config.load(spec), row))
    finally:
        os.kill(left, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while locks.is_locked(row / LOCK):
        assert time.monotonic() < deadline
        time.sleep(0.05)
