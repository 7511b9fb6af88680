"""The commands as a user types them: help, overrides, and one line for every mistake."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from robust_jax import serialization
from robust_jax.attacks import APGD, BIM, MIM, PGD, ThreatModel
from robust_jax.commands import train
from robust_jax.experiment import config
from robust_jax.runtime import command_line, python_file


@pytest.fixture
def typed(repository, monkeypatch, capsys):
    """A function of a command's words: its exit status and what it prints, out and err.

    In this process, which has imported everything (and whose output is not the terminal's UTF-8);
    one test starts the command itself.
    """

    def run(*words):
        monkeypatch.chdir(repository)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "argv", list(words))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(words[0], run_name="__main__")
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_help_names_the_fields(typed):
    code, out, _ = typed("train.py", "--help")
    assert code == 0
    for flag in ("--workdir", "--method.sigma", "--training.phases.0.epochs"):
        assert flag in out


MISTAKES = [
    (["train.py", "configs/absent.py"], "Expected config='configs/absent.py' to be a file."),
    (["train.py", "configs/quickstart.py:x"], "Expected variant='x' of configs/quickstart.py"),
    (["train.py", "--method.sigm", "1"], "Unrecognized options: --method.sigm, 1 (did you m"),
    (["train.py", "--training.phases.0.batch-size", "5000"], "Expected batch_size=5000 <= "),
    (["train.py", "--evaluation.attacks.pgd.view", "x"], "Expected view='x' to be one of"),
    (["evaluate.py", "--checkpoint", "absent"], "Expected checkpoint='absent' to hold"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line(typed, tmp_path, words, message):
    extra = ["--workdir", str(tmp_path / "run")] if words[0] == "train.py" else []
    code, _, err = typed(*words, *extra)
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own(repository):
    words, message = MISTAKES[2]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "utf-8"}
    found = subprocess.run(
        [sys.executable, *words], cwd=repository, env=environment, text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {message}")
    assert len(found.stderr.splitlines()) == 1


def parsed(*arguments):
    default = train.Arguments(config.load("configs/quickstart.py"))
    return command_line.parse(train.Arguments, args=arguments, default=default, flat="config")


def test_overrides_reach_nested_and_polymorphic_fields(repository, monkeypatch):
    monkeypatch.chdir(repository)
    found = parsed(
        "--workdir", "here",
        "--method.network.widths", "16", "25", "36",
        "--method.pool.kernel-size", "2",
        "--training.phases.0.epochs", "1",
        "--training.adversarial.attack.threat.eps", "8/255",
        "--evaluation.attacks.pgd.attack.num-steps", "7",
    )  # fmt: skip
    assert str(found.workdir) == "here"
    cfg = found.config
    assert cfg.method.network.widths == (16, 25, 36)
    assert cfg.method.pool.kernel_size == 2
    assert cfg.training.phases[0].epochs == 1.0
    assert cfg.training.adversarial.attack.threat.eps == 8 / 255
    assert cfg.evaluation.attacks["pgd"].attack.num_steps == 7


def test_values_as_people_write_them(repository, monkeypatch):
    monkeypatch.chdir(repository)
    found = parsed(
        "--training.adversarial.attack.threat.eps", "8./255",
        "--training.adversarial.attack.step_size=.5/255",
        "--training.adversarial.attack.num-steps", "1e1",
        "--evaluation.attacks.pgd.attack.threat.eps", "1e-2",
        "--evaluation.selection.num-examples", "1_000",
        "--data.validation-size", "1/10",
        "--workdir=~/runs",
    )  # fmt: skip
    attack = found.config.training.adversarial.attack
    assert (attack.threat.eps, attack.step_size) == (8 / 255, 0.5 / 255)
    assert repr(attack.num_steps) == "10"
    assert found.config.evaluation.attacks["pgd"].attack.threat.eps == 0.01
    assert found.config.evaluation.selection.num_examples == 1000
    assert found.config.data.validation_size == 0.1
    assert found.workdir == pathlib.Path.home() / "runs"
    assert repr(parsed("--data.validation-size", "1e2").config.data.validation_size) == "100"


def test_optional_sections_can_be_left_out(repository, monkeypatch):
    monkeypatch.chdir(repository)
    cfg = parsed("training.adversarial:none", "method.pool:none", "--method.sigma", "0.3").config
    assert cfg.training.adversarial is None
    assert cfg.method.pool is None
    assert cfg.method.sigma == 0.3


def test_adversarial_training_by_flags(repository, monkeypatch):
    monkeypatch.chdir(repository)
    chosen, flag = "training.adversarial:adversarial-training", "--training.adversarial.attack"

    def trained(*words):
        default = train.Arguments(config.load("configs/ensemble_digits.py"))
        assert default.config.training.adversarial is None
        found = command_line.parse(train.Arguments, args=words, default=default, flat="config")
        assert serialization.check(found.config) == found.config
        return found.config.training

    assert trained(chosen).adversarial.attack == PGD(
        ThreatModel("linf", 8 / 255), num_steps=10, step_size=2 / 255, keep="last"
    )
    ball = [f"{flag}.threat.norm", "l2", f"{flag}.threat.eps", "1/2"]
    threat = ThreatModel("l2", 0.5)
    for name, attack in {"apgd": APGD(threat), "mim": MIM(threat), "bim": BIM(threat)}.items():
        assert trained(chosen, f"training.adversarial.attack:{name}", *ball).adversarial.attack == (
            attack
        )
    with pytest.raises(
        ValueError, match=r"--training.adversarial.attack.threat.eps FLOAT .*requir"
    ):
        trained(chosen, "training.adversarial.attack:apgd")
    with pytest.raises(ValueError, match="Expected a kind of Attack, of which"):
        trained(chosen, "training.adversarial.attack:attack")
    with pytest.raises(ValueError, match="Expected a kind of Attack, of which"):
        trained("training.validation-attack:attack")


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method.sigm", "1"], "Unrecognized options: --method.sigm, 1 .*did you mean .*sigma"),
        (["--method.sigma", "many"], "Error parsing --method.sigma: .*'many'"),
        (["--method.sigma", "-1"], "Expected sigma=-1.0 >= 0."),
        (["--method.sigma", "nan"], "Error parsing --method.sigma: Expected 'nan' to be a number"),
        (["--method.sigma", "8/0"], "Error parsing --method.sigma: Expected '8/0' to be a number"),
        (["--seed", "1e-3"], "Error parsing --seed: Expected '1e-3' to be an integer"),
        (["--seed", "4294967296"], "Expected 0 <= seed=4294967296 < 2"),
        (["--workdir", ""], "Error parsing --workdir: .*Expected '' to be a path|no type matching"),
        (["--runtime.progress", "False"], "Unrecognized options: False .a switch is --flag"),
        (["--method.network.widths", "16,25"], "'16,25'.* .several values are separated by spaces"),
        (["--method.order", "x"], "invalid choice 'x' for argument '--method.order'"),
    ],
)
def test_bad_overrides_are_one_line(repository, monkeypatch, arguments, message):
    monkeypatch.chdir(repository)
    with pytest.raises(ValueError, match=message) as error:
        parsed(*arguments)
    assert "\n" not in str(error.value)


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv("JAX_TRACEBACK_FILTERING", raising=False)
    with pytest.raises(SystemExit) as ended, command_line.one_line_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\nx = = 2", r"mine.py:2 to run: SyntaxError: "),
        ("import nothing_of_this_name", r"mine.py:1 to run: ModuleNotFoundError: No module"),
        ("def f():\n    return 1 / 0\nf()", r"mine.py:2 to run: ZeroDivisionError: division"),
        ("import json\njson.loads('')", r"^Expecting value: .* \(mine.py:2\)$"),
        ("raise ValueError('its own\\nlines')", r"^its own \(mine.py:1\)$"),
        ("# coding: nonsense", r"mine.py to run: SyntaxError: "),
    ],
    ids=["syntax", "import", "inside", "value", "own", "coding"],
)
def test_a_file_that_does_not_run_is_one_line(tmp_path, text, match):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=match):
        python_file.run_file(tmp_path / "mine.py")
