"""Whatever a kill or a full disk leaves of a run's files is gone on from, or named in one line."""

import dataclasses
import json
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from robust_jax import formats
from robust_jax.commands import evaluate, train
from robust_jax.evaluation import certification, claims, compare, records, report
from robust_jax.evaluation.protocol import Selection
from robust_jax.experiment import checkpoints
from robust_jax.experiment.state import restore_optimizer
from robust_jax.runtime import logging, sharding
from tests.fixtures.runs import CONFIGS, NUM_STEPS

STORED = pathlib.Path(__file__).parent / "fixtures" / "c6714d0" / "kap"
CONFIG = CONFIGS["kap"]
NUM_CUTS = 200
CHECKPOINTS = shutil.ignore_patterns("checkpoints")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as today's package stores it: checkpoints, and an evaluation with certificates."""
    path, mesh = tmp_path_factory.mktemp("cuts") / "kap", sharding.make_mesh(1)
    shutil.copytree(STORED, path)
    found = checkpoints.load(path, mesh)
    shutil.rmtree(path / "checkpoints")
    with checkpoints.open_manager(path, best_by="accuracy") as manager:
        for step, accuracy in ((NUM_STEPS - 1, 0.9), (NUM_STEPS, 0.5)):
            checkpoints.save(
                manager, step,
                model=found.variables, optimizer={"trace": found.variables["params"]},
                config=CONFIG, task=found.task, class_names=found.class_names,
                metrics={"accuracy": accuracy},
            )  # fmt: skip
    summary = (path / "summary.json").read_bytes()
    claims.claim(path, {**claims.read(path), "data": "abc"})
    formats.write(path / "summary.json", formats.current("summary", json.loads(summary), name=""))
    for file in (path / "records").glob("*.jsonl"):
        rows = list(records.resume(file, np.arange(48), 20).values())
        records.save_shown(file, rows, np.full((8, 8, 8, 1), 0.5, np.float32))
    return path


def resumed(path):
    return {
        file.stem: list(records.resume(file, np.arange(48), 20).items())
        for file in sorted((path / "records").glob("*.jsonl"))
    }


def shown(path):
    names = [file.stem for file in sorted((path / "records").glob("*.jsonl"))]
    return {name: records.read_shown(path, name)[0].tolist() for name in names}


def certified(path):
    rows = np.arange(CONFIG.evaluation.num_certified)
    return certification.lines_of_first(path / "certificates" / "smoothing.jsonl", rows)


def logged(path):
    """Returns the lines that a run which goes on keeps."""
    with logging.MetricWriter(path, start=NUM_STEPS) as writer:
        writer.write(NUM_STEPS + 1, {"loss": 1.0})
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines.pop()) == {"step": NUM_STEPS + 1, "loss": 1.0}
    return [json.loads(line) for line in lines]


def claimed(path):
    claims.claim(path, {**claims.read(STORED), "data": "abc"})
    return claims.read(path)


def loaded(path):
    return checkpoints.fingerprint(checkpoints.load(path, sharding.make_mesh(1)).variables)


def resumable(path):
    return checkpoints.resumable_step(path, CONFIG)


def restored(path):
    """Returns what a run goes on with, of its own files alone."""
    with checkpoints.open_manager(path, best_by="accuracy") as manager:
        steps = list(manager.all_steps())
        where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        found = checkpoints.load(path, sharding.make_mesh(1), step=NUM_STEPS).variables["params"]
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), found
        )
        state = restore_optimizer(manager, NUM_STEPS, {"trace": shapes})
    return steps, checkpoints.fingerprint(state)


READERS = {
    "records": [records.read_records, resumed, shown, claimed],
    "certificates": [certified, claimed],
    "seconds.jsonl": [records.seconds_by_attack],
    "summary.json": [compare.read],
    "evaluation.json": [claims.read, compare.read, claimed],
    "metrics.jsonl": [logged],
    "checkpoints": [loaded, resumable, checkpoints.kept_metrics, restored],
}
"""By what lies in a run's directory, who reads it."""
MADE_ANEW = (resumed, shown, certified, logged, records.seconds_by_attack, records.read_records)
"""Whose answer may be a part of the whole: of the first lines, or of the whole ones."""


def cut(file, chance):
    """Does to a file what a kill, a full disk or a loss of power does; returns what it was."""
    found = file.read_bytes()
    how = chance.choice(["cut short", "zeros at the end", "zeros within", "removed", "beside"])
    at = chance.randrange(len(found) + 1)
    if how == "cut short":
        file.write_bytes(found[:at])
    elif how == "zeros at the end":
        file.write_bytes(found[:at] + bytes(len(found) - at))
    elif how == "zeros within":
        length = min(chance.choice([1, 64]), len(found) - at)
        file.write_bytes(found[:at] + bytes(length) + found[at + length :])
    elif how == "removed":
        file.unlink()
    elif "checkpoints" in file.parts:  # a save that was never renamed
        root = next(folder for folder in file.parents if folder.name == "checkpoints")
        step = root / f"{NUM_STEPS + 1}.orbax-checkpoint-tmp-1"
        step.mkdir()
        (step / file.name).write_bytes(found[:at])
    else:
        file.with_name(file.name + ".partial").write_bytes(found[:at])
    return how


