"""Whether arrays are those that were saved, fit a method, and make the same network."""

import dataclasses

import jax
import numpy as np
from jaxtyping import PyTree

from robust_jax.evaluation.model import fingerprint
from robust_jax.methods import MethodConfig
from robust_jax.runtime.sharding import local
from robust_jax.types import Task, Variables

_TOLERANCE = 1e-3
"""Of the largest logit: two ways to compute one float32 network are some 1e-5 apart."""
_VIEWS = ("surrogate", "noise_off_training", "noise_off")
"""Of which the first that a method has is its network without sampling, fit or vote."""


def check_architecture(variables: Variables, expected: Variables, *, name: str) -> None:
    """Checks that every expected array is there with its shape; fitted extras may stand beside.

    Raises:
        ValueError: names the first array that is missing, foreign, or of another shape.
    """
    have = {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_leaves_with_path(variables)}
    want = {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_leaves_with_path(expected)}
    for path, value in want.items():
        if path not in have:
            raise ValueError(f"Expected {name} to hold {path}{value.shape} (another architecture).")
        if have[path].shape != value.shape:
            raise ValueError(
                f"Expected {name}{path}{have[path].shape} to have shape {value.shape} "
                "(another architecture)."
            )
    collections = {path.split("]")[0] for path in want}
    for path in have:
        if path not in want and path.split("]")[0] in collections:
            raise ValueError(f"Expected {name} not to hold {path} (another architecture).")


def check_function(
    first: MethodConfig, second: MethodConfig, task: Task, variables: Variables
) -> None:
    """Checks that two methods make the same network of the same arrays, their sampling off.

    Shapes do not tell: kernel pooling, another activation, another normalisation have the arrays of
    a plain network. Noise, votes and losses may differ.

    Args:
        first: what the arrays are of.
        second: what they are taken for.
        task: the dataset's shape.
        variables: arrays that fit both.

    Raises:
        ValueError: their logits on two random images differ; says how far.
    """
    if first == second:
        return
    images = jax.random.uniform(jax.random.key(0), (2, *task.input_shape))
    arrays = local(variables)
    with jax.default_matmul_precision("highest"):
        ours, theirs = (np.asarray(_logits(one, task, arrays, images)) for one in (second, first))
    scale = np.max(np.abs(theirs), initial=0.0, where=np.isfinite(theirs))
    if not np.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * scale, equal_nan=True):
        raise ValueError(
            f"Expected {type(second).__name__} to make the same network of the arrays as "
            f"{type(first).__name__}, whose they are; logits of up to {scale:.3g} differ by "
            f"{np.max(np.abs(ours - theirs)):.3g}."
        )


def _logits(config: MethodConfig, task: Task, variables: Variables, images: jax.Array) -> jax.Array:
    config = dataclasses.replace(config, dtype=MethodConfig.dtype, vote=MethodConfig.vote)
    views = config.make(task).views
    view = views[next(name for name in _VIEWS if name in views)]
    return jax.jit(lambda arrays, images: view(arrays, images, key=None))(variables, images)


def check_arrays(found: PyTree, kept: object, *, name: str) -> None:
    """Raises ValueError where arrays are not those of the fingerprint that was kept, if any was."""
    if kept not in (None, fingerprint(found)):
        raise ValueError(
            f"Expected {name} to hold the arrays that were saved, {kept}; "
            f"found {fingerprint(found)}."
        )
