"""Models of files: what `evaluate.py --model FILE.py:NAME` judges."""

import inspect
import pathlib
import types
from typing import cast

from robust_jax.evaluation import Model
from robust_jax.experiment import config
from robust_jax.models.modules import Given
from robust_jax.runtime import python_file


def check_named(checkpoint: pathlib.Path | None, model: str | None) -> None:
    """Raises ValueError unless a command names one thing to judge."""
    if (checkpoint is None) == (model is None):
        raise ValueError("Expected --checkpoint DIR or --model FILE.py:NAME, one of them.")


def load(spec: str, *, num_classes: int) -> Model:
    """Returns the model that a file defines: `mine.py:net`.

    Args:
        spec: a file and the name of what it holds: a `Model`, or what `Model.of` takes (a function
            of images, a module of flax nnx, Equinox or PyTorch); or a function without parameters
            that returns one of these.
        num_classes: of the data, for what is no `Model` yet.

    Raises:
        ValueError: no such file, no such name in it, or something that cannot be judged.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError(f"Expected model={spec!r} to be FILE.py:NAME.")
    module = config.run_file(file)
    if not hasattr(module, name):
        raise ValueError(f"Expected {file} to define {name!r}.")
    found: object = getattr(module, name)
    if isinstance(found, types.FunctionType) and not inspect.signature(found).parameters:
        with python_file.in_one_line(pathlib.Path(file).expanduser().resolve()):
            found = found()
    if isinstance(found, Model):
        return found
    if not callable(found) or isinstance(found, type):
        raise ValueError(
            f"Expected {name!r} of {file} to be a Model, a function of images or a module, found "
            f"{type(found).__name__}."
        )
    return Model.of(cast(Given, found), num_classes=num_classes, name=name)
