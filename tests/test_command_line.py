"""The commands as a user types them: help, overrides, and one line for every mistake."""

import os
import subprocess
import sys

import pytest


def command(repository, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=repository, env=environment, text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def test_help_names_the_fields(repository):
    found = command(repository, "train.py", "--help")
    assert found.returncode == 0
    for flag in ("--workdir", "--method.sigma", "--training.phases.0.epochs", "--data.source"):
        assert flag in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "configs/absent.py"], "Expected config='configs/absent.py' to be a file."),
        (["train.py", "configs/quickstart.py:x"], "Expected variant='x' of configs/quickstart.py"),
        (["train.py", "--method.sigma", "-1"], "Expected sigma=-1.0 >= 0."),
        (["train.py", "--training.phases.0.batch-size", "5000"], "Expected batch_size=5000 <= "),
        (
            ["train.py", "--evaluation.attacks.pgd.view", "x"],
            "Expected view='x' to be one of",
        ),
        (["evaluate.py", "--checkpoint", "absent"], "Expected checkpoint='absent' to hold"),
    ],
)
def test_mistakes_are_one_line(repository, tmp_path, arguments, message):
    extra = ["--workdir", str(tmp_path / "run")] if arguments[0] == "train.py" else []
    found = command(repository, *arguments, *extra)
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {message}")
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_unknown_field_and_wrong_type(repository):
    unknown = command(repository, "train.py", "--method.sigm", "1")
    wrong = command(repository, "train.py", "--method.sigma", "many")
    assert unknown.returncode == wrong.returncode == 2
    assert "--method.sigm" in unknown.stderr
    assert "many" in wrong.stderr
