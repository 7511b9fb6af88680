"""A file of records is of what stands beside it: asking for more keeps it, all else is refused."""

import copy
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from robust_jax import formats, serialization
from robust_jax.attacks import FGSM
from robust_jax.certify import Smoothing
from robust_jax.data import DataConfig, Digits, fingerprint, open_data
from robust_jax.evaluation import claims, records, reductions
from robust_jax.evaluation.protocol import AttackRun, Evaluation, Selection
from tests.fixtures.runs import CONFIGS, THREAT

STORED = pathlib.Path(__file__).parent.parent / "fixtures" / "c6714d0" / "kap"


@pytest.fixture
def kap(tmp_path):
    """An evaluation of an earlier format, claimed by today's package."""
    shutil.copytree(STORED, tmp_path / "kap")
    claims.claim(tmp_path / "kap", described())
    return tmp_path / "kap"


def described(**fields):
    """Returns what evaluates the run, its evaluation's fields replaced."""
    wanted = dataclasses.replace(CONFIGS["kap"].evaluation, **{"measures": None, **fields})
    found = claims.read(STORED)
    return {**found, "data": "abc", "evaluation": serialization.to_json(wanted)}


def refused(directory, description, message):
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    with pytest.raises(ValueError) as error:
        claims.claim(directory, description)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


ATTACKS = CONFIGS["kap"].evaluation.attacks
LATE = {"late": AttackRun(FGSM(THREAT), adaptive=True)}
FURTHER = {
    "attacks": {**ATTACKS, **LATE},
    "certificates": {**CONFIGS["kap"].evaluation.certificates, "more": Smoothing(0.5)},
    "worst_of": {"any": ("pgd",)},
    "others": (),
    "measures": {},
    "num_certified": 9,
    "sanity": True,
    "printed": None,
}


FIELDS = serialization.to_json(Evaluation())
GROUPS = ("selection", "adversary")
LEAVES = [(name, None) for name in FIELDS if name not in ("type", *GROUPS)]
LEAVES += [(group, name) for group in GROUPS for name in FIELDS[group] if name != "type"]


@pytest.mark.quick_one_in(6)
@pytest.mark.parametrize(("field", "part"), LEAVES)
def test_every_field_but_those_that_ask_for_more_is_held_against_each_file(kap, field, part):
    kept = {file: file.read_bytes() for file in kap.rglob("*.jsonl")}
    if field == "precision":  # on a CPU all are the same
        claims.claim(kap, described(precision="default"))
    elif field in FURTHER:
        wanted = described(**{field: FURTHER[field]})
        claims.claim(kap, wanted)
        assert claims.read(kap) == wanted
        assert (kap / "summary.json").exists() == (wanted == described())
        claims.claim(kap, described())  # and back
    else:
        wanted = described()
        judges = wanted["evaluation"]["judges"]
        changed = {**judges, "x": judges["paper"]} if field == "judges" else "x"
        holder = wanted["evaluation"] if part is None else wanted["evaluation"][field]
        holder[part or field] = changed
        refused(kap, wanted, f".evaluation.{field}{'' if part is None else f'.{part}'}")
    assert {file: file.read_bytes() for file in kap.rglob("*.jsonl")} == kept


RUN = serialization.to_json(ATTACKS["pgd"])


@pytest.mark.quick_one_in(3)
@pytest.mark.parametrize("field", [name for name in RUN if name not in ("type", "adaptive")])
def test_a_changed_attack_is_refused_for_its_own_file(kap, field):
    wanted = described()
    wanted["evaluation"]["attacks"]["pgd"] |= {field: None if RUN[field] else "another"}
    refused(kap, wanted, f"it has .evaluation.attacks.pgd.{field}")
    with pytest.raises(ValueError, match=r"in records/pgd\.jsonl\.$"):
        claims.claim(kap, wanted)
    (kap / "records" / "pgd.jsonl").unlink()  # it is made anew
    claims.claim(kap, wanted)
    refused(kap, described() | {"weights": "other"}, ".weights: ")


def test_what_no_record_depends_on_may_change(kap):
    wanted = described() | {"name": "another", "step": 3}
    wanted["evaluation"]["attacks"]["pgd"]["adaptive"] = True
    wanted["evaluation"]["judges"]["paper"]["adaptive"] = True
    claims.claim(kap, wanted)
    assert claims.read(kap) == wanted


@pytest.mark.parametrize("field", ["weights", "method", "data"])
def test_another_model_or_data_is_refused(kap, field):
    refused(kap, described() | {field: "another"}, f"it has .{field}")


