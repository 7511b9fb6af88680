"""What a run starts from: fresh variables, a checkpoint's, or those of several as members."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from robust_jax import rng
from robust_jax.data import Data
from robust_jax.experiment import checkpoints
from robust_jax.experiment.config import Config
from robust_jax.experiment.weights import check_architecture, check_function
from robust_jax.methods import Method, MethodConfig, RandomLayerSampling, Standard
from robust_jax.models import EnsembleConfig, Normalization, stack_members
from robust_jax.runtime import logging
from robust_jax.runtime.compilation import jitted
from robust_jax.runtime.sharding import local, replicated
from robust_jax.types import Variables

_HEAD = "linear"
"""A network's last linear layer: of all its arrays the classes shape these alone."""


def init_variables(
    config: Config, data: Data, method: Method, mesh: Mesh, *, gone_on_with: bool = False
) -> Variables:
    """Returns the variables that training starts from, replicated over the mesh.

    Fresh ones from the seed, with the training images' statistics where the network normalises by
    them; or those of `init_from`, of which a `fitted` collection is left behind. Where they make
    another network under this method (kernel pooling over a plain network's arrays) a line says so,
    and another says what was not taken where that is the backbone alone.

    Raises:
        ValueError: `init_from` holds no checkpoint, or one of another architecture; or one that
            makes another network, and no step trains it; of several, they are not as many as the
            method has networks, or their images are normalised by different numbers.

    Args:
        config: of the run.
        data: the dataset, for statistics.
        method: `config.method.make(data.task)`.
        mesh: devices.
        gone_on_with: will a checkpoint's arrays take their places? Then neither `init_from`, which
            need not be there any more, is read, nor the images for their statistics.

    Example:
        >>> from robust_jax import experiment
        >>> from robust_jax.data import Blobs, DataConfig, open_data
        >>> from robust_jax.experiment.config import Config
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig
        >>> from robust_jax.runtime import sharding
        >>> network = CNNConfig(widths=(4,), strides=(2,))
        >>> config = Config("blobs", DataConfig(Blobs(image_size=4)), Standard(network), seed=1)
        >>> data, mesh = open_data(config.data), sharding.make_mesh(1)
        >>> method = config.method.make(data.task)
        >>> variables = experiment.init_variables(config, data, method, mesh)
        >>> variables["params"]["backbone"]["conv1"]["kernel"].shape
        (3, 3, 3, 4)
    """

    def fresh() -> Variables:
        init_once = jitted(method.init, out_shardings=replicated(mesh))
        variables = init_once(key=rng.stream(jax.random.key(config.seed), "init"))
        if gone_on_with:
            return variables
        return _with_statistics(variables, config.method.normalization, data, mesh)

    source = config.training.init_from
    if source is None or gone_on_with:
        return fresh()
    expected = jax.eval_shape(method.init, key=jax.random.key(0))
    single, shapes = config.method, expected
    if not isinstance(source, str):
        single, shapes = _one_network(config.method, expected, len(source))
    names = (source,) if isinstance(source, str) else source
    found = {name: checkpoints.load(name, mesh) for name in dict.fromkeys(names)}
    for name, one in found.items():
        _check(name, one, single, shapes, config)
    arrays = [found[name].variables for name in names]
    backbone_alone = config.training.init_part == "backbone"
    if backbone_alone:
        arrays = [_backbone(one) for one in arrays]
    if isinstance(source, str):
        taken = arrays[0]
    else:
        _check_constants(names, arrays)
        taken = _stacked(arrays, config.method, mesh)
    if not backbone_alone:
        return {name: taken[name] for name in expected}
    left = [f"the last linear layer of {found[names[0]].task.num_classes} classes"]
    left += ["the normalisation"] * ("constants" in found[names[0]].variables)
    logging.say(f"init_from {source!r}: the backbone; not taken: {', '.join(left)}.")
    return _over(fresh(), taken)


