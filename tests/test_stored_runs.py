"""Runs that earlier commits stored are loaded, evaluated, gone on with and resumed."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from robust_jax import formats
from robust_jax.commands import evaluate, train
from robust_jax.evaluation import claims, records, report
from robust_jax.experiment import checkpoints
from tests.fixtures import runs
from tests.fixtures.runs import CONFIGS, EVALUATION_STOPPED, NUM_STEPS, RUNTIME, STOPPED

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
STORED = sorted(path.parent.parts[-2:] for path in FIXTURES.glob("*/*/scores.json"))
"""Commits and names of runs."""
FORMATS = {"c6714d0": 1, "9833d00": 3, "9aaf6a6": 4, "f356365": 5, "9e86c57": 6}
"""By commit, the number of what it wrote."""

# The same arrays through the same operations in float32, compiled by another version for another
# processor: some hundred roundings of 6e-8 each, of scores of up to about ten.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}

pytestmark = pytest.mark.slow
NIGHTLY = [pytest.mark.nightly]


def evaluation_of(workdir):
    """Returns the directory of the evaluation that ended."""
    (file,) = workdir.rglob("summary.json")
    return file.parent


RANDOM = {"kap"}
"""Judged by draws of batches in formats before 3, and by draws of rows since."""


def check_same(found, expected, *, judged_alike):
    """Checks that records are of the same images, with the same decisions if they are judged so."""
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert list(found[name]) == list(rows)
        if not judged_alike:
            everything = [d for record in found[name].values() for d in record.decisions.values()]
            assert all(decision.share_rejudged is not None for decision in everything)
        decided = [{j: d.prediction for j, d in r.decisions.items()} for r in found[name].values()]
        wanted = [{j: d.prediction for j, d in r.decisions.items()} for r in rows.values()]
        assert decided == wanted or not judged_alike
        for field in ("linf", "l2"):
            values = [[getattr(r, field) for r in part.values()] for part in (found[name], rows)]
            np.testing.assert_allclose(*values, **ROUNDING)


def check_same_certificates(found, expected):
    """Checks that two evaluations certify the same; radii follow from counted votes.

    Whose number is of what was certified today alone.
    """
    for file in (expected / "certificates").glob("*.jsonl"):
        lines = [formats.read_lines("certificate", path / file.relative_to(expected))
                 for path in (found, expected)]  # fmt: skip
        num_votes = [line.pop("num_votes") for each in lines for line in each]
        assert num_votes == [None, *[100] * (len(lines[0]) - 1), *[None] * len(lines[1])]
        assert lines[0] == lines[1]


# Of the first format, the one before today's, and between them one that judged otherwise.
@pytest.mark.parametrize(
    ("commit", "name"),
    [
        pytest.param(
            *stored, marks=[] if FORMATS[stored[0]] in (1, 3, max(FORMATS.values())) else NIGHTLY
        )
        for stored in STORED
    ],
)
def test_stored_run(commit, name, tmp_path, monkeypatch):
    """It says what it said, of single images and in an evaluation, and is gone on with."""
    shutil.copytree(FIXTURES / commit, tmp_path / commit)
    judged_alike = name not in RANDOM or FORMATS[commit] >= 3
    monkeypatch.chdir(tmp_path / commit)  # one run starts from another beside it
    workdir = pathlib.Path(name)
    if (commit, name) != STORED[0]:  # one report is enough: figures are half of the time
        monkeypatch.setattr(report, "write", lambda *_, **__: None)
    scores = json.loads((workdir / "scores.json").read_text())
    np.testing.assert_allclose(runs.scores(workdir), scores["best"], **ROUNDING)

    ended = evaluation_of(workdir)
    expected = records.read_records(ended)
    if name in EVALUATION_STOPPED:
        stopped = workdir / "stopped"
        evaluate.main(evaluate.Arguments(workdir, out=stopped, runtime=RUNTIME))
        check_same(records.read_records(stopped), expected, judged_alike=judged_alike)
        if FORMATS[commit] == 4:  # what was stored has no passes, what was attacked since has
            last = records.read_records(stopped)["pgd"].values()
            attacked = [record.passes for record in last if record.linf > 0]
            assert None in attacked
            assert attacked[-1] == [4, 3]
        if FORMATS[commit] == 5:  # one whole batch of the last attack was stored, without L1 and L0
            last = list(records.read_records(stopped)["pgd"].values())
            assert all(record.l1 is record.l0 is None for record in last[:20])
            assert all(r.linf <= r.l2 <= r.l1 <= r.l0 * r.linf + 1e-4 for r in last[20:])
        kept = [file.name for file in (stopped / "records").glob("*.format2")]
        assert bool(kept) != judged_alike
        found, said = claims.read(stopped), claims.read(ended)
        if FORMATS[commit] < 3:  # which says how products are computed, and of what data
            assert found["evaluation"].pop("precision") == "highest"
            assert said["evaluation"].pop("precision") == "default"
            found["data"] = None
        assert found == said
        check_same_certificates(stopped, ended)

    # A run that has ended is evaluated again, where it was: under its claim, without its records.
    if ended == workdir:
        shutil.rmtree(workdir / "records")
    train.main(train.Arguments(CONFIGS[name], workdir))
    if name not in STOPPED:
        check_same(records.read_records(workdir), expected, judged_alike=judged_alike)
        return
    assert checkpoints.resumable_step(workdir, CONFIGS[name]) == NUM_STEPS
    np.testing.assert_allclose(runs.scores(workdir, NUM_STEPS), scores["end"], **ROUNDING)
