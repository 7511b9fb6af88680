"""What a directory of an evaluation is the home of: evaluation.json."""

import pathlib
from typing import Any

import jax

from robust_jax import formats, serialization
from robust_jax.methods import MethodConfig
from robust_jax.protocol import Evaluation

_MODEL = {"name", "step", "weights", "method"}
"""What a claim says of a model."""


def claim(directory: pathlib.Path, description: dict[str, Any]) -> None:
    """Makes a directory the home of an evaluation, or finds that it is so already.

    The first start writes `evaluation.json`, which names what is evaluated; later ones read it, and
    write it anew where it is of an earlier format.

    Args:
        directory: of the evaluation.
        description: `name`, `step` and `weights` of the model, its `method`, the `evaluation`, and
            under `sources` by name the same four of every further model.

    Raises:
        ValueError: the directory holds another evaluation; names the fields that differ.
    """
    file = directory / "evaluation.json"
    if file.is_file():
        both = (read(directory), _completed(description))
        lines = serialization.differences(*map(_as_computed_here, both), name="")
        if lines:
            raise ValueError(
                f"Expected out={str(directory)!r} to be new or to hold this evaluation; it has "
                + "; ".join(lines)
                + "."
            )
    if not (file.is_file() and formats.is_current(file)) and jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        formats.write(file, description)


def _as_computed_here(description: dict[str, Any]) -> dict[str, Any]:
    """Returns a description without its precision on a CPU, where all are float32."""
    evaluation = description["evaluation"]
    if jax.default_backend() != "cpu" or not isinstance(evaluation, dict):
        return description
    evaluation = {key: value for key, value in evaluation.items() if key != "precision"}
    return {**description, "evaluation": evaluation}


def read(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the description in evaluation.json as `claim` would be given it today.

    Raises:
        ValueError: it is torn, or of a newer format.
    """
    file = directory / "evaluation.json"
    found = formats.read("claim", file)
    missing = {"evaluation", "sources", *_MODEL} - found.keys()
    if missing:
        raise ValueError(f"Expected {str(file)!r} to have {sorted(missing)}.")
    sources = found["sources"]
    whole = isinstance(sources, dict) and all(
        isinstance(one, dict) and one.keys() >= _MODEL for one in sources.values()
    )
    if not whole:
        raise ValueError(f"Expected {str(file)!r} to have under 'sources' models by name.")
    return _completed(found)


def _completed(description: dict[str, Any]) -> dict[str, Any]:
    def model(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "method": serialization.completed(MethodConfig, found["method"])}

    return {
        **model(description),
        "evaluation": serialization.completed(Evaluation, description["evaluation"]),
        "sources": {name: model(one) for name, one in description["sources"].items()},
    }