def _one_network(
    config: MethodConfig, expected: Variables, count: int
) -> tuple[MethodConfig, Variables]:
    """Returns one network of a method that has several, and its arrays' shapes.

    Raises:
        ValueError: it has not as many.
    """
    network = config.network
    if isinstance(config, RandomLayerSampling):
        field, wanted = "num_choices", config.num_choices
    elif isinstance(network, EnsembleConfig):
        field, wanted, network = "num_members", network.num_members, network.member
        expected = {
            name: {"backbone": c["backbone"]["member"]} if "backbone" in c else c
            for name, c in expected.items()
        }
    else:
        raise ValueError(
            f"Expected init_from of {count} checkpoints with an EnsembleConfig, or with "
            f"RandomLayerSampling, not with {type(config).__name__} of {type(network).__name__}."
        )
    if count != wanted:
        raise ValueError(f"Expected init_from of {count} checkpoints to be {field}={wanted}.")
    single = Standard(
        network=network, normalization=config.normalization, changes=config.all_changes
    )

    def first(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    shapes = {
        name: jax.tree.map(first, c) if "backbone" in c else c for name, c in expected.items()
    }
    return single, shapes


def _check(
    name: str,
    found: checkpoints.Checkpoint,
    method: MethodConfig,
    expected: Variables,
    config: Config,
) -> None:
    """Checks that a checkpoint's arrays are of this architecture, and make the same network.

    Raises:
        ValueError: they are of another; or make another, and no step trains it.
    """
    given = found.variables
    if config.training.init_part == "backbone":
        given, expected = _backbone(given), _backbone(expected)
        normalization = found.config.method.normalization
        method = dataclasses.replace(method, normalization=normalization)
    check_architecture(given, expected, name=f"init_from {name!r}")
    if found.config.method.normalization != method.normalization:
        # Its constants are among the arrays that are taken, where the network has a place for them.
        taken = "images are normalised by its numbers"
        left = "its images were normalised, the network's are not"
        logging.say(f"Warning: init_from {name!r}: {taken if 'constants' in expected else left}.")
    try:
        check_function(found.config.method, method, found.task, found.variables)
    except ValueError as error:
        if not config.training.phases:
            raise ValueError(f"Expected init_from={name!r} to fit: {error}") from error
        logging.say(f"Warning: init_from {name!r}: {error}")


def _check_constants(names: Sequence[str], arrays: Sequence[Variables]) -> None:
    """Checks that the networks see images normalised by the same numbers."""
    first = jax.tree.map(np.asarray, local(arrays[0].get("constants", {})))
    for name, one in zip(names, arrays, strict=True):
        here = jax.tree.map(np.asarray, local(one.get("constants", {})))
        alike = jax.tree.structure(first) == jax.tree.structure(here)
        if not alike or not all(jax.tree.leaves(jax.tree.map(np.array_equal, first, here))):
            raise ValueError(
                f"Expected init_from={name!r} to normalise images by the numbers of {names[0]!r}."
            )


def _stacked(arrays: Sequence[Variables], config: MethodConfig, mesh: Mesh) -> Variables:
    """Returns the arrays of the method that has these networks, in their order."""

    def stack(arrays: Sequence[Variables]) -> Variables:
        stacked = stack_members(arrays)
        if not isinstance(config, RandomLayerSampling):
            return stacked
        # Its layers have the names of a plain network's.
        return {
            name: {"backbone": c["backbone"]["member"]} if "backbone" in c else c
            for name, c in stacked.items()
        }

    return jitted(stack, out_shardings=replicated(mesh))(arrays)


def _backbone(variables: Variables) -> Variables:
    """Returns the arrays of the network, but for its last linear layer."""

    def features(tree: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
        if "member" in tree:
            return {"member": features(tree["member"])}
        return {name: value for name, value in tree.items() if name != _HEAD}

    return {
        name: {"backbone": features(collection["backbone"])}
        for name, collection in variables.items()
        if name != "fitted" and "backbone" in collection
    }


def _over(below: Mapping[str, PyTree], above: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Returns the first tree with the leaves of the second in their places."""
    found: dict[str, PyTree] = {**below, **above}
    deeper = [n for n in below if n in above and isinstance(below[n], Mapping)]
    return found | {name: _over(below[name], above[name]) for name in deeper}


def _with_statistics(
    variables: Variables, normalization: Normalization, data: Data, mesh: Mesh
) -> Variables:
    if normalization.statistics == "given":
        return variables
    found = data.statistics
    constants = {"mean": found.pixel_mean, "std": jnp.ones_like(found.pixel_mean)}
    if normalization.statistics == "train_channel":
        constants = {"mean": found.channel_mean, "std": found.channel_std}
    return {**variables, "constants": jax.device_put(constants, replicated(mesh))}
