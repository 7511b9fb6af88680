"""The benchmark for a node with an accelerator, rehearsed on a node that lacks what it may lack."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.test_plain_node import MISSING

SECTIONS = {
    "agreement", "attacks", "verdicts", "training", "certificates", "profile", "settings",
    "first_row",
}  # fmt: skip


@pytest.fixture
def agreement(monkeypatch, repository):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    return importlib.import_module("on_accelerator.agreement")


@pytest.mark.parametrize("where", ["loss", "a", "z"])
def test_numbers_that_are_none_do_not_agree(agreement, where):
    expected = {name: np.ones(3) for name in ("loss", "a", "z")}
    assert agreement._compare_steps(dict(expected), expected)["within 0.001"] is True
    for wrong in (np.nan, np.inf, 1.01):
        found = expected | {where: np.asarray([1.0, wrong, 1.0])}
        assert agreement._compare_steps(found, expected)["within 0.001"] is False


def test_margins_that_are_none_are_loose(agreement):
    expected = np.asarray(agreement.CROWN_MARGINS["1/255"])
    column = "looser by more than 2e-3 relative"
    assert agreement._compare_margins(expected, expected, "1/255")[column] == 0
    found = expected.copy()
    found[2:4] = np.nan, expected[3] - 0.1
    values = agreement._compare_margins(found, expected, "1/255")
    assert values[column] == 2
    assert values["from the CPU's"] == np.inf


@pytest.mark.nightly
def test_rehearsal_without_what_a_plain_node_lacks(tmp_path, repository):
    # Python runs `sitecustomize` in every process that the benchmark starts, too.
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {MISSING}:\n    sys.modules[name] = None\n"
    )
    out = tmp_path / "out"
    start = [sys.executable, "benchmarks/accelerator.py", "--rehearse", "--out", str(out)]
    command = [*start, "--sections", *sorted(SECTIONS)]
    done = subprocess.run(
        command, cwd=repository, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    rows = json.loads((out / "results.json").read_text())
    assert {row["section"] for row in rows} == SECTIONS
    assert not [row for row in rows if "error" in row["values"]]
    steps = [row["values"] for row in rows if row["table"] == "five float32 steps"]
    assert steps
    assert all(found["within 0.001"] for found in steps)
    assert (out / "row.tar.00").stat().st_size > 0
    # Started again, it has nothing left to do: every row is on disk.
    before = (out / "rows.jsonl").read_text()
    again = subprocess.run(
        [*start, "--sections", "agreement"], cwd=repository, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-3000:]
    assert (out / "rows.jsonl").read_text() == before
