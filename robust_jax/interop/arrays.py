"""A network's arrays under our paths and under a file's names, in either direction."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from robust_jax.interop.architecture import Architecture, Path
from robust_jax.interop.torch_file import Tensor, as_numpy
from robust_jax.models import Classifier, Normalization, default_layers
from robust_jax.models.head import HeadOptions
from robust_jax.types import Variables

_ARRAY_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

_NORMALIZATION_NAMES = (
    ("mu", "sigma"),
    ("mean", "std"),
    ("normalize.mean", "normalize.std"),
    ("0.mean", "0.std"),
)
"""What files call the mean and deviation that their network normalises images by."""


@functools.cache
def expected(design: Architecture) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the shape of every array of a member's classifier, by path, without constants."""
    backbone = design.member.make(design.task.num_classes, default_layers())
    images = jax.ShapeDtypeStruct((1, *design.task.input_shape), jnp.float32)
    variables: Variables = jax.eval_shape(
        lambda key, images: Classifier(backbone).init(key, images, train=False, deterministic=True),
        jax.random.key(0),
        images,
    )
    return {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(variables).items()
        if isinstance(leaf, jax.ShapeDtypeStruct)
    }


def names(design: Architecture, prefix: str) -> dict[Path, str]:
    """Returns the name in the file of every array of a member, by its path in our variables."""
    return {
        # A path is collection, "backbone", modules..., array.
        path: f"{prefix}{design.module_name(path[2:-1])}.{_ARRAY_NAMES[path[-1]]}"
        for path in expected(design)
    }


def _side(design: Architecture, path: Path) -> int:
    """Returns the side of the grid that a linear layer's input is flattened of; 1 for no grid."""
    member = design.member
    if not isinstance(member, HeadOptions):
        return 1
    return member.positions if path[-2] == ("hidden1" if member.hidden else "linear") else 1


def from_torch(value: np.ndarray, design: Architecture, path: Path) -> np.ndarray:
    """Returns an array of a file in our order of axes: input channels and outputs come last."""
    if value.ndim == 4:  # output, input, height, width -> height, width, input, output
        return value.transpose(2, 3, 1, 0)
    if value.ndim != 2:
        return value
    side = _side(design, path)
    if value.shape[1] % side**2 == 0:
        # Columns of channel, height, width -> height, width, channel.
        grid = value.reshape(len(value), -1, side, side)
        value = grid.transpose(0, 2, 3, 1).reshape(value.shape)
    return value.T


def to_torch(value: np.ndarray, design: Architecture, path: Path) -> np.ndarray:
    """Returns one of our arrays in PyTorch's order of axes: what `from_torch` undoes."""
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        side = _side(design, path)
        grid = value.T.reshape(value.shape[1], side, side, -1)
        value = grid.transpose(0, 3, 1, 2).reshape(value.T.shape)
    return np.array(value, order="C")


def member_variables(
    design: Architecture,
    member: Mapping[Path, str],
    given: Mapping[str, Tensor | np.ndarray],
) -> dict[str, PyTree]:
    """Returns the variables of a member's classifier.

    Args:
        design: whose member it is; its normalisation becomes constants.
        member: the name of every array, by its path.
        given: the arrays by name.

    Raises:
        ValueError: an array of another shape or kind, or with a value that cannot be.
    """
    found = {}
    for path, wanted in expected(design).items():
        name = member[path]
        value = as_numpy(given[name], name)
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"Expected {name} of dtype {value.dtype} to be floating.")
        value = from_torch(value, design, path)
        if value.shape != wanted.shape:
            shape = wanted.shape  # in PyTorch's order, as in the file
            shape = (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape
            raise ValueError(
                f"Expected {name} of shape {tuple(given[name].shape)} to fit {shape} "
                f"({'/'.join(path)})."
            )
        if not np.all(np.isfinite(value)):
            raise ValueError(f"Expected {name} to be finite.")
        if path[-1] == "var" and np.any(value < 0):
            raise ValueError(f"Expected {name} >= 0: it is a variance.")
        found[path] = jnp.asarray(value, wanted.dtype)
    normalization = design.normalization
    if normalization is not None and normalization.mean:
        found["constants", "mean"] = jnp.asarray(normalization.mean, jnp.float32)
        found["constants", "std"] = jnp.asarray(normalization.std, jnp.float32)
    return traverse_util.unflatten_dict(found)


def normalization_in(
    given: Mapping[str, Tensor | np.ndarray],
) -> tuple[Normalization | None, frozenset[str]]:
    """Returns the normalisation that a file holds, None where it holds none, and its names.

    Raises:
        ValueError: it is not a number for each of three channels, or not of pixels in [0, 1].
    """
    for pair in _NORMALIZATION_NAMES:
        if not set(pair) <= set(given):
            continue
        values = [as_numpy(given[name], name).reshape(-1) for name in pair]
        if any(len(value) != 3 or not np.all(np.isfinite(value)) for value in values):
            raise ValueError(f"Expected {' and '.join(pair)} to be 3 numbers each.")
        if min(values[0]) < 0 or min(values[1]) <= 0 or max(map(max, values)) > 1:
            raise ValueError(f"Expected {' and '.join(pair)} to be of pixels in [0, 1].")
        # The shortest numbers that are these in float32.
        mean, std = (
            tuple(float(str(each)) for each in value.astype(np.float32)) for value in values
        )
        return Normalization(mean=mean, std=std), frozenset(pair)
    return None, frozenset()
