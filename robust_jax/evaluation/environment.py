"""Where the numbers of an evaluation were computed: environments.jsonl, a line for each."""

import importlib.metadata
import pathlib
import platform

from jax.sharding import Mesh

import robust_jax
from robust_jax import formats, serialization
from robust_jax.data import Split
from robust_jax.data.fingerprint import fingerprint
from robust_jax.evaluation import claims
from robust_jax.evaluation.records import append_lines
from robust_jax.runtime import logging
from robust_jax.runtime.compilation import Precision

_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def describe(precision: Precision, mesh: Mesh, split: Split) -> formats.Tree:
    """Returns what a number may depend on that no configuration of a model says.

    Args:
        precision: of products of float32.
        mesh: devices.
        split: the evaluation's examples.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions |= {"robust_jax": robust_jax.__version__, "python": platform.python_version()}
    return {
        "precision": precision,
        "device": mesh.devices.flat[0].device_kind,
        "num_devices": mesh.size,
        "versions": versions,
        "data": {
            "split": split.name,
            "num_examples": len(split),
            "fingerprint": fingerprint(split),
        },
    }


def remember(directory: pathlib.Path, today: formats.Tree) -> list[formats.Tree]:
    """Returns the environments of all starts of an evaluation, this one last; says what differs.

    Args:
        directory: of the evaluation.
        today: today's, from `describe`.
    """
    file, earlier = directory / claims.ENVIRONMENTS, claims.environments(directory)
    if not file.is_file() and any((directory / "records").glob("*.jsonl")):
        logging.say("Going on where records do not say on which device they were made.")
    if earlier:
        lines = serialization.differences(earlier[-1], today, name="")
        if lines:
            logging.say(f"Going on in another environment than before: {'; '.join(lines)}.")
    if today not in earlier[-1:]:
        append_lines(file, [today])
    return [*(one for one in earlier if one != today), today]
