"""The report: one page that needs nothing beside it and says what the records say."""

import dataclasses
import html.parser
import json
import re
import sys

import jax
import numpy as np
import pytest

from robust_jax import experiment
from robust_jax.attacks import PGD, Square, ThreatModel
from robust_jax.certify import Certificate, Margins, Smoothing
from robust_jax.data import DataConfig, Digits, open_data
from robust_jax.evaluation import certification
from robust_jax.evaluation.measures import Agreement, Embedding, LayerSimilarity, PrintedNumbers
from robust_jax.evaluation.protocol import (
    Adversary,
    AttackRun,
    Evaluation,
    Judge,
    Printed,
    Selection,
    side_by_side,
)
from robust_jax.evaluation.reductions import beside_the_paper
from robust_jax.evaluation.report.tables import papers_table
from robust_jax.evaluation.report.terminal import printed_cell
from robust_jax.experiment import checkpoints, config
from robust_jax.methods import KAP, Standard
from robust_jax.models import EnsembleConfig
from robust_jax.runtime import sharding
from tests import small
from tests.evaluation.report.browser import assert_fits, assert_prints, needs_a_browser


class Page(html.parser.HTMLParser):
    """What a reader sees: headings, words, and where pictures come from."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.words, self.sources = [], [], "", []
        self.silent = []  # pictures without a text alternative
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "source"):
            self.open.append(tag)
        if tag == "img" and not dict(attrs).get("alt"):
            self.silent.append(tag)
        self.sources += [value[:22] for name, value in attrs if name in ("src", "srcset")]
        links = [value for name, value in attrs if name == "href"]
        assert all(link.startswith("#") for link in links)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


def report(directory, data, method_config, wanted, class_names=tuple(map(str, range(10)))):
    method = method_config.make(data.task)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    made_by = config.Config(name="<small> & co", data=data.config, method=method_config)
    checkpoint = checkpoints.Checkpoint(made_by, data.task, class_names, 3, {}, variables)
    mesh = sharding.make_mesh(1)
    experiment.judge(
        experiment.as_model(checkpoint), wanted, mesh, data=data, out=directory, progress=False
    )
    return Page((directory / "report.html").read_text()), json.loads(
        (directory / "summary.json").read_text()
    )


@pytest.mark.slow
def test_everything_is_on_the_page(tmp_path, data, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mine.py", "--seed", "a b"])
    threats = [ThreatModel("linf", eps) for eps in (0.05, 0.1)]
    wanted = Evaluation(
        attacks={
            **{f"pgd {t.eps}": AttackRun(PGD(t, num_steps=3), view="noise_off") for t in threats},
            "square": AttackRun(Square(threats[1], num_queries=5), adaptive=True),
        },
        judges=side_by_side(Judge(view="noise_off", rule="paper"), Judge(num_draws=2)),
        certificates={"sigma 0.5": Smoothing(0.5, num_selection=8, num_samples=64)},
        num_certified=5,
        selection=Selection(num_examples=50),
        batch_size=48,
        budget="reduced",
        printed=Printed(
            "table 9",
            {"<small> & co": {"clean": 12.34, "pgd 0.05": 56.78}, "another": {"square": 9.87}},
            cited=("another",),
            of="given_clean_correct",
            judge="honest",
        ),
    )
    page, summary = report(tmp_path, data, KAP(network=small.NETWORK, sigma=0.2), wanted)
    assert page.headings == [
        "Can these numbers be trusted?", "Accuracy", "The checks, one by one",
        "Accuracy over eps", "Certified accuracy", "Images and their adversarial twins",
        "Which classes are taken for which", "Inside the network", "Other columns, and time",
        "Once more",
    ]  # fmt: skip
    assert "At the reduced budget, of 50 images," in page.words
    assert set(page.sources) == {"data:image/png;base64,"}
    assert page.silent == []
    assert "<small> & co" in page.words
    assert "Reduced budget" in page.words
    for judge in summary["judges"].values():
        for value in [judge["clean_accuracy"], *judge["robust_accuracy"].values()]:
            assert f"{100 * value:.2f} %" in page.words
    ours = summary["judges"]["honest"]["given_clean_correct"]["pgd 0.05"]
    counted = "-" if ours is None else f"{100 * ours:.2f} %"
    for words in ("printed, table 9", "12.34 %", "anothercited from others"):
        assert words in page.words.replace(" cited", "cited")
    assert f"56.78 % of those right clean (ours: {counted})" in page.words
    for finding in summary["sanity"]:
        assert finding["text"] in page.words
    assert summary["certificates"]["sigma 0.5"]["num_images"] == 5
    assert summary["certificates"]["sigma 0.5"]["what"] in page.words
    assert "64 of 64" in page.words
    assert any(f["check"] == "certified images stand (sigma 0.5)" for f in summary["sanity"])
    assert summary["environment"]["precision"] == "highest"
    assert summary["environment"]["data"]["num_examples"] == len(data.test)
    assert len(summary["environment"]["data"]["fingerprint"]) == 12
    assert "python mine.py --seed 'a b'" in page.words
    assert "http" not in re.sub(r"base64,[^\"]*", "", (tmp_path / "report.html").read_text())
    needs_a_browser()
    for width in (1200, 480):
        assert_fits(tmp_path / "report.html", width)
    assert_prints(tmp_path / "report.html")


@pytest.mark.slow
def test_members_and_nothing_attacked(tmp_path, data):
    ensemble = Standard(network=EnsembleConfig(small.NETWORK, 2))
    page, summary = report(
        tmp_path, data, ensemble, Evaluation(selection=Selection(num_examples=8), batch_size=8)
    )
    assert "Members of the ensemble" in page.headings
    assert "Accuracy over eps" not in page.headings
    assert summary["worst_case_accuracy"] == {}


@pytest.mark.slow
def test_named_measures_and_no_others(tmp_path, data, capsys):
    printed = PrintedNumbers("table 5", {"<small> & co": {"entropy.mean": 0.125}})
    agreement = Agreement(num_examples=None, printed=printed)
    wanted = Evaluation(
        measures={"entropy": agreement}, selection=Selection(num_examples=12), batch_size=8
    )
    ensemble = Standard(network=EnsembleConfig(small.NETWORK, 2))
    page, summary = report(tmp_path / "named", data, ensemble, wanted)
    assert summary["measures"].keys() == {"entropy"}
    ours = summary["measures"]["entropy"]["entropy"]["mean"]
    beside = {"entropy.mean": {"paper": 0.125, "ours": ours}}
    assert summary["measures"]["entropy"]["printed"] == {"table": "table 5", "rows": beside}
    assert "printed, table 5: 0.125" in page.words
    line = f"entropy, entropy.mean: {ours:.4g} (printed, table 5: 0.125)"
    assert line in capsys.readouterr().out
    assert len(summary["measures"]["entropy"]["accuracy"]) == 2
    assert "interrater agreement" in page.words
    assert "Inside the network" not in page.headings
    # Refused before anything is written.
    with pytest.raises(ValueError, match="measures='entropy' of a model with two members"):
        report(tmp_path / "single", data, Standard(network=small.NETWORK), wanted)
    assert not (tmp_path / "single").exists()
    # Fewer images than it needs are known before, too.
    wanted = dataclasses.replace(wanted, measures={"t-SNE": Embedding()})
    with pytest.raises(ValueError, match=r"measures='t-SNE' .* 40 images \(it is given 12\)"):
        report(tmp_path / "few", data, ensemble, wanted)
    wanted = dataclasses.replace(wanted, measures={"entropy": Agreement(num_examples=None)})
    smaller = dataclasses.replace(wanted, selection=Selection()).reduced().measures
    assert smaller == {"entropy": Agreement(num_examples=64)}


@pytest.mark.slow
def test_a_number_that_is_none(tmp_path, data):
    """Without bias a similarity takes four images; JSON has no number for that of two."""
    ensemble = Standard(network=EnsembleConfig(small.NETWORK, 2))
    two = Evaluation(
        measures={"cka": LayerSimilarity(num_examples=2)},
        selection=Selection(num_examples=12),
        batch_size=8,
    )
    found = report(tmp_path, data, ensemble, two)[1]["measures"]["cka"]["debiased"]
    assert set(found["1 and 2"].values()) == {None}


@pytest.mark.slow
def test_nothing_to_show_and_no_class_names(tmp_path, data):
    """One image, wrong already, is not attacked; an imported network may not name its classes."""
    method = Standard(network=small.NETWORK)
    wanted = Evaluation(
        attacks={"pgd": AttackRun(PGD(ThreatModel("linf", 0.1), num_steps=1))},
        measures={}, selection=Selection(num_examples=1), batch_size=8, sanity=False,
    )  # fmt: skip
    page, summary = report(tmp_path / "one", data, method, wanted, class_names=())
    assert summary["num_examples"] == 1
    assert "Images and their adversarial twins" not in page.headings
    wanted = dataclasses.replace(
        wanted, selection=Selection(num_examples=8), adversary=Adversary(skip_misclassified=False)
    )
    page, _ = report(tmp_path / "eight", data, method, wanted, class_names=())
    assert "Images and their adversarial twins" in page.headings
    wanted = dataclasses.replace(
        wanted, selection=Selection(rule="correct", num_examples=2), batch_size=128
    )
    page, summary = report(tmp_path / "right", data, method, wanted)
    assert summary["clean_accuracy"] == 1
    assert summary["candidates"]["num_examples"] == len(data.test)
    share = summary["candidates"]["clean_accuracy"]
    assert 0 < share < 1
    assert f"correct, of {len(data.test)} of which {100 * share:.2f} % are right" in page.words


@pytest.mark.slow
def test_certificates_go_on_where_they_were_stopped(tmp_path, data):
    method = Standard(network=small.NETWORK).make(data.task)
    variables = jax.jit(lambda key: method.init(key=key))(jax.random.key(0))
    smoothing = Smoothing(0.3, num_selection=16, num_samples=100, batch_size=64)
    rows = np.asarray([3, 5, 8, 13], np.int32)

    def run(directory, num_devices=1):
        mesh = sharding.make_mesh(num_devices)
        placed = jax.device_put(variables, sharding.replicated(mesh))
        return certification.certify(
            {"a": smoothing}, method, placed, data.test, rows, mesh,
            precision="highest", seed=0, directory=directory,
        )["a"]  # fmt: skip

    expected, labels = run(tmp_path / "whole")
    assert labels.tolist() == data.test.arrays[1][rows].tolist()
    assert expected.radius.max() > 0
    assert expected.num_votes.tolist() == [100] * 4
    again, _ = run(tmp_path / "devices", num_devices=4)
    assert again.label.tolist() == expected.label.tolist()
    file = tmp_path / "whole" / "certificates" / "a.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[1] + lines[2][:7])
    resumed, _ = run(tmp_path / "whole")
    assert resumed.radius.tolist() == expected.radius.tolist()
    assert resumed.num_votes.tolist() == [100] * 4
    assert file.read_text().splitlines(keepends=True) == lines
    file.write_text(lines[1] + lines[0])
    with pytest.raises(ValueError, match="to hold this evaluation's images in order"):
        run(tmp_path / "whole")


def test_numbers_of_certificates():
    """With intervals, and the votes beside the most: of bounds, and of one image, there is less."""
    certificate = Certificate(
        np.asarray([1, 0, -1]), np.asarray([0.6, 0.3, 0.0]), num_votes=np.asarray([100, 300, 200])
    )
    smoothing, labels = Smoothing(0.25, radius=0.3, noise="rounded"), np.asarray([1, 1, 1])
    found = certification.summarize(smoothing, certificate, labels)
    assert found["what"] == (
        "majority under noise of sigma 0.25 rounded to 1/255, l2, votes until decided at radius 0.3"
    )
    assert found["certified_accuracy"] == found["abstained"] == 1 / 3
    assert found["intervals"]["certified_accuracy"] == pytest.approx([0.0615, 0.7923], abs=1e-4)
    assert found["intervals"]["average_certified_radius"] == pytest.approx([0, 1.0605], abs=1e-4)
    assert (found["num_votes"], found["most_votes"]) == (200, 100_000)
    json.dumps(found)
    margins = Certificate(certificate.label[:1], certificate.radius[:1], np.asarray([0.1]))
    found = certification.summarize(Margins(0.1), margins, labels[:1])
    assert found["intervals"]["average_certified_radius"] is None
    assert found["num_votes"] is found["most_votes"] is None


def test_reduced_budget_reaches_certificates():
    found = Evaluation(certificates={"a": Smoothing(0.5)}).reduced()
    assert found.certificates == {"a": dataclasses.replace(Smoothing(0.5), num_samples=1000)}
    assert found.num_certified == 64


@pytest.mark.parametrize(
    ("of", "ours"), [("accuracy", 0.5), ("given_clean_correct", 0.6), ("successes", 0.7)]
)
def test_our_number_is_counted_as_the_paper_counts(of, ours):
    judge = {
        "clean_accuracy": 0.9,
        "robust_accuracy": {"a": 0.5},
        "worst_of": {},
        "given_clean_correct": {"a": 0.6},
        "successes": {"a": {"count": 10, "accuracy": 0.7}},
        "top5_accuracy": {"clean": 0.95, "a": None},
    }
    rows = {"mine": {"clean": 80.0, "a": 40.0}, "cited": {"clean": 70.0}}
    five = {"mine": {"clean": 93.0, "a": 65.0}, "cited": {"a": 51.0}}
    printed = Printed("table 1", rows, ("cited",), of=of, top5=five)
    Evaluation(attacks={"a": AttackRun(PGD(ThreatModel("linf", 0.1)))}, printed=printed)
    found = beside_the_paper({"judges": {"accuracy": judge}}, printed, "mine")
    assert found["rows"] == {
        "clean": {"paper": 0.8, "ours": 0.9}, "a": {"paper": 0.4, "ours": ours}
    }  # fmt: skip
    assert found["top5"] == {
        "clean": {"paper": 0.93, "ours": 0.95}, "a": {"paper": 0.65, "ours": None}
    }  # fmt: skip
    assert printed_cell(found, "clean") == "80.00 %, 93.00 % top 5 (ours: 95.00 %)"
    assert printed_cell(found, "a").endswith("65.00 % top 5 (ours: -)")
    assert printed_cell({**found, "rows": {}}, "a") == "65.00 % top 5 (ours: -)"
    page = papers_table(printed)
    assert all(f">{name}, top 5</th>" in page for name in ("clean", "a"))
    assert all(f"{number:.2f} %" in page for one in (rows, five) for row in one.values()
               for number in row.values())  # fmt: skip
    assert beside_the_paper({"judges": {"accuracy": judge}}, printed, "other") is None
    with pytest.raises(ValueError, match="to name rows and a judge"):
        Evaluation(printed=printed)
