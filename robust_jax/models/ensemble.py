"""Ensembles: one module whose variables carry a leading member axis."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, TypeVarTuple, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from robust_jax import checks
from robust_jax.models.base import Backbone, NetworkConfig, Taps
from robust_jax.models.layers import Layers
from robust_jax.types import Outputs, Variables

T = TypeVar("T")
Shares = TypeVarTuple("Shares")

Strategy = Literal["auto", "map", "unroll", "vmap"]


def _resolved(strategy: Strategy) -> Strategy:
    """Returns what "auto" is on this device."""
    if strategy != "auto":
        return strategy
    return "map" if jax.default_backend() == "cpu" else "vmap"


@dataclasses.dataclass(frozen=True)
class EnsembleConfig(NetworkConfig):
    """Members of one architecture, initialised independently.

    Attributes:
        member: architecture of every member.
        num_members: how many.
        strategy: how members run. "map" one after another in a loop, "unroll" the same without
            a loop, "vmap" at once; "auto" is "map" on the CPU (there a batched convolution is a
            slow grouped one) and "vmap" elsewhere. It changes speed, not results.

    Raises:
        ValueError: a member that is an ensemble, or less than one.

    Example:
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import CNNConfig, EnsembleConfig
        >>> from robust_jax.types import Task
        >>> network = EnsembleConfig(CNNConfig(widths=(4,), strides=(2,)), num_members=3)
        >>> task = Task((8, 8, 1), num_classes=10, num_train=1000)
        >>> method = Standard(network, vote="majority_mean_probability").make(task)
        >>> variables = jax.eval_shape(lambda key: method.init(key=key), jax.random.key(0))
        >>> {leaf.shape[0] for leaf in jax.tree.leaves(variables["params"])}  # members lead
        {3}
    """

    member: NetworkConfig
    num_members: int = 3
    strategy: Strategy = "auto"

    def __post_init__(self):
        if isinstance(self.member, EnsembleConfig):
            raise ValueError(
                f"Expected member of class {type(self.member).__name__} to be a single network."
            )
        checks.at_least(self, 1, "num_members")
        checks.one_of(self, "strategy", get_args(Strategy))

    def make(self, num_classes: int, layers: Layers) -> "Ensemble":
        """Returns the ensemble."""
        return Ensemble(config=self, num_classes=num_classes, layers=layers)


class Ensemble(Backbone):
    """Backbone of `EnsembleConfig`.

    Every leaf of its variables has a leading member axis. Members see the same images; their
    parameters and their "sample" draws are independent.
    """

    config: EnsembleConfig
    num_classes: int
    layers: Layers

    def setup(self):
        self.member = self.config.member.make(self.num_classes, self.layers)

    def _over_members(
        self, function: Callable[[Backbone, Array], T], x: Array, *, shared: bool
    ) -> T:
        """Returns function(member, x) of all members, stacked; x is shared or has a member axis."""
        num_members, strategy = self.config.num_members, _resolved(self.config.strategy)
        axes: PyTree = None if shared else 0
        if strategy == "vmap":
            return nn.vmap(
                function,
                variable_axes={True: 0},
                split_rngs={True: True},
                in_axes=axes,
                axis_size=num_members,
            )(self.member, x)
        axes = nn.broadcast if shared else 0
        _, stacked = nn.scan(
            lambda member, carry, x: (carry, function(member, x)),
            variable_axes={True: 0},
            split_rngs={True: True},
            in_axes=axes,
            length=num_members,
            # A second trace would count every random draw twice: other draws than under vmap.
            check_constancy_invariants=False,
            unroll=num_members if strategy == "unroll" else 1,
        )(self.member, (), x)
        return stacked

    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "m b f"], dict[str, Array]]:
        """Returns every member's pooled features and taps, stacked."""
        return self._over_members(
            lambda member, x: member.features(x, train=train, deterministic=deterministic),
            images,
            shared=True,
        )

    def head(
        self, features: Float[Array, "m b f"], *, train: bool, deterministic: bool
    ) -> Float[Array, "m b c"]:
        """Returns every member's logits of its own features."""
        return self._over_members(
            lambda member, x: member.head(x, train=train, deterministic=deterministic),
            features,
            shared=False,
        )

    def __call__(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Outputs:
        """Returns the members' outputs; `logits` is the mean of their logits."""
        mode = {"train": train, "deterministic": deterministic}
        features, found = self.features(images, **mode)
        member_logits = self.head(features, **mode)
        taps = Taps(found)
        taps.add("head", member_logits)
        return Outputs(jnp.mean(member_logits, 0), member_logits, features, dict(taps))


def member_variables(variables: Variables, member: int) -> dict[str, PyTree]:
    """Returns the variables of a classifier around one member alone.

    Args:
        variables: of a `Classifier` around an ensemble.
        member: which one.

    Guarantees:
        `Classifier(backbone=config.member.make(...))` applied to them gives that member's
        logits, `member_logits[member]` of the ensemble (of a network without sampling).

    Raises:
        ValueError: there is no such member.

    Example:
        >>> from robust_jax.models import member_variables
        >>> kernel = jnp.arange(6.0).reshape(3, 2)  # of three members
        >>> ensemble = {"params": {"backbone": {"member": {"linear": {"kernel": kernel}}}}}
        >>> member_variables(ensemble, 1)["params"]["backbone"]["linear"]["kernel"]
        Array([2., 3.], dtype=float32)
    """
    alone: dict[str, PyTree] = {}
    for name, collection in variables.items():
        if "backbone" not in collection:
            alone[name] = collection
            continue
        stacked = collection["backbone"]["member"]
        num_members = jax.tree.leaves(stacked)[0].shape[0]
        if not 0 <= member < num_members:
            raise ValueError(f"Expected 0 <= member={member} < {num_members}.")
        alone[name] = {"backbone": jax.tree.map(lambda leaf: leaf[member], stacked)}
    return alone


def ensemble_of_one(variables: Variables, member: Int[Array, ""] | int) -> dict[str, PyTree]:
    """Returns the variables of a classifier around an ensemble that has one of these members.

    Args:
        variables: of a `Classifier` around an ensemble.
        member: which one; it may be traced.
    """

    def alone(leaf: Array) -> Array:
        return lax.dynamic_slice_in_dim(leaf, member, 1)

    return {
        name: {"backbone": jax.tree.map(alone, value["backbone"])} if "backbone" in value else value
        for name, value in variables.items()
    }


def stack_members(members: Sequence[Variables]) -> dict[str, PyTree]:
    """Returns the variables of a classifier around an ensemble of these members.

    Args:
        members: variables of classifiers around one member each; what lies outside the backbone
            (normalisation) is taken from the first.

    Raises:
        ValueError: there are no members.

    Example:
        >>> from robust_jax.models import member_variables, stack_members
        >>> runs = [{"params": {"backbone": {"kernel": jnp.full(2, seed)}}} for seed in (0, 1)]
        >>> ensemble = stack_members(runs)  # of the weights that two runs have trained
        >>> ensemble["params"]["backbone"]["member"]["kernel"].shape
        (2, 2)
        >>> member_variables(ensemble, 1)["params"]["backbone"]["kernel"].max().item()
        1
    """
    if not members:
        raise ValueError("Expected members=[] not to be empty.")
    stacked: dict[str, PyTree] = {}
    for name, collection in members[0].items():
        if "backbone" not in collection:
            stacked[name] = collection
            continue
        backbones = [member[name]["backbone"] for member in members]
        stacked[name] = {
            "backbone": {"member": jax.tree.map(lambda *leaves: jnp.stack(leaves), *backbones)}
        }
    return stacked


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


def check_single(network: NetworkConfig) -> None:
    """Raises ValueError where a network is an ensemble."""
    if isinstance(network, EnsembleConfig):
        raise ValueError("Expected network=EnsembleConfig(...) to be a single network.")


def map_members(
    function: Callable[[Variables, *Shares], T],
    variables: Variables,
    *others: *Shares,
    strategy: Strategy = "auto",
) -> T:
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

    def one(members: tuple[Variables, *Shares]) -> T:
        alone, rest = members[0], members[1:]
        return function({**shared, **{name: {"backbone": v} for name, v in alone.items()}}, *rest)

    if (how := _resolved(strategy)) == "vmap":
        return jax.vmap(one)((stacked, *others))
    num_members = jax.tree.leaves(stacked)[0].shape[0]
    _, found = lax.scan(
        lambda carry, members: (carry, one(members)),
        (),
        (stacked, *others),
        unroll=num_members if how == "unroll" else 1,
    )
    return found


def of_ensemble(collections: Variables) -> Variables:
    """Returns collections that `map_members` stacked in the layout of the ensemble."""
    return {name: {"backbone": {"member": c["backbone"]}} for name, c in collections.items()}