def test_another_headline_is_refused(kap):
    wanted = described()
    judges = wanted["evaluation"]["judges"]
    wanted["evaluation"]["judges"] = dict(reversed(judges.items()))
    refused(
        kap, wanted, "it has .headline: 'paper' != 'honest' in certificates/smoothing.jsonl and"
    )


def test_sources_are_held_against_what_asks_them(kap):
    model = {key: described()[key] for key in ("name", "step", "weights", "method")}
    sent = {**ATTACKS, "sent": AttackRun(FGSM(THREAT), source="s")}
    wanted = described(attacks=sent) | {"sources": {"s": model}}
    claims.claim(kap, wanted)
    both = described(attacks={"both": AttackRun(FGSM(THREAT), source=("s", "t"))}) | {
        "sources": dict.fromkeys(("s", "t", "u"), model)
    }
    assert list(claims.files(both)["records/both"]["sources"]) == ["s", "t"]
    line = (kap / "records" / "pgd.jsonl").read_text().splitlines(keepends=True)[0]
    other = copy.deepcopy(wanted)
    other["sources"]["s"]["weights"] = "another"
    claims.claim(kap, other)  # nothing was sent yet
    (kap / "records" / "sent.jsonl").write_text(line)
    refused(kap, wanted, "it has .sources.s.weights")
    selected = described(attacks=sent, selection=Selection(rule="correct")) | {
        "sources": {"s": model}
    }
    found = claims.files(selected)
    assert found["records/pgd"]["sources"] == {"s": model}  # it has a say in which are attacked
    assert found["records/clean"]["sources"] == {}


def test_a_torn_claim_is_what_evaluation_json_says(kap):
    (kap / "records" / "pgd.json").write_bytes(b"")
    claims.claim(kap, described())
    assert json.loads((kap / "records" / "pgd.json").read_text())["format"] == formats.FORMAT
    (kap / "evaluation.json").write_bytes(b"\0" * 20)
    claims.claim(kap, described())
    assert claims.read(kap) == described()
    for name in ("evaluation.json", "records/pgd.json"):
        (kap / name).write_bytes(b'{"format": 3, "na')
    refused(kap, described(), "evaluation.json' to be whole JSON")
    (kap / "evaluation.json").unlink()
    refused(kap, described(), "remove records/pgd.jsonl to have it made anew")
    (kap / "records" / "pgd.jsonl").write_text('{"format": 3')  # nothing is finished
    claims.claim(kap, described())


def test_earlier_formats_did_not_say_of_what_data(tmp_path):
    shutil.copytree(STORED, tmp_path / "kap")
    assert claims.read(tmp_path / "kap")["data"] is None
    claims.claim(tmp_path / "kap", described())
    refused(tmp_path / "kap", described() | {"data": "another"}, "it has .data: 'abc' != 'another'")


def test_records_of_attacks_that_are_asked_no_more_do_not_count(kap):
    wanted = dataclasses.replace(CONFIGS["kap"].evaluation, attacks={"fgsm": ATTACKS["fgsm"]})
    claims.claim(kap, described(attacks=wanted.attacks))
    assert not (kap / "summary.json").exists()
    assert reductions.summarize(records.read_records(kap), wanted)["robust_accuracy"].keys() == {
        "fgsm"
    }


def test_a_fingerprint_tells_data_apart():
    data = open_data(DataConfig(Digits()))
    digits = fingerprint(data.test)
    assert digits == fingerprint(open_data(DataConfig(Digits())).test)
    assert digits != fingerprint(data.train)
    for row in (0, len(data.test) - 1):
        images, labels = data.test.examples.images, data.test.examples.labels
        for array in (images, labels):
            other = array.copy()
            other[data.test.rows[row]] ^= 1
            pair = (other, labels) if array is images else (images, other)
            examples = dataclasses.replace(data.test.examples, images=pair[0], labels=pair[1])
            assert digits != fingerprint(dataclasses.replace(data.test, examples=examples))
    rows = np.roll(data.test.rows, 1)
    assert digits != fingerprint(dataclasses.replace(data.test, rows=rows))


def test_files_of_an_earlier_format_outlive_an_evaluation_without_them(tmp_path):
    directory = tmp_path / "kap"
    shutil.copytree(STORED, directory)
    claims.claim(directory, described(attacks={}, worst_of={}))
    assert list(claims.read(directory)["evaluation"]["attacks"]) == []
    claims.claim(directory, described())
    changed = ATTACKS | {"pgd": dataclasses.replace(ATTACKS["pgd"], attack=FGSM(THREAT))}
    refused(directory, described(attacks=changed), "in records/pgd.jsonl")
