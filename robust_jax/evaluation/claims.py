"""What the files of an evaluation are of: evaluation.json, and a claim beside each of them.

A description says which model, which data and which evaluation. evaluation.json holds that of the
evaluation which was started last. Beside records/NAME.jsonl and certificates/NAME.jsonl lies
NAME.json: the description of an evaluation that asks for nothing but that file. So a further
attack, certificate or sanity check keeps what is finished, and what changes a record is refused.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

import jax

from robust_jax import formats, serialization
from robust_jax.evaluation.protocol import BY_CORRECTNESS, CLEAN, Evaluation, Judge
from robust_jax.methods import MethodConfig

Description = formats.Tree
"""`name`, `step` and `weights` of the model, its `method`, the `evaluation`, a fingerprint of the
`data` (None where none is known), and under `sources` by name the first four of every further
model."""

ENVIRONMENTS = "environments.jsonl"
"""Beside evaluation.json: where its numbers were computed."""

_MODEL = {"name", "step", "weights", "method"}
"""What a description says of a model."""
_NAMES = ("name", "step")
"""Those that no record depends on."""
_CHANGE_NO_RECORD = (
    "attacks", "certificates", "worst_of", "others", "measures", "num_certified", "sanity",
    "printed",
)  # fmt: skip
"""Fields of an evaluation that leave the records of any one attack as they are. Whatever else it
has, today's fields and later ones, is held against each file."""
_COUNTING = ("adaptive", "counts")
"""Fields of a judge that say what is made of its decisions."""


def claim(directory: pathlib.Path, description: Description) -> None:
    """Makes a directory the home of an evaluation, or finds that what it holds is of that one.

    Writes evaluation.json and the claims of files. A summary that stands for another evaluation is
    removed: this one makes its own.

    Args:
        directory: of the evaluation.
        description: what is about to be evaluated.

    Raises:
        ValueError: a file there is of something else, or of nothing known; names the fields that
            differ, and the files.
    """
    description = _as_today(description)
    wanted = files(description)
    kept: dict[str, Description] = {}
    differing: dict[str, list[str]] = {}
    for file in sorted(file for file in wanted if _has_lines(directory / f"{file}.jsonl")):
        kept[file] = _of_stored_file(directory, file)
        if kept[file]["data"] is None:
            kept[file]["data"] = wanted[file]["data"]
        for line in _lines(directory, file, kept[file], wanted[file]):
            differing.setdefault(line, []).append(f"{file}.jsonl")
    if differing:
        raise ValueError(
            f"Expected out={str(directory)!r} to be new or to hold this evaluation; it has "
            + "; ".join(f"{line} in {_first_of(where)}" for line, where in differing.items())
            + "."
        )
    if jax.process_index() != 0:
        return
    for file, claimed in (_described_alone(directory) | wanted | kept).items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        formats.write(directory / f"{file}.json", claimed)
    if not _is_claimed(directory, description):
        (directory / "summary.json").unlink(missing_ok=True)
    formats.write(directory / "evaluation.json", description)


def read(directory: pathlib.Path) -> Description:
    """Returns the description in evaluation.json as `claim` would be given it today.

    Raises:
        formats.TornError: it is no whole JSON.
        ValueError: it lacks a part, or is of a newer format.
    """
    return _as_today(_stored(directory / "evaluation.json"))


def has_ended(
    directory: pathlib.Path,
    evaluation: Description,
    *,
    data: str | None = None,
    sources: Description | None = None,
) -> bool:
    """Returns whether a directory holds this evaluation, described, to its end.

    Args:
        directory: of the evaluation.
        evaluation: as a description has it.
        data: its fingerprint; None for any.
        sources: of its attacks, as a description has them; None for any.
    """
    if not (directory / "summary.json").is_file():
        return False
    with contextlib.suppress(ValueError, OSError):  # torn, newer or gone: whoever goes on says so
        found = read(directory)
        wanted = {"evaluation": evaluation, "data": data, "sources": sources}
        return all(found[name] == one for name, one in wanted.items() if one is not None)
    return False


