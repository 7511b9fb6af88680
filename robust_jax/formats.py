"""The shape of what is stored: one number for all of it, and how earlier shapes are read.

`FORMAT` stands as `format` in every file that is read again: the `meta` of a checkpoint,
evaluation.json and the NAME.json beside records and certificates (claims), summary.json, and each
line of records/, certificates/, seconds.jsonl and environments.jsonl, so that a file which two
versions wrote has both numbers; and in a study's steps.json. A configuration has the number of
what holds it. Logs (metrics.jsonl, TensorBoard), pictures and report.html have none.

Where a shape changes, raise `FORMAT` and say in `STEPS` how the old one becomes the new. A new
field of a configuration whose default is what was done before needs neither: it is filled in
(`serialization.completed`).
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

FORMAT = 7

Kind = Literal[
    "checkpoint", "claim", "summary", "record", "certificate", "seconds", "environment", "steps"
]  # fmt: skip
Tree = dict[str, object]
"""A JSON object; who reads it says of which kind each value is."""


class Step(NamedTuple):
    """How what one format wrote becomes what the next one writes.

    Attributes:
        kinds: by kind, its object of the old format -> of the new.
        config: the same for each part of a configuration, {"type": class, field: value}, the
            innermost first. Called before `kinds`, on all that a checkpoint or a claim holds.
    """

    kinds: Mapping[Kind, Callable[[Tree], Tree]] = {}
    config: Callable[[Tree], Tree] | None = None


_DONE_BY_FORMAT_2: dict[str, Tree] = {
    "CarliniWagner": {"repeat": False},
    "EAD": {"repeat": False},
    "Boundary": {"start": "noise"},
    "HopSkipJump": {"start": "noise"},
}
"""By class: what its fields of today are named that do as format 2 did."""


def _as_it_was_done(tree: Tree) -> Tree:
    """Returns a part of a configuration of format 2, with what it did said."""
    return {**_DONE_BY_FORMAT_2.get(str(tree["type"]), {}), **tree}


def _as_it_was_computed(claim: Tree) -> Tree:
    """Returns a claim of format 2 with what format 3 computes otherwise, said.

    Products of float32 had the device's own precision. Margins were those of the members' mean
    logit, and counted above 0. The votes of a method that draws once a call were counted as
    independent: no configuration of today says that.
    """
    evaluation = claim.get("evaluation")
    if not isinstance(evaluation, dict):
        return claim  # what is missing is said by who reads it
    shared = "RandomLayerSampling" in json.dumps([claim.get("method"), claim.get("sources")])
    certificates = {}
    for name, certifier in evaluation.get("certificates", {}).items():
        said = {"draws": "shared"} if shared else {}
        if certifier["type"] == "Margins":
            said = {"of": "mean_logit", "tolerance": 0.0}
        certificates[name] = {**certifier, **said}
    evaluation = {**evaluation, "precision": "default"}
    return {**claim, "evaluation": evaluation | {"certificates": certificates}}


def _with_balls(summary: Tree) -> Tree:
    """Returns a summary whose one worst case, of whatever balls, is called so."""
    mixed = "all attacks, of whatever balls"

    def named(found: Tree) -> Tree:
        tree = dict(found)
        for part in (tree, tree.get("intervals")):
            if isinstance(part, dict) and "worst_case_accuracy" in part:
                part["worst_case_accuracy"] = {mixed: part["worst_case_accuracy"]}
        return tree

    def judged(found: Tree) -> Tree:
        new = {
            "counts": "clean_and_attacked",
            "submissions": {},
            "rejudged": None,
        }
        return {**named(found), **new}

    judges = {judge: judged(found) for judge, found in _items(summary.get("judges"))}
    return {**named(summary), "draws": "batch", "judges": judges}


_GROUPED = {
    "selection": ("Selection", {"split": "split", "num_examples": "num_examples",
                                "selection": "rule"}),
    "adversary": ("Adversary", {"attack_labels": "labels",
                                "skip_misclassified": "skip_misclassified",
                                "num_submissions": "num_submissions"}),
}  # fmt: skip
"""By field of an evaluation: its class, and by their name in format 3 its own fields."""


def _grouped(tree: Tree) -> Tree:
    """Returns a part of a configuration of format 3, an evaluation's fields in their groups.

    No measures were the standard ones where sanity checks were on, and none where they were off.
    """
    if tree["type"] != "Evaluation":
        return tree
    moved = {old for _, fields in _GROUPED.values() for old in fields}
    found = {key: value for key, value in tree.items() if key not in moved}
    for group, (kind, fields) in _GROUPED.items():
        known = {new: tree[old] for old, new in fields.items() if old in tree}
        found[group] = {"type": kind, **known}
    if not tree.get("measures"):
        found["measures"] = None if tree.get("sanity", True) else {}
    return found


def _without_measures(claim: Tree) -> Tree:
    """Returns a claim of format 3: none said which measures were asked, which change no record."""
    evaluation = claim.get("evaluation")
    if not isinstance(evaluation, dict):
        return claim
    return {**claim, "evaluation": {**evaluation, "measures": None}}


def _items(found: object) -> list[tuple[str, Tree]]:
    """Returns the parts of an object; nothing of what is none, which its reader refuses."""
    return list(found.items()) if isinstance(found, dict) else []


_RENAMED_IN_4: dict[str, dict[str, str]] = {
    "PGD": {"parallel_restarts": "parallel"},
    "Averaged": {"parallel": "parallel_draws"},
}
"""By class: the new name of a field, by its name in format 3."""


def _with_names_of_4(tree: Tree) -> Tree:
    """Returns a part of a configuration of format 3 with its fields' new names."""
    renamed = _RENAMED_IN_4.get(str(tree["type"]), {})
    return {renamed.get(name, name): value for name, value in tree.items()}


