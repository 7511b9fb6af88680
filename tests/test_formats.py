"""One number says in which shape a file is: earlier ones are read, later ones refused in a line."""

import dataclasses
import errno
import json
import pathlib
import shutil

import numpy as np
import pytest

from robust_jax import formats
from robust_jax.commands import evaluate
from robust_jax.data import open_data
from robust_jax.evaluation import certification, claims, compare, records
from robust_jax.experiment import checkpoints
from robust_jax.runtime import sharding
from tests.fixtures.runs import CONFIGS, NUM_STEPS

OLD = "c6714d0"


@pytest.fixture
def kap(tmp_path, repository):
    """A copy of a run whose evaluation has records and certificates."""
    shutil.copytree(repository / "tests" / "fixtures" / OLD / "kap", tmp_path / "kap")
    return tmp_path / "kap"


def meta(workdir):
    return workdir / "checkpoints" / str(NUM_STEPS) / "meta" / "metadata"


def certify(directory):
    """Returns the certificates that a directory holds: none is left to make."""
    wanted, mesh = CONFIGS["kap"].evaluation, sharding.make_mesh(1)
    data = open_data(CONFIGS["kap"].data)
    method, rows = CONFIGS["kap"].method.make(data.task), np.arange(wanted.num_certified)
    return certification.certify(
        wanted.certificates, method, {}, data.test, rows, mesh,
        precision=wanted.precision, seed=wanted.seed, directory=directory,
    )  # fmt: skip


def kap_s(path):
    """Returns the description that the run's evaluation is under, as it was stored."""
    stored = pathlib.Path(__file__).parent / "fixtures" / OLD / "kap"
    return claims.read(stored if path is None else path)


FILES = {
    "evaluation.json": [
        compare.read,
        claims.read,
        lambda path: claims.claim(path, kap_s(None)),
    ],
    "summary.json": [compare.read],
    "records/pgd.jsonl": [
        records.read_records,
        lambda path: records.resume(path / "records" / "pgd.jsonl", np.arange(48), 20),
    ],
    "certificates/smoothing.jsonl": [certify],
    "seconds.jsonl": [records.seconds_by_attack],
}
"""Files beside a checkpoint, and what reads them."""


DAMAGES = {
    "newer": (9, f"to have format=9 <= {formats.FORMAT}: upgrade robust_jax"),
    "text": ("2", "to have a format='2' >= 1"),
    "negative": (-1, "to have a format=-1 >= 1"),
    "a fraction": (1.5, "to have a format=1.5 >= 1"),
    "a truth": (True, "to have a format=True >= 1"),
    "nothing": (None, "to have a format=None >= 1"),
}


def renumbered(text, number):
    """Returns a file's JSON, or the first of its lines, with another number."""
    first, end, rest = text.partition("\n") if text.startswith('{"') else (text, "", "")
    return json.dumps(json.loads(first) | {"format": number}) + end + rest


def refused(read, path, file, message):
    with pytest.raises(ValueError) as error:
        read(path)
    found = str(error.value)
    assert file in found
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_newer_number_or_none_is_one_line(kap, file, damage):
    number, message = DAMAGES[damage]
    path = kap / file
    path.write_text(renumbered(path.read_text(), number))
    for read in FILES[file]:
        refused(read, kap, str(path), message)


GONE_ON = {"records/pgd.jsonl": 1, "certificates/smoothing.jsonl": 0, "seconds.jsonl": 0}
"""Files that are gone on with, and from which of their readers on."""


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("torn", [b'{"name": "ka\n', b"\xff\xfe\n", b"[1, 2]\n", b"\n"])
def test_a_torn_file_is_one_line(kap, file, torn):
    """Or gone on from, where what is lost can be made anew."""
    (kap / file).write_bytes(torn)
    made_anew = [] if torn == b"[1, 2]\n" else FILES[file][GONE_ON.get(file, 9) :]
    for read in FILES[file]:
        if read in made_anew and read is not certify:
            assert not read(kap)
        elif read not in made_anew:
            refused(read, kap, str(kap / file), "Expected")


@pytest.mark.parametrize("line", ['{"index": 3}', '{"index": 3, "decisions": 7}'])
def test_lines_of_other_things_are_named(kap, line):
    file = kap / "records" / "pgd.jsonl"
    file.write_text(file.read_text() + line + "\n")
    refused(records.read_records, kap, f"{str(file)!r}, line 49,", "to be a record")


