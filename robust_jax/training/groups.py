"""Groups of a network's parameters, by name: what is frozen, what has a rate of its own."""

import fnmatch
from collections.abc import Sequence

import jax
from jaxtyping import PyTree

Path = tuple[object, ...]
"""Of a parameter in its tree, as `jax.tree_util` has it."""


def is_named(path: Path, name: str) -> bool:
    """Returns whether a parameter belongs to a name.

    Args:
        path: of the parameter in its tree.
        name: of an array, a layer, a block, or a path of them, "layer1_0.conv1.kernel"; in each
            of its parts "*" stands for anything.

    Example:
        >>> from robust_jax.training.groups import is_named
        >>> params = {"backbone": {"layer1_0": {"conv1": {"kernel": 0.0}}}}
        >>> ((path, _),) = jax.tree_util.tree_leaves_with_path(params)
        >>> [is_named(path, name) for name in ("conv1", "backbone.layer1_*", "conv2", "conv1.bias")]
        [True, True, False, False]
    """
    parts, wanted = _parts(path), name.split(".")
    starts = range(len(parts) - len(wanted) + 1)
    return any(all(map(fnmatch.fnmatchcase, parts[start:], wanted)) for start in starts)


def check_names(params: PyTree, field: str, names: Sequence[str]) -> None:
    """Checks that every name is one of a parameter; shapes are enough.

    Raises:
        ValueError: names those that are not.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    unknown = sorted(name for name in names if not any(is_named(path, name) for path in paths))
    if unknown:
        layers = dict.fromkeys(part for path in paths for part in _parts(path[-2:]))
        raise ValueError(
            f"Expected {field}={unknown} to be names of parameters, of {list(layers)}."
        )


def moving(params: PyTree, frozen: Sequence[str]) -> PyTree:
    """Returns a tree, True at what no name of `frozen` is of.

    Raises:
        ValueError: nothing moves.
    """
    tree = jax.tree_util.tree_map_with_path(
        lambda path, _: not any(is_named(path, name) for name in frozen), params
    )
    if not any(jax.tree.leaves(tree)):
        raise ValueError(f"Expected frozen={list(frozen)} to leave a parameter that moves.")
    return tree


def numbers(params: PyTree, names: Sequence[str]) -> PyTree:
    """Returns a tree of numbers: 0 at what belongs to no name, N at what belongs to the N-th.

    Raises:
        ValueError: a parameter belongs to two.
    """

    def number(path: Path, _: object) -> int:
        found = [name for name in names if is_named(path, name)]
        if len(found) > 1:
            where = ".".join(_parts(path))
            raise ValueError(f"Expected rates={found} to be of different parameters, not {where}.")
        return names.index(found[0]) + 1 if found else 0

    return jax.tree_util.tree_map_with_path(number, params)


def _parts(path: Path) -> list[str]:
    return [str(getattr(key, "key", key)) for key in path]
