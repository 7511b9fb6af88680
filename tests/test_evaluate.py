"""The command evaluate.py on what train.py wrote."""

import contextlib
import dataclasses
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from robust_jax import experiment
from robust_jax.attacks import FGSM, ThreatModel
from robust_jax.commands import evaluate, train
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import Evaluation, Model, dry_run, records, report
from robust_jax.evaluation.protocol import AttackRun, Selection
from robust_jax.experiment import checkpoints
from robust_jax.runtime import sharding
from tests import small

QUIET = """
from robust_jax.methods import KAP
from tests import small
VARIANTS = ("default",)
def get_config(variant):
    return small.config(KAP(network=small.NETWORK, sigma=0.2, noise_in_prediction=False))
"""


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A run, and where its evaluation by the command lies."""
    workdir, cfg = tmp_path_factory.mktemp("run"), small.config(small.noisy())
    train.main(train.Arguments(cfg, workdir))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate.main(evaluate.Arguments(workdir, runtime=cfg.runtime))
    assert "worst case" in printed.getvalue()
    step = checkpoints.load(workdir, sharding.make_mesh(1)).step
    return workdir, cfg, workdir / "evaluations" / f"default-{step}"


def test_evaluate_reads_what_train_wrote(trained_once):
    workdir, cfg, out = trained_once
    trained = json.loads((workdir / "summary.json").read_text())
    again = json.loads((out / "summary.json").read_text())
    assert again["clean_accuracy"] == trained["clean_accuracy"]
    assert again["robust_accuracy"] == trained["robust_accuracy"]
    assert (out / "report.html").is_file()
    with pytest.raises(ValueError, match=r"it has .evaluation.selection.num_examples: 90 != 50"):
        evaluate.main(evaluate.Arguments(workdir, num_examples=50, out=out, runtime=cfg.runtime))


@pytest.mark.slow
def test_the_folder_one_is_in_is_a_checkpoint(trained_once, monkeypatch):
    workdir, cfg, out = trained_once
    monkeypatch.chdir(workdir)
    found = evaluate.main(evaluate.Arguments(pathlib.Path("."), runtime=cfg.runtime))
    kept = json.loads((out / "summary.json").read_text())
    assert found.summary["robust_accuracy"] == kept["robust_accuracy"]
    assert [path.name for path in (workdir / "evaluations").iterdir()] == [out.name]


@pytest.mark.slow
def test_another_method_and_a_further_attack(trained_once, tmp_path, monkeypatch):
    workdir, cfg, out = trained_once
    again = json.loads((out / "summary.json").read_text())
    step = checkpoints.load(workdir, sharding.make_mesh(1)).step
    monkeypatch.setattr(report, "write", lambda *_, **__: None)
    quiet = tmp_path / "quiet.py"
    quiet.write_text(QUIET)
    evaluate.main(evaluate.Arguments(workdir, method=str(quiet), runtime=cfg.runtime))
    found = records.read_records(workdir / "evaluations" / f"default-quiet-{step}")
    checkpoint = checkpoints.load(workdir, sharding.make_mesh(1))
    noise_off = cfg.method.make(checkpoint.task).views["noise_off"]
    images = jnp.asarray(open_data(cfg.data).test.arrays[0][:90] / 255, jnp.float32)
    expected = jnp.argmax(jax.jit(noise_off)(checkpoint.variables, images), -1).tolist()
    assert [record.headline().prediction for record in found["clean"].values()] == expected
    # A further attack: what is finished stays as it is, to the byte.
    attacks = {**cfg.evaluation.attacks, "late": AttackRun(FGSM(small.THREAT), adaptive=True)}
    more = dataclasses.replace(cfg.evaluation, attacks=attacks)
    before = {file: file.read_bytes() for file in (out / "records").glob("*.jsonl")}
    data, mesh = open_data(cfg.data), sharding.make_mesh(1)
    experiment.judge(
        experiment.as_model(checkpoint), more, mesh, data=data, out=out, progress=False
    )
    assert {file: file.read_bytes() for file in before} == before
    summary = json.loads((out / "summary.json").read_text())
    accuracies = summary["robust_accuracy"]
    late = accuracies.pop("late")
    assert accuracies == again["robust_accuracy"]
    assert all(worst <= late for worst in summary["worst_case_accuracy"].values())
    # And back to the first: the further attack's records stay, and count no more.
    experiment.judge(
        experiment.as_model(checkpoint), cfg.evaluation, mesh, data=data, out=out, progress=False
    )
    assert (out / "records" / "late.jsonl").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["robust_accuracy"] == again["robust_accuracy"]
    assert set(summary["seconds"]) == {"clean", "fgsm", "pgd"}
    attacks["late"] = AttackRun(FGSM(ThreatModel("linf", 0.2)))
    with pytest.raises(ValueError, match=r"late.attack.threat.eps: 0.1 != 0.2 in records/late.jso"):
        experiment.judge(
            experiment.as_model(checkpoint),
            dataclasses.replace(more, attacks=attacks),
            mesh,
            data=data,
            out=out,
        )


def test_evaluate_refuses_data_of_another_shape():
    data = open_data(DataConfig(Digits()))
    model = Model.of(lambda images: images[:, 0, 0], num_classes=7)
    with pytest.raises(ValueError, match="Expected the dataset's num_classes=10 to be the netw"):
        dry_run.check_data(data.test, model)
    with pytest.raises(ValueError, match="Expected the validation split not to be empty"):
        dry_run.check_data(data.validation, model._replace(num_classes=10))


def test_classes_of_other_numbers_are_refused(tmp_path):
    """Who learned the classes in another order has every label wrong, and nothing else shows it."""
    data, mesh = open_data(DataConfig(Digits())), sharding.make_mesh(1)
    digits = tuple(map(str, range(10)))
    model = Model.of(lambda images: images[:, :, 0, 0], num_classes=10)
    dry_run.check_classes(data.class_names, model)  # names none
    dry_run.check_classes(digits, model._replace(class_names=(*digits[:9], "nine")))
    dry_run.check_classes(["crane", "crane"], model._replace(class_names=("heron", "Crane")))
    other = model._replace(class_names=digits[::-1])
    with pytest.raises(ValueError, match="class '0', number 0, to be that of the network, number"):
        experiment.judge(other, Evaluation(), mesh, data=data, out=tmp_path)
    with pytest.raises(ValueError, match="that of source 'near', number 9"):
        experiment.judge(
            model, Evaluation(), mesh, data=data, out=tmp_path, sources={"near": other}
        )


MINE = """
import jax.numpy as jnp
from robust_jax.evaluation import Model