def _with_votes(summary: Tree) -> Tree:
    """Returns a summary whose certificates do not say their intervals and votes."""
    if "certificates" not in summary:
        return summary
    unknown = {"intervals": None, "num_votes": None, "most_votes": None}
    found = {name: {**unknown, **one} for name, one in _items(summary["certificates"])}
    return {**summary, "certificates": found}


STEPS: dict[int, Step] = {
    # Format 2 gave the number to all kinds; only checkpoints had one.
    1: Step(),
    # Format 3: ten and more searches of C&W and EAD end at the upper bound, decision attacks begin
    # at clean images of other classes; claims say the precision and what margins bound; there is a
    # worst case for each ball. (Decisions of earlier ones lack `share_rejudged`, by which one key
    # for all rows of a batch is told.) Claims say of what data an evaluation is, and checkpoints of
    # which arrays: None is held against nothing. Earlier files were all under evaluation.json.
    2: Step(
        {
            "claim": lambda tree: {"data": None, **_as_it_was_computed(tree)},
            "checkpoint": lambda tree: {"weights": None, **tree},
            "summary": _with_balls,
        },
        config=_as_it_was_done,
    ),
    # Format 4: runs are planned by one class, so `parallel` is of runs and `parallel_draws` of
    # draws in all attacks; an evaluation's fields are grouped, and {} measures are none.
    3: Step({"claim": _without_measures}, config=lambda tree: _grouped(_with_names_of_4(tree))),
    # Format 5: records hold the passes of an attack, and summaries their means.
    4: Step(
        {
            "record": lambda tree: {"passes": None, **tree},
            "summary": lambda tree: {"passes": {}, **tree},
        }
    ),
    # Format 6: records hold L1 and L0 of the change, and summaries medians of all four norms;
    # checkpoints say of which arrays a resumed run goes on besides.
    5: Step(
        {
            "checkpoint": lambda tree: {"optimizer": None, **tree},
            "record": lambda tree: {"l1": None, "l0": None, **tree},
            "summary": lambda tree: {"distances": {}, **tree},
        }
    ),
    # Format 7: certificates hold the votes that tested them, and summaries their mean and the
    # intervals of certified accuracy and mean radius.
    6: Step({"certificate": lambda tree: {"num_votes": None, **tree}, "summary": _with_votes}),
}
"""By the format that a step begins with."""

ALWAYS_NUMBERED: tuple[Kind, ...] = ("checkpoint",)
"""Kinds of which format 1 had a number: without one they are damaged."""
WITH_CONFIGS: tuple[Kind, ...] = ("checkpoint", "claim")