def environments(directory: pathlib.Path) -> list[formats.Tree]:
    """Returns where the starts of an evaluation so far computed, a line each: `environment.py`."""
    file = directory / ENVIRONMENTS
    return formats.read_lines("environment", file, torn="left out") if file.is_file() else []


def files(description: Description) -> dict[str, Description]:
    """Returns the claim of every file that an evaluation asks for, by its path without ending.

    Each is completed by itself: what today's classes do not take is held against its own file.
    """
    evaluation = serialization.to_json(Evaluation()) | part(description, "evaluation")
    claims = _narrowest({**description, "evaluation": evaluation})
    return {file: _as_today(claimed) for file, claimed in claims}


def _narrowest(description: Description) -> Iterator[tuple[str, Description]]:
    evaluation, sources = part(description, "evaluation"), list(part(description, "sources"))
    others = evaluation["others"]
    if not isinstance(others, list):
        raise TypeError("its others are no list")
    # Whom a selection by correctness asks, beside the model itself.
    asked = sources if part(evaluation, "selection")["rule"] in BY_CORRECTNESS else []
    yield f"records/{CLEAN}", _narrowed(description)
    for name in sources:
        yield f"records/{CLEAN}@{name}", _narrowed(description, others=[name])
    attacks = objects(evaluation, "attacks")
    for name in attacks:
        chain = {one: {**attacks[one], "adaptive": False} for one in _up_to(attacks, name)}
        fields = {"attacks": chain, "others": asked}
        yield f"records/{name}", _narrowed(description, **fields)
    for title, certifier in part(evaluation, "certificates").items():
        certificates = {title: certifier}
        for name in (None, *others):
            named = sorted({*asked, name} - {None})
            ending = "" if name is None else f"@{name}"
            yield (
                f"certificates/{title}{ending}",
                _narrowed(description, certificates=certificates, others=named),
            )


def _up_to(attacks: Mapping[str, formats.Tree], name: str) -> list[str]:
    """Returns the rows that the records of one depend on: those it goes on from, and itself."""
    before = attacks[name].get("after")
    return [
        *(_up_to(attacks, before) if isinstance(before, str) and before in attacks else ()),
        name,
    ]


def part(tree: Mapping[str, object], name: str) -> formats.Tree:
    """Returns an object that a JSON object holds.

    Raises:
        KeyError, TypeError: it holds none of the name.
    """
    found = tree[name]
    if not isinstance(found, dict):
        raise TypeError(f"{name} is no object")
    return found


def objects(tree: Mapping[str, object], name: str) -> dict[str, formats.Tree]:
    """Returns the objects, by name, of an object that a JSON object holds.

    Raises:
        KeyError, TypeError: it holds none of the name, or another kind of parts.
    """
    found = part(tree, name)
    return {key: part(found, key) for key in found}


def _narrowed(description: Description, **fields: object) -> Description:
    """Returns the description of an evaluation that asks for nothing but these fields."""
    neutral, judge = serialization.to_json(Evaluation()), serialization.to_json(Judge())
    counting = {key: judge[key] for key in _COUNTING if key in judge}
    whole = part(description, "evaluation")
    judges = {name: {**one, **counting} for name, one in objects(whole, "judges").items()}
    evaluation = whole | {key: neutral[key] for key in _CHANGE_NO_RECORD}
    evaluation |= {"judges": judges, **fields}
    named = {name for run in objects(evaluation, "attacks").values() for name in _sources(run)}
    others = evaluation["others"]
    named |= {*others} if isinstance(others, list) else set()
    sources = {name: one for name, one in part(description, "sources").items() if name in named}
    return {**description, "evaluation": evaluation, "sources": sources}


def _sources(run: Mapping[str, object]) -> list[object]:
    """Returns the names of the checkpoints that a row is transferred from."""
    named = run.get("source")
    if isinstance(named, list):
        return named
    return [] if named is None else [named]


