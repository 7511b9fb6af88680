"""Several evaluations side by side: what is one column, what is one row, what is refused."""

import dataclasses
import json
import shutil
import statistics

import jax
import pytest

from robust_jax import experiment
from robust_jax.attacks import PGD, ThreatModel
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import compare
from robust_jax.evaluation.protocol import Adversary, AttackRun, Evaluation, Selection
from robust_jax.experiment import checkpoints, config
from robust_jax.methods import Standard
from robust_jax.runtime import sharding
from tests import small

METHOD = Standard(network=small.NETWORK)


def attacked(eps):
    run = AttackRun(PGD(ThreatModel("linf", eps), num_steps=1))
    return Evaluation(
        attacks={"pgd": run},
        selection=Selection(num_examples=24),
        batch_size=24,
        measures={},
        sanity=False,
    )


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Two networks under one protocol, and one of them under another eps."""
    root = tmp_path_factory.mktemp("evaluations")
    data = open_data(DataConfig(Digits()))
    made = METHOD.make(data.task)
    init = jax.jit(lambda key: made.init(key=key))
    for name, seed, eps in (("first", 0, 0.05), ("second", 1, 0.05), ("wider", 0, 0.3)):
        cfg = config.Config(name="small", data=data.config, method=METHOD, seed=seed)
        model = checkpoints.Checkpoint(
            cfg, data.task, tuple("0123456789"), 3, {}, init(jax.random.key(seed))
        )
        wanted = dataclasses.replace(attacked(eps), seed=seed)
        out = root / name
        experiment.judge(
            experiment.as_model(model),
            wanted,
            sharding.make_mesh(1),
            data=data,
            out=out,
            progress=False,
        )
    return [root / name for name in ("first", "second", "wider")]


@pytest.mark.slow
def test_seeds_are_one_column_and_other_settings_another_row(directories, tmp_path, capsys):
    runs = [compare.read(directory) for directory in directories]
    columns = compare.columns(runs)
    assert [len(members) for members in columns.values()] == [2, 1]
    assert list(columns) == [f"small ({directories[0]})", f"small ({directories[2]})"]
    rows = list(compare.rows(columns))
    assert [row.name for row in rows] == [
        "clean", "pgd", "worst case, linf eps 0.05", "pgd", "worst case, linf eps 0.3",
    ]  # fmt: skip
    assert [[len(found) for found in row.cells] for row in rows] == [
        [2, 1], [2, 0], [2, 0], [0, 1], [0, 1],
    ]  # fmt: skip
    assert "eps 0.05" in rows[1].what
    assert "eps 0.3" in rows[3].what
    clean = [100 * run.summary["clean_accuracy"] for run in runs[:2]]
    mean, deviation = statistics.mean(clean), statistics.stdev(clean)
    assert compare.cell(rows[0].cells[0]) == f"{mean:.2f} % +- {deviation:.2f}, n = 2"
    compare.compare(directories, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"{mean:.2f} % +- {deviation:.2f}, n = 2" in page
    assert str(directories[1]) in page
    assert "Not the same" not in page
    assert "worst case" in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(directories, tmp_path):
    one, other = (compare.read(directory) for directory in directories[:2])
    fewer = other._replace(
        summary={**other.summary, "num_examples": 7, "budget": "reduced"},
        config=dataclasses.replace(other.config, adversary=Adversary(labels="predicted")),
    )
    assert compare.warnings([one, fewer]) == [
        "Reduced budget: not comparable with any other number.",
        "Not the same images: test first 24; test first 7.",
        "Not the same labels to move away from: true; predicted.",
    ]
    with pytest.raises(ValueError, match="to hold an evaluation that has ended"):
        compare.compare([*directories, tmp_path], tmp_path / "page.html")
    with pytest.raises(ValueError, match="at least one directory"):
        compare.compare([], tmp_path / "page.html")
    with pytest.raises(ValueError, match="once: it would count as another seed"):
        compare.compare([directories[0], directories[0].parent / "first"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    copied = [one, one._replace(directory=tmp_path)]
    assert compare.warnings(copied) == [
        f"One evaluation more than once, no further seed: {directories[0]}, {tmp_path}."
    ]
    two = [run._replace(sources={"near": weights}) for run, weights in ((one, "a"), (other, "b"))]
    assert compare.warnings(two) == ["Not the same source 'near' of transferred examples."]


def test_judges_of_other_settings_are_other_rows(directories):
    one, other = (compare.read(directory) for directory in directories[:2])
    ((name, judge),) = other.config.judges.items()
    config = dataclasses.replace(
        other.config, judges={name: dataclasses.replace(judge, rule="paper")}
    )
    alone = {row.judge for row in compare.rows(compare.columns([one]))}
    both = list(compare.rows(compare.columns([one, other._replace(config=config, identity="")])))
    assert alone == {name}
    assert {row.judge for row in both} == {
        f"{name}, rule honest", f"{name}, rule paper"
    }  # fmt: skip
    assert all(sorted(map(len, row.cells)) == [0, 1] for row in both)
    drawn = dataclasses.replace(
        other.config, judges={name: dataclasses.replace(judge, num_draws=7)}
    )
    more = other._replace(config=drawn, identity="")
    assert {row.judge for row in compare.rows(compare.columns([one, more]))} == {name}
    assert compare.warnings([one, more]) == [
        f"Not the same draws of judge {name!r}: {judge.num_draws}, 7."
    ]


def test_another_model_in_the_same_directory_is_refused(directories):
    """Records are those of one set of weights, whatever its name and step."""
    found = json.loads((directories[0] / "evaluation.json").read_text())
    data = open_data(DataConfig(Digits()))
    made = METHOD.make(data.task)
    cfg = config.Config(name="small", data=data.config, method=METHOD)
    variables = jax.jit(lambda key: made.init(key=key))(jax.random.key(5))
    model = checkpoints.Checkpoint(cfg, data.task, tuple("0123456789"), 3, {}, variables)
    with pytest.raises(ValueError, match=rf"\.weights: '{found['weights']}' != "):
        experiment.judge(
            experiment.as_model(model), attacked(0.05), sharding.make_mesh(1),
            data=data, out=directories[0], progress=False,
        )  # fmt: skip


def test_what_counts_is_told_apart(directories):
    one, other = (compare.read(directory) for directory in directories[:2])
    judges = {
        name: {**found, "counts": "attacked"} for name, found in other.summary["judges"].items()
    }
    other = other._replace(summary={**other.summary, "judges": judges})
    for name in ("pgd", "worst case, linf eps 0.05"):
        rows = [row for row in compare.rows(compare.columns([one, other])) if row.name == name]
        assert [len(found) for row in rows for found in row.cells] == [1, 1]
        assert rows[1].what.endswith("right after the attack")


def test_other_images_are_another_column(directories, tmp_path):
    shutil.copytree(directories[1], tmp_path / "other")
    file = tmp_path / "other" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": "0123456789"}))
    runs = [compare.read(directory) for directory in (directories[0], tmp_path / "other")]
    assert len(compare.columns(runs)) == 2
    assert compare.warnings(runs) == [f"Not the same data: {str(runs[0].data)[:8]}; 01234567."]
    # Drawn at random they are those of the seed; chosen for being right they are the model's.
    seeds = [compare.read(directory) for directory in directories[:2]]
    for rule, line in (
        ("random", "Not the same images: test random 24 seed 0; test random 24 seed 1."),
        ("correct", "Images chosen for being right: each evaluation has its own."),
    ):
        chosen = [
            one._replace(
                config=dataclasses.replace(
                    one.config, selection=dataclasses.replace(one.config.selection, rule=rule)
                )
            )
            for one in seeds
        ]
        assert compare.warnings(chosen) == [line]


def test_certificates_of_an_earlier_format_are_no_hindrance(directories, tmp_path):
    shutil.copytree(directories[0], tmp_path / "earlier")
    file = tmp_path / "earlier" / "evaluation.json"
    claim = json.loads(file.read_text()) | {"format": 2}
    margins = {"type": "Margins", "eps": 0.1, "bound": "crown"}
    claim["evaluation"]["certificates"] = {"margins": margins}
    for later in ("selection", "adversary", "measures", "precision"):
        del claim["evaluation"][later]
    file.write_text(json.dumps(claim))
    assert compare.read(tmp_path / "earlier").config.certificates == {}