class TornError(ValueError):
    """What was read is no whole JSON: a stop, or a full disk, cut it short."""


def numbered(value: Mapping[str, object]) -> Tree:
    """Returns an object of today's shape as it is written, its number first."""
    return {"format": FORMAT, **value}


def current(kind: Kind, value: object, *, name: str) -> Tree:
    """Returns a stored object in today's shape, without its number.

    Args:
        kind: what it is.
        value: as it was read.
        name: how errors call it.

    Raises:
        ValueError: it is no object, its number is none, or one of a newer package.
    """
    if not isinstance(value, dict):
        raise ValueError(f"Expected {name} to hold a JSON object.")
    number = value.get("format", None if kind in ALWAYS_NUMBERED else 1)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"Expected {name} to have a format={number!r} >= 1.")
    if number > FORMAT:
        raise ValueError(
            f"Expected {name} to have format={number} <= {FORMAT}: upgrade robust_jax."
        )
    tree = {key: item for key, item in value.items() if key != "format"}
    for step in (STEPS[n] for n in range(number, FORMAT)):
        if step.config is not None and kind in WITH_CONFIGS:
            tree = _each_config(step.config, tree)
        tree = step.kinds.get(kind, dict)(tree)
    return tree


def read(kind: Kind, file: pathlib.Path) -> Tree:
    """Returns what a JSON file holds, in today's shape.

    Raises:
        TornError: it is no whole JSON.
        ValueError: as `current`; one line that names the file.
    """
    name = repr(str(file))
    return current(kind, _parsed(file.read_bytes(), name), name=name)


def read_lines(
    kind: Kind, file: pathlib.Path, *, torn: Literal["refused", "the end", "left out"] = "refused"
) -> list[Tree]:
    """Returns the lines of a JSON lines file in today's shape.

    Args:
        kind: what each line is.
        file: the file.
        torn: what a line is that a stop or a full disk left torn, or without its end: "refused";
            "the end" of the file, from where the caller writes it anew; or "left out".

    Raises:
        TornError: a line is, and that is refused.
        ValueError: as `current`; names the file and the line.
    """
    *lines, last = file.read_bytes().split(b"\n")
    if last and torn == "refused":
        lines.append(last)
    found = []
    for number, line in enumerate(lines, start=1):
        name = f"{str(file)!r}, line {number},"
        try:
            found.append(current(kind, _parsed(line, name), name=name))
        except TornError:
            if torn == "refused":
                raise
            if torn == "the end":
                break
    return found


def write(file: pathlib.Path, value: Mapping[str, object]) -> None:
    """Writes a JSON file of today's shape, which is there whole or not at all."""
    _replace(file, json.dumps(numbered(value), indent=2))


def write_lines(file: pathlib.Path, values: Iterable[Mapping[str, object]]) -> None:
    """Writes a JSON lines file of today's shape, which is there whole or not at all."""
    _replace(file, as_lines(values))


def as_lines(values: Iterable[Mapping[str, object]]) -> str:
    """Returns the text of some lines of today's shape."""
    return "".join(json.dumps(numbered(value)) + "\n" for value in values)


def _replace(file: pathlib.Path, text: str) -> None:
    """Writes a file; one that says the same already stays as it is."""
    if not (file.is_file() and file.read_bytes() == text.encode()):
        with replacing(file) as partial:
            partial.write_bytes(text.encode())


@contextlib.contextmanager
def replacing(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a place to write to, which becomes the file when all is written; or nothing changes."""
    partial = file.with_name(file.name + ".partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # or a loss of power leaves the name of an empty file
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk, room
        raise


def _parsed(text: bytes, name: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:  # not JSON, or not even text
        raise TornError(f"Expected {name} to be whole JSON: {error}") from error


def _each_config(change: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """Returns a JSON object whose configurations are changed, the innermost first."""
    tree = {key: _within(change, item) for key, item in tree.items()}
    return change(tree) if isinstance(tree.get("type"), str) else tree


def _within(change: Callable[[Tree], Tree], value: object) -> object:
    if isinstance(value, list):
        return [_within(change, item) for item in value]
    return _each_config(change, value) if isinstance(value, dict) else value