def test_a_line_without_its_end_counts_only_where_it_is_whole(kap):
    """A stop leaves one, which is then judged anew; numbers are not made of fewer in silence."""
    file = kap / "records" / "pgd.jsonl"
    text = file.read_text()
    file.write_text(text[:-1])
    assert list(records.read_records(kap)["pgd"]) == list(range(48))
    file.write_text(text[:-9])
    refused(records.read_records, kap, f"{str(file)!r}, line 48,", "to be whole JSON")
    assert list(records.resume(file, np.arange(48), 20)) == list(range(40))
    assert list(records.read_records(kap)["pgd"]) == list(range(40))


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoints_of_a_newer_format_are_one_line(kap, damage):
    number, message = DAMAGES[damage]
    file = meta(kap)
    file.write_text(renumbered(file.read_text(), number))
    mesh = sharding.make_mesh(1)
    for read in (
        lambda path: checkpoints.load(path, mesh),
        lambda path: checkpoints.resumable_step(path, CONFIGS["kap"]),
        checkpoints.kept_metrics,
        lambda path: evaluate.main(evaluate.Arguments(path)),
    ):
        refused(read, kap, f"{str(kap / 'checkpoints')!r}, step {NUM_STEPS},", message)


def test_a_checkpoint_always_had_a_number(kap):
    file = meta(kap)
    found = json.loads(file.read_text())
    assert found.pop("format") == 1
    file.write_text(json.dumps(found))
    refused(checkpoints.kept_metrics, kap, f"step {NUM_STEPS},", "to have a format=None >= 1")
    file.write_text(json.dumps(found)[:100])
    refused(checkpoints.kept_metrics, kap, f"step {NUM_STEPS},", "to be whole")


def test_every_step_is_there():
    assert sorted(formats.STEPS) == list(range(1, formats.FORMAT))


def test_fields_that_were_not_there_have_their_defaults(kap):
    """As a package wrote it that knew fewer fields; what differs is still named, and alone."""
    description = claims.read(kap)
    file = kap / "evaluation.json"
    older = json.loads(file.read_text())
    del older["evaluation"]["attacks"]["pgd"]["attack"]["keep"]
    del older["method"]["input_sigma"]
    file.write_text(json.dumps(older))
    assert claims.read(kap) == description
    identity = compare.read(kap).identity
    claims.claim(kap, description)
    now = [("format", formats.FORMAT), *description.items()]
    assert list(json.loads(file.read_text()).items()) == now
    assert compare.read(kap).identity == identity
    other = {**description, "evaluation": {**description["evaluation"], "seed": 1}}
    file.write_text(json.dumps(older))
    (kap / "records" / "pgd.json").unlink()  # of a file without one evaluation.json says it
    where = r"certificates/smoothing\.jsonl and 3 more"
    with pytest.raises(ValueError, match=rf"it has \.evaluation\.seed: 0 != 1 in {where}\.$"):
        claims.claim(kap, other)
    assert json.loads(file.read_text()) == older

    path = meta(kap)
    found = json.loads(path.read_text())
    del found["config"]["training"]["overfitting"], found["config"]["runtime"]["progress"]
    # What may change may also be of a class that is not there any more.
    found["config"]["evaluation"]["attacks"]["pgd"]["attack"]["type"] = "Lost"
    path.write_text(json.dumps(found))
    assert checkpoints.resumable_step(kap, CONFIGS["kap"]) == NUM_STEPS
    with pytest.raises(ValueError, match=r"it has config\.seed: 0 != 1\.$"):
        checkpoints.resumable_step(kap, dataclasses.replace(CONFIGS["kap"], seed=1))


def test_a_claim_without_its_parts_is_one_line(kap):
    (kap / "evaluation.json").write_text('{"format": 2, "name": "kap", "method": 3}')
    refused(claims.read, kap, "evaluation.json", "to have ['evaluation', 'sources', 'step', 'weig")


@pytest.mark.parametrize("sources", [[], {"a": 1}, {"a": {}}, {"a": {"name": "b", "step": 1}}])
def test_a_claim_whose_sources_are_none_is_one_line(kap, sources):
    file = kap / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sources": sources}))
    refused(claims.read, kap, "evaluation.json", "to have under 'sources' models by name")


def test_a_claim_is_written_once(kap):
    file = kap / "evaluation.json"
    claims.claim(kap, claims.read(kap))  # of format 1
    assert json.loads(file.read_text())["format"] == formats.FORMAT
    before = file.read_bytes(), file.stat().st_ino
    claims.claim(kap, claims.read(kap))
    assert (file.read_bytes(), file.stat().st_ino) == before


