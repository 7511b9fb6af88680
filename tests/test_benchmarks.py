"""Benchmarks are run by hand, and so are the last to hear of a change."""

import subprocess
import sys

import pytest


@pytest.mark.nightly
def test_benchmarks_name_what_is_there(repository):
    """No name that is gone, no call with other arguments than today's; no types."""
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", "benchmarks"]
    done = subprocess.run(command, cwd=repository, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