def _of_stored_file(directory: pathlib.Path, file: str) -> Description:
    """Returns the claim of a file that is there.

    Where its own is torn or missing (before format 3 there was none), evaluation.json says it.

    Raises:
        ValueError: neither says it.
    """
    own, whole = directory / f"{file}.json", directory / "evaluation.json"
    try:
        if own.is_file():
            with contextlib.suppress(formats.TornError):
                return _as_today(_stored(own))
        if whole.is_file():
            claims = files(_stored(whole))
            if file in claims:
                return claims[file]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {str(own)!r} or evaluation.json to describe an evaluation: {error!r}"
        ) from error
    raise ValueError(
        f"Expected {str(own)!r} or evaluation.json to say what {file}.jsonl is of; remove "
        f"{file}.jsonl to have it made anew."
    )


def _lines(directory: pathlib.Path, file: str, kept: Description, wanted: Description) -> list[str]:
    """Returns a line on each difference that a record may depend on."""
    try:
        both = (_compared(directory, one) for one in (kept, wanted))
        return serialization.differences(*both, name="")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {str(directory / file)!r}.json to describe an evaluation: {error!r}"
        ) from error


def _described_alone(directory: pathlib.Path) -> dict[str, Description]:
    """Returns the claims of files that evaluation.json alone describes, by path without ending.

    It is about to describe another evaluation, which need not ask for them.
    """
    whole = directory / "evaluation.json"
    claims: dict[str, Description] = {}
    if whole.is_file():
        # What describes nothing, or nothing of today's, is no loss.
        with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError):
            claims = files(_stored(whole))
    return {
        file: one
        for file, one in claims.items()
        if _has_lines(directory / f"{file}.jsonl") and not (directory / f"{file}.json").is_file()
    }


def _is_claimed(directory: pathlib.Path, description: Description) -> bool:
    """Returns whether evaluation.json describes this evaluation already."""
    if not (directory / "evaluation.json").is_file():
        return False
    try:
        claimed = read(directory)
    except formats.TornError:
        return False
    return _as_computed(directory, {**claimed, "data": None}) == _as_computed(
        directory, {**description, "data": None}
    )


def _as_computed(directory: pathlib.Path, description: Description) -> Description:
    """Returns a description without its precision where all was computed on a CPU: in float32."""
    evaluation = description["evaluation"]
    devices = {one.get("device") for one in environments(directory)}
    on_cpu = jax.default_backend() == "cpu" and devices <= {"cpu"}
    if not on_cpu or not isinstance(evaluation, dict):
        return description
    evaluation = {key: value for key, value in evaluation.items() if key != "precision"}
    return {**description, "evaluation": evaluation}


def _has_lines(file: pathlib.Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.readline().endswith(b"\n")


def _first_of(where: list[str]) -> str:
    return where[0] if len(where) == 1 else f"{where[0]} and {len(where) - 1} more"


def _compared(directory: pathlib.Path, description: Description) -> Description:
    """Returns a description without what no record depends on, and with the headline's name.

    Decisions are stored in the order of the judges, of which the first is the headline.
    """

    def model(described: formats.Tree) -> formats.Tree:
        return {key: value for key, value in described.items() if key not in _NAMES}

    sources = {name: model(one) for name, one in objects(description, "sources").items()}
    headline = next(iter(part(part(description, "evaluation"), "judges")), None)
    here = _as_computed(directory, description)
    return {**model(here), "sources": sources, "headline": headline}


def _stored(file: pathlib.Path) -> Description:
    """Returns the description in a file, in today's format, not yet with today's fields."""
    description = formats.read("claim", file)
    missing = {"evaluation", "sources", "data", *_MODEL} - description.keys()
    if missing:
        raise ValueError(f"Expected {str(file)!r} to have {sorted(missing)}.")
    sources = description["sources"]
    whole = isinstance(sources, dict) and all(
        isinstance(one, dict) and one.keys() >= _MODEL for one in sources.values()
    )
    if not whole:
        raise ValueError(f"Expected {str(file)!r} to have under 'sources' models by name.")
    return description


def _as_today(description: Description) -> Description:
    """Returns a description with the fields of today's classes, as `claim` is given it."""

    def model(described: formats.Tree) -> formats.Tree:
        method = serialization.completed(MethodConfig, described["method"])
        return {**described, "method": method}

    return {
        **model(description),
        "evaluation": serialization.completed(Evaluation, description["evaluation"]),
        "sources": {name: model(one) for name, one in objects(description, "sources").items()},
    }
