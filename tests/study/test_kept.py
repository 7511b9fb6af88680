"""What the repository keeps of a study says what its tables say."""

import dataclasses
import json

import chex
import pytest

from robust_jax import evaluation
from robust_jax.data import open_data
from robust_jax.evaluation import reductions
from robust_jax.evaluation.harness import read_evaluated
from robust_jax.evaluation.protocol import Selection
from robust_jax.experiment import as_model, config
from robust_jax.experiment.checkpoints import load
from robust_jax.runtime.sharding import make_mesh
from robust_jax.study import kept, page, run, table

SPECS = ("configs/studies/mnist.py",)


def assert_same(found, expected):
    """As JSON has both; from 3.12 on Python's sum carries what it rounds: the last bit differs."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12)
    else:
        assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_tables_are_recomputed_from_the_records(spec, repository, tmp_path):
    folder = repository / "docs" / "studies" / spec.split("/")[-1].removesuffix(".py")
    kept.restore(folder, tmp_path)
    study = run.load(spec)
    tasks = table.found(study, tmp_path)
    assert len(tasks) == len(list(folder.glob("*.tar.xz"))) > 0
    for task in tasks:
        assert run.is_done(spec, task, tmp_path, "full"), f"{task}: of an earlier evaluation"
        directory = task.workdir(tmp_path)
        stored = json.loads((directory / "summary.json").read_text())
        wanted = config.load(f"{spec}:{task.name}").evaluation
        again = reductions.summarize(read_evaluated(directory, wanted), wanted)
        for number in ("judges", "clean_accuracy", "worst_case_accuracy", "passes", "distances"):
            assert_same(json.loads(json.dumps(again[number])), stored[number])
        for name, said in stored["certificates"].items():
            lines = (directory / "certificates" / f"{name}.jsonl").read_text().splitlines()
            proven = [line["certified"] == line["label"] for line in map(json.loads, lines)]
            assert sum(proven) / len(proven) == said["certified_accuracy"]
    assert (
        page.markdown(study, table.read(study, tasks, tmp_path))
        == (folder / "study.md").read_text()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_a_row_is_repeated(repository, tfds_dir, tmp_path):
    """Its kept checkpoint, attacked again as the study did, stands and falls on the same images."""
    (spec,), row, number = SPECS, "plain", 12
    folder = repository / "docs" / "studies" / "mnist"
    kept.restore(folder, tmp_path)
    checkpoint = load(folder / f"{row}-seed0.safetensors", make_mesh(1))
    wanted = config.load(f"{spec}:{row}").evaluation
    whole = read_evaluated(run.Task(row, 0, None).workdir(tmp_path), wanted)
    data = open_data(config.with_data_dir(checkpoint.config.data, str(tfds_dir)))
    few = dataclasses.replace(
        wanted, selection=Selection(num_examples=number), batch_size=number, certificates={},
        sanity=False, measures={},
    )  # fmt: skip
    found = evaluation.run(as_model(checkpoint), data.test, few, mesh=make_mesh(1)).records
    assert found.keys() == whole.keys()
    for name, records in found.items():
        assert len(records) == number
        for index, record in records.items():
            expected = whole[name][index]
            assert record.label == expected.label
            for judge, decision in record.decisions.items():
                assert decision.correct == expected.decisions[judge].correct, (name, index, judge)


def test_kept_rows_are_put_where_a_study_has_them(tmp_path):
    """What is kept twice is the same, to the byte; and nothing is overwritten."""
    out, task = tmp_path / "out", run.Task("plain", 1, None)
    directory = task.workdir(out)
    (directory / "records").mkdir(parents=True)
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "large").write_text("left out")
    (directory / "records" / "clean.jsonl").write_text("{}\n")
    summary = {"format": 7, "command": "python /home/me/train.py", "judges": {}}
    (directory / "summary.json").write_text(json.dumps(summary))
    kept.keep("mine.py", [task, run.Task("missing", 0, None)], out, tmp_path / "kept")
    (written,) = (tmp_path / "kept").iterdir()
    first = written.read_bytes()
    kept.keep("mine.py", [task], out, tmp_path / "kept")
    assert written.read_bytes() == first
    (tmp_path / "kept" / "gone-seed0.tar.xz").write_text("of a row that has left the study")
    kept.keep("mine.py", [task], out, tmp_path / "kept", rows=["plain", "missing"])
    assert list((tmp_path / "kept").iterdir()) == [written]
    kept.restore(tmp_path / "kept", tmp_path / "again")
    again = task.workdir(tmp_path / "again")
    assert {path.name for path in again.rglob("*")} == {"summary.json", "records", "clean.jsonl"}
    assert run.checkpoint_of(again) is None
    found = json.loads((again / "summary.json").read_text())
    assert found["command"] == "python -m robust_jax.study mine.py --only plain --seeds 1"
    kept.restore(tmp_path / "kept", tmp_path / "again")  # the same
    (again / "records" / "clean.jsonl").write_text("other\n")
    kept.restore(tmp_path / "kept", tmp_path / "again")  # it is done: whoever judged it
    assert (again / "records" / "clean.jsonl").read_text() == "other\n"
    (again / "summary.json").unlink()
    with pytest.raises(FileExistsError, match=r"another 'plain/seed1/records/clean\.jsonl'"):
        kept.restore(tmp_path / "kept", tmp_path / "again")
    assert not (again / "summary.json").exists()  # all or nothing


@pytest.mark.slow
def test_rows_start_from_a_checkpoint_that_was_kept(repository, tmp_path):
    """And it is kept again as it was, though the run's own checkpoints are gone."""
    folder = repository / "docs" / "studies" / "mnist"
    kept.restore(folder, tmp_path)
    plain, fitted = run.Task("plain", 0, None), run.Task("regroup", 0, "plain")
    file = fitted.before(tmp_path)
    assert file is not None
    assert file == plain.workdir(tmp_path) / "best.safetensors" == fitted.source(tmp_path, "plain")
    assert load(file, make_mesh(1)).config.name == "mnist-plain"
    kept.keep(SPECS[0], [plain], tmp_path, tmp_path / "kept", checkpoints=["plain"])
    models = [load(place / "plain-seed0.safetensors", make_mesh(1)).variables
              for place in (folder, tmp_path / "kept")]  # fmt: skip
    chex.assert_trees_all_equal(*models)
    assert kept.archive(tmp_path / "kept", plain).is_file()
    (plain.workdir(tmp_path) / "best.safetensors").unlink()
    kept.keep(SPECS[0], [plain], tmp_path, tmp_path / "kept", checkpoints=["plain"])
    assert not (tmp_path / "kept" / "plain-seed0.safetensors").exists()  # of whatever training


@pytest.mark.slow
def test_half_a_restore_is_mended(repository, tmp_path, monkeypatch):
    folder = repository / "docs" / "studies" / "mnist"
    with pytest.raises(ValueError, match="ROW-seedN"):
        kept.restore(tmp_path, tmp_path / "out")
    written, replacing = [], kept.formats.replacing

    def stops(place):
        written.append(place)
        if len(written) == 40:
            raise OSError("no space is left")
        return replacing(place)

    monkeypatch.setattr(kept.formats, "replacing", stops)
    with pytest.raises(OSError, match="no space"):
        kept.restore(folder, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("summary.json"))
    kept.restore(folder, tmp_path / "out")
    kept.restore(folder, tmp_path / "again")
    both = [{path.relative_to(place): path.read_bytes() for path in place.rglob("*.json*")}
            for place in (tmp_path / "out", tmp_path / "again")]  # fmt: skip
    assert both[0] == both[1]
