"""The members of an ensemble, one by one: what losses ask of each by itself."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import jax
from jax import lax

from robust_jax.methods.base import MethodConfig
from robust_jax.models import Classifier, EnsembleConfig, Layers, NetworkConfig, changed
from robust_jax.models.ensemble import Strategy
from robust_jax.types import Task, Variables

Found = TypeVar("Found")
Shares = TypeVarTuple("Shares")


def check_ensemble(network: NetworkConfig) -> EnsembleConfig:
    """Returns the network.

    Raises:
        ValueError: it is not an ensemble of at least two members.
    """
    if not isinstance(network, EnsembleConfig):
        raise ValueError(f"Expected network={type(network).__name__} to be an EnsembleConfig.")
    if network.num_members < 2:
        raise ValueError(f"Expected num_members={network.num_members} >= 2: members form pairs.")
    return network


def map_members(
    function: Callable[[Variables, *Shares], Found],
    variables: Variables,
    *others: *Shares,
    strategy: Strategy = "auto",
) -> Found:
    """Returns function(variables, *others) of every member, stacked: arrays with a member axis.

    Args:
        function: of the variables of a classifier around one member, and of its share of `others`.
        variables: of a classifier around an ensemble.
        *others: arrays with a leading member axis.
        strategy: how members run, see `EnsembleConfig`.
    """
    stacked = {
        name: collection["backbone"]["member"]
        for name, collection in variables.items()
        if "backbone" in collection
    }
    shared = {name: value for name, value in variables.items() if name not in stacked}

    def one(members: tuple[Variables, *Shares]) -> Found:
        alone, rest = members[0], members[1:]
        return function({**shared, **{name: {"backbone": v} for name, v in alone.items()}}, *rest)

    if strategy == "auto":
        strategy = "map" if jax.default_backend() == "cpu" else "vmap"
    if strategy == "vmap":
        return jax.vmap(one)((stacked, *others))
    num_members = jax.tree.leaves(stacked)[0].shape[0]
    _, found = lax.scan(
        lambda carry, members: (carry, one(members)),
        (),
        (stacked, *others),
        unroll=num_members if strategy == "unroll" else 1,
    )
    return found


def of_ensemble(collections: Variables) -> Variables:
    """Returns collections that `map_members` stacked in the layout of the ensemble."""
    return {name: {"backbone": {"member": c["backbone"]}} for name, c in collections.items()}


def member_classifier(config: MethodConfig, task: Task, layers: Layers) -> Classifier:
    """Returns a classifier around one member of an ensemble, or around a single network.

    Args:
        config: the method's.
        task: the dataset's shape.
        layers: before they are changed as the configuration says.
    """
    network = config.network
    member = network.member if isinstance(network, EnsembleConfig) else network
    backbone = member.make(task.num_classes, changed(layers, config.all_changes))
    return Classifier(backbone, config.normalization, config.dtype)
