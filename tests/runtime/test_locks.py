"""Locks: one holder, free as soon as the holder is gone."""

import json
import subprocess
import sys

import pytest

from robust_jax.runtime import locks

HOLD = """
import pathlib, sys, time
from robust_jax.runtime import locks
with locks.locked(pathlib.Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_lock_has_one_holder(tmp_path):
    file = tmp_path / "new" / "lock"
    assert not locks.is_locked(file)
    with locks.locked(file) as mine, locks.locked(file) as other:
        assert mine
        assert not other
        assert locks.is_locked(file)
        with pytest.raises(ValueError, match="one program alone"), locks.alone(file):
            pass
    assert not locks.is_locked(file)
    with pytest.raises(KeyError), locks.alone(file):  # what goes wrong inside is not ours
        raise KeyError
    with locks.alone(file):
        assert locks.is_locked(file)


def test_a_lock_ends_with_its_process(tmp_path):
    file = tmp_path / "lock"
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holding.stdout is not None
        assert holding.stdout.readline().strip() == "True"
        with locks.locked(file) as mine:
            assert not mine
        assert locks.holder(file).startswith(f"process {holding.pid} of ")
        assert json.loads(file.read_text())["process"] == holding.pid
    finally:
        holding.kill()
        holding.communicate()
    with locks.locked(file) as mine:
        assert mine


def test_file_systems_without_locks_take_none(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    with locks.locked(tmp_path / "lock") as mine:
        assert mine
        assert not locks.is_locked(tmp_path / "lock")


@pytest.mark.parametrize("text", ["", "{}", "[]", "x"])
def test_a_holder_that_says_nothing_is_another_process(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    assert locks.holder(tmp_path / "lock") == "another process"
    assert locks.holder(tmp_path / "missing") == "another process"