def is_part(found, whole):
    """Returns whether an answer has nothing that the whole one has not."""
    if isinstance(whole, dict):
        return all(key in whole and is_part(value, whole[key]) for key, value in found.items())
    if isinstance(whole, list):
        return all(value in whole for value in found)
    return found == whole or (isinstance(whole, float) and found <= whole)


def check_cuts(run, path, kind, numbers):
    chance = random.Random(f"{kind} {numbers}")
    others = shutil.ignore_patterns() if kind == "checkpoints" else CHECKPOINTS

    def answer(read, damage=lambda: None):
        shutil.copytree(run, path, ignore=others)
        try:
            damage()
            return read(path)
        finally:
            shutil.rmtree(path)

    whole = {read: answer(read) for read in READERS[kind]}
    place = run / kind
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    for number in numbers:
        chosen, seed = chance.choice(files).relative_to(run), f"{kind} {number}"
        how = []
        for read in READERS[kind]:
            try:
                found = answer(
                    read,
                    lambda: how.append(cut(path / chosen, random.Random(seed))),  # noqa: B023
                )
            except (ValueError, OSError) as error:
                named = str(path) in str(error) and "\n" not in str(error)
                if not named or how[-1] == "beside":
                    raise AssertionError(f"{read.__name__} after {how[-1]}, {chosen}") from error
            else:
                same = is_part(found, whole[read]) if read in MADE_ANEW else found == whole[read]
                assert same, (chosen, how, read)


KINDS = [kind for kind in READERS if kind != "checkpoints"]
NUM_QUICK, NUM_EACH = 8, 28
SMALLER = dataclasses.replace(
    CONFIG.evaluation, selection=Selection(num_examples=20), batch_size=10, certificates={}
)
PROTOCOL = """
import sys
sys.path.insert(0, {repository!r})
VARIANTS = ("default",)
def get_config(variant):
    from tests.test_cuts import SMALLER
    return SMALLER
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_cut_files(run, tmp_path, kind):
    check_cuts(run, tmp_path / "kap", kind, range(NUM_QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_cut_files(run, tmp_path, kind):
    check_cuts(run, tmp_path / "kap", kind, range(NUM_QUICK, NUM_EACH))


@pytest.mark.slow
@pytest.mark.usefixtures("torn_reads")
def test_commands_go_on_or_say_it(tmp_path, monkeypatch, capsys, repository):
    """The commands on what is cut: the same numbers in the end, or one line that names the file."""
    cfg = dataclasses.replace(CONFIG, evaluation=SMALLER)
    whole, path = tmp_path / "whole", tmp_path / "kap"
    shutil.copytree(STORED, path)
    shutil.rmtree(path / "records")
    (path / "evaluation.json").unlink()
    monkeypatch.setattr(report, "write", lambda *_, **__: None)
    train.main(train.Arguments(cfg, path))
    path.rename(whole)
    expected = json.loads((whole / "summary.json").read_text())["judges"]
    kinds = ["seconds.jsonl", "evaluation.json", "summary.json", "metrics.jsonl",
             *sorted(str(p.relative_to(whole)) for p in (whole / "records").iterdir())]  # fmt: skip
    protocol = tmp_path / "protocol.py"
    protocol.write_text(PROTOCOL.format(repository=str(repository)))
    anew = evaluate.Arguments(path, config=str(protocol), out=path, runtime=CONFIG.runtime)
    commands = [lambda: train.main(train.Arguments(cfg, path)), lambda: evaluate.main(anew)]
    chance = random.Random(0)
    for number, file in enumerate([*chance.sample(kinds, 8), "checkpoints", "checkpoints"]):
        shutil.copytree(whole, path)
        files = [p for p in (path / file).rglob("*") if p.is_file()] or [path / file]
        how = cut(chance.choice(sorted(files)), random.Random(number))
        try:
            commands[number % 2]()
        except (ValueError, OSError) as error:
            if str(path) not in str(error) or "\n" in str(error):
                raise AssertionError(f"{how}, {file}") from error
        else:
            assert json.loads((path / "summary.json").read_text())["judges"] == expected, file
        shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.usefixtures("torn_reads")
def test_cut_checkpoints(run, tmp_path):
    check_cuts(run, tmp_path / "kap", "checkpoints", range(NUM_CUTS - NUM_EACH * len(KINDS)))