def test_a_full_disk_leaves_what_was_there(kap, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(formats.os, "fsync", full)
    before = {path: path.read_bytes() for path in kap.rglob("*") if path.is_file()}
    row = records.read_records(kap)["pgd"][0]
    pixels = np.zeros((1, 8, 8, 1), np.float32)
    for write in (
        lambda: formats.write(kap / "summary.json", {"num_examples": 3}),
        lambda: formats.write_lines(kap / "records" / "pgd.jsonl", [{"index": 0}]),
        lambda: records.save_shown(kap / "records" / "pgd.jsonl", [row], pixels),
    ):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert {path: path.read_bytes() for path in kap.rglob("*") if path.is_file()} == before


def test_seconds_that_a_stop_cut_short_are_gone_on_from(kap):
    file = kap / "seconds.jsonl"
    text = file.read_text()
    *_, last = text.splitlines()
    file.write_text(text[:-4])
    records.seconds_by_attack(kap)
    records.append_lines(file, [{"name": "late", "seconds": 1.5}])
    assert last not in file.read_text()
    assert records.seconds_by_attack(kap)["late"] == 1.5
    file.write_text('{"name": "x"}\n')
    refused(records.seconds_by_attack, kap, "seconds.jsonl', line 1,", "to have name and seconds")


RENAMED = {
    "record": ("view_fooled", "fooled"),
    "certificate": ("radius", "r"),
    "seconds": ("seconds", "time"),
    "summary": ("num_examples", "examples"),
    "claim": ("weights", "digest"),
    "checkpoint": ("class_names", "classes"),
}
"""By kind, what a planted next format calls a key, and what today's does."""


def renaming(new, old):
    return lambda tree: {new if key == old else key: item for key, item in tree.items()}


def planted(tree):
    """The next format calls a class and a field of another otherwise."""
    if tree["type"] == "KernelAverage":
        return {**tree, "type": "KAP"}
    return renaming("num_steps", "iterations")(tree) if tree["type"] == "PGD" else tree


def test_every_kind_goes_step_by_step(kap, monkeypatch):
    """Files of format 1 whose keys a planted next format renames are read, and written, as its."""
    mesh = sharding.make_mesh(1)

    def everything():
        return (
            checkpoints.load(kap, mesh)._replace(variables={}),
            checkpoints.resumable_step(kap, CONFIGS["kap"]),
            claims.read(kap),
            compare.read(kap),
            records.read_records(kap),
            records.seconds_by_attack(kap),
            certify(kap)["smoothing"][0].radius.tolist(),
        )

    expected = everything()
    kinds = {
        "checkpoint": [meta(kap)],
        "claim": [kap / "evaluation.json"],
        "summary": [kap / "summary.json"],
        "record": (kap / "records").glob("*.jsonl"),
        "certificate": [kap / "certificates" / "smoothing.jsonl"],
        "seconds": [kap / "seconds.jsonl"],
    }
    for kind, files in kinds.items():
        names = [RENAMED[kind], ("num_steps", "iterations"), ("KAP", "KernelAverage")]
        for file in files:
            text = file.read_text()
            for new, old in names:
                text = text.replace(f'"{new}"', f'"{old}"')
            file.write_text(text)
    with pytest.raises(ValueError, match="to be whole and written by robust_jax: 'class_names'"):
        everything()
    step = formats.Step({kind: renaming(*pair) for kind, pair in RENAMED.items()}, planted)
    today = formats.FORMAT
    monkeypatch.setattr(formats, "FORMAT", today + 1)
    monkeypatch.setitem(formats.STEPS, today, step)
    assert everything() == expected
    file = kap / "records" / "pgd.jsonl"
    records.resume(file, np.arange(48), 20)
    records.append_lines(file, [expected[4]["pgd"][0].to_json() | {"index": 48}])
    claims.claim(kap, expected[2])
    assert everything()[:4] == expected[:4]
    assert records.read_records(kap)["pgd"][48] == expected[4]["pgd"][0]._replace(index=48)
    for written in (file, kap / "certificates" / "smoothing.jsonl"):
        numbers = {json.loads(line)["format"] for line in written.read_text().splitlines()}
        assert numbers == {today + 1}
    assert json.loads((kap / "evaluation.json").read_text())["format"] == today + 1
    monkeypatch.undo()
    message = f"to have format={today + 1} <= {today}: upgrade robust_jax"
    refused(claims.read, kap, "evaluation.json", message)


def test_steps_reach_configurations_from_the_inside():
    seen = []

    def look(tree):
        seen.append(tree["type"])
        return {**tree, "seen": len(seen)}

    inner, outer = {"type": "Inner"}, {"type": "Outer", "names": {"type": {"x": 1}}, "parts": []}
    outer["parts"] = [inner, 3]
    found = formats._each_config(look, {"config": outer, "format": "x"})
    assert seen == ["Inner", "Outer"]
    assert found["config"]["parts"] == [{"type": "Inner", "seen": 1}, 3]
    assert found["config"]["names"] == {"type": {"x": 1}}
