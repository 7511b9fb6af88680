"""A checkpoint as one file, to send or to keep: its arrays, and what it says of itself.

A safetensors file: arrays by their path in the variables (`params/conv1/kernel`), and in its
metadata, under `robust_jax`, the item `meta` of a checkpoint with the step it was made at.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from robust_jax import formats
from robust_jax.experiment.meta import Meta, from_json
from robust_jax.experiment.reading import first_line
from robust_jax.formats import Tree
from robust_jax.runtime.sharding import replicated
from robust_jax.types import Variables

T = TypeVar("T")

SUFFIX = ".safetensors"
KEY = "robust_jax"


def is_one(place: str | pathlib.Path) -> bool:
    """Returns whether this names a checkpoint's file and not a work directory."""
    return pathlib.Path(place).suffix == SUFFIX


def write(file: pathlib.Path, step: int, meta: Tree, variables: Variables) -> None:
    """Writes a checkpoint's file, which is there whole or not at all.

    Args:
        file: ends in .safetensors.
        step: of the checkpoint.
        meta: its item `meta`.
        variables: its arrays.

    Raises:
        ValueError: the file's name ends otherwise.
    """
    if file.suffix != SUFFIX:
        raise ValueError(f"Expected file={str(file)!r} to end in {SUFFIX}.")
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    arrays = {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}
    said = {KEY: json.dumps(formats.numbered({**meta, "step": step}), sort_keys=True)}
    with formats.replacing(file) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata=said))


def read_meta(file: str | pathlib.Path) -> tuple[int, Meta]:
    """Returns the step of a file and what it says of itself.

    Raises:
        ValueError: it is damaged, of a newer format, or no checkpoint of this library.
    """

    def said() -> object:
        with safetensors.safe_open(file, "np") as opened:
            return json.loads((opened.metadata() or {})[KEY])

    tree = formats.current("checkpoint", _readable(said, file), name=f"checkpoint {str(file)!r}")
    return _readable(lambda: (int(str(tree["step"])), from_json(tree)), file)


def read_model(file: str | pathlib.Path, step: int, mesh: Mesh) -> Variables:
    """Returns the variables of a file on the mesh.

    Raises:
        ValueError: they are damaged.
    """
    del step  # there is one
    variables: dict[str, Any] = {}
    for name, array in _readable(lambda: safetensors.numpy.load_file(file), file).items():
        *path, last = name.split("/")
        place = variables
        for part in path:
            place = place.setdefault(part, {})
        place[last] = array
    return jax.device_put(variables, replicated(mesh))


def _readable(read: Callable[[], T], file: str | pathlib.Path) -> T:
    """Returns `read()`, any failure of it as one line that names the file."""
    try:
        return read()
    except Exception as error:  # of safetensors, of JSON, of the system
        raise ValueError(
            f"Expected {str(file)!r} to be a whole checkpoint that robust_jax wrote: "
            f"{first_line(error)}"
        ) from error