def net(images):
    return images.reshape(len(images), -1)[:, :10]

def made():
    return Model.of(net, num_classes=10, name="made")

three = 3
"""


def judged(*words):
    return evaluate.main(evaluate.parsed([*words, "--runtime.no-progress"]))


WANTED = """
from robust_jax.attacks import FGSM, ThreatModel
from robust_jax.evaluation import AttackRun, Evaluation
VARIANTS = ("default",)
def get_config(variant):
    attacks = {"fgsm": AttackRun(FGSM(ThreatModel("linf", 0.1)))}
    return Evaluation(attacks, sanity=False, measures={})
"""


@pytest.mark.slow
def test_a_function_is_judged_by_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    words = ["--budget", "reduced", "--num-examples", "16"]  # what is not said: quick, 8/255
    found = judged("--model", "mine.py:net", *words, "--data.source", "digits")
    assert found.summary["worst_case_accuracy"].keys() == {"linf eps 0.03137"}
    assert (
        tmp_path / "runs/evaluations/mine-net-quick-linf0.0313725-reduced/report.html"
    ).is_file()


def test_a_preset_is_of_the_split_that_is_named(tmp_path):
    data = open_data(DataConfig(Digits(), validation_size=100))
    model = Model.of(lambda images: images[:, :2, :5, 0].reshape(-1, 10), num_classes=10)
    subject = evaluate.Subject(model, data, None, tmp_path)
    asked = evaluate.Arguments(model="mine.py:net", preset="quick", eps=0.1)
    for split, number in (("validation", 100), ("test", 256), (None, 256)):
        wanted = evaluate._wanted(dataclasses.replace(asked, split=split), subject)
        assert wanted.selection == Selection(split or "test", num_examples=number)


@pytest.mark.slow
def test_a_function_of_a_file_is_judged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "wanted.py").write_text(WANTED)
    words = ["--config", "wanted.py", "--budget", "reduced", "--num-examples", "16"]
    words += ["--data.source", "digits", "--runtime.num-devices", "1"]
    first = judged("--model", "mine.py:net", *words)
    assert first.model.name == "net"
    assert (tmp_path / "runs/evaluations/mine-net-wanted-reduced/report.html").is_file()
    again = judged("--model", "mine.py:made", *words, "--out", "out")
    assert again.model.name == "made"
    assert again.summary["clean_accuracy"] == first.summary["clean_accuracy"]
    for model, match in (
        ("mine.py:three", "found int"), ("mine.py:none", "define 'none'"),
        ("none.py:net", "'none.py' to be a file"), ("mine.py", "FILE.py:NAME"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            judged("--model", model, *words)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "--checkpoint DIR or --model"),
        (["--checkpoint", "x", "--model", "x.py:y"], "one of them"),
        (["--model", "x.py:y", "--config", "z", "--eps", "8/255"], "--eps beside --preset"),
        (["--model", "x.py:y", "--norm", "l2"], "--eps beside --norm l2"),
        (["--checkpoint", "x", "--eps", "8/255"], "--eps beside --preset"),
        (["--checkpoint", "x", "--norm", "l2"], "--norm beside --preset"),
        (["--model", "x.py:y", "--config", "x", "--step", "3"], "--step beside --checkpoint"),
        (["--checkpoint", "x", "--config", "x", "--preset", "quick", "--eps", "1"], "not both"),
        (["--checkpoint", "x", "--data.source", "Digit"], "'x' to hold checkpoints"),
        (["--model", "x.py:y", "--data.source", "Digit"], "did you mean Digits"),
    ],
)
def test_words_that_do_not_go_together(words, match):
    with pytest.raises(ValueError, match=match):
        judged(*words)


def test_a_checkpoint_on_other_data(trained_once, tmp_path):
    workdir, cfg, _ = trained_once
    source = cfg.data.source
    words = ["--checkpoint", str(workdir), "--budget", "reduced", "--runtime.num-devices", "1"]
    other = dataclasses.replace(cfg.data, seed=cfg.data.seed + 1)
    assert evaluate.parsed([*words, "--data.seed", str(other.seed)]).data == other
    assert evaluate.parsed(words).data is None
    assert evaluate.parsed(["--data.source=Digits"]).data == DataConfig(Digits())
    with pytest.raises(ValueError, match=r"num_classes=|input_shape="):
        judged(*words, "--out", str(tmp_path), "--data.source", "Blobs(num_classes=3)")
    assert type(source) is type(cfg.data.source)
