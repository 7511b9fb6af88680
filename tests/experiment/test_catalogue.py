"""The list of configurations has every file."""

import re

import pytest

from robust_jax.commands import evaluate, train
from robust_jax.experiment import catalogue, config
from robust_jax.runtime import command_line


def test_every_file_has_a_line():
    listed = {entry.spec: entry for each in (True, False)
              for entry in catalogue.entries(evaluations=each)}  # fmt: skip
    files = {file.relative_to(config.LIBRARY).with_suffix("").as_posix()
             for file in config.LIBRARY.rglob("*.py") if file.stem != "__init__"}  # fmt: skip
    assert set(listed) == {name for name in files if not name.startswith("recipes/")}
    for spec, entry in listed.items():
        assert re.fullmatch(r"[A-Z\"'(].{10,98}[.:,a-z)]", entry.what), (spec, entry.what)
        assert "default" not in entry.variants


@pytest.mark.parametrize(
    ("command", "name"), [(train, "kap_cifar10"), (evaluate, "eval/kap")], ids=["train", "evaluate"]
)
def test_commands_list(command, name, monkeypatch, capsys):
    monkeypatch.setattr(command_line.sys, "argv", ["x.py", "--list"])
    command.run()
    assert name in capsys.readouterr().out
