"""How a network runs in training, and what can be asked of its members there."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from robust_jax import rng, voting
from robust_jax.models import LayerChange, Layers, Mode
from robust_jax.models.changes import on_images
from robust_jax.types import MethodView, Variables

Report = dict[str, Float[Array, ""]]


@runtime_checkable
class MakeNetwork(Protocol):
    """Returns the classifier around one member that has other layers."""

    def __call__(self, layers: Layers, /) -> nn.Module: ...


@runtime_checkable
class OfNetwork(Protocol):
    """Returns something of a bound classifier on images."""

    def __call__(self, network: nn.Module, images: Float[Array, "b h w k"], /) -> PyTree: ...


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Returns the mean cross-entropy, targets smoothed over all classes."""
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


class Member(NamedTuple):
    """One member in the pass of a batch.

    Attributes:
        network: a classifier around it.
        variables: its own.
        images: of the batch, as the network is given them.
        key: of its random layers; None of a member that draws nothing.
        make: its network with other layers.
        changes: of its network.
    """

    network: nn.Module
    variables: Variables
    images: Float[Array, "b h w k"]
    key: Key[Array, ""] | None = None
    make: MakeNetwork | None = None
    changes: tuple[LayerChange, ...] = ()

    @property
    def rngs(self) -> dict[str, Key[Array, ""]] | None:
        """Returns the draws of its random layers, as flax takes them."""
        return None if self.key is None else {"sample": self.key}

    def apply(self, images: Float[Array, "b h w k"], method: OfNetwork) -> tuple[PyTree, Variables]:
        """Returns what a function of the bound network and of images gives, and moved statistics.

        Args:
            images: as the network is given them.
            method: of the network, in training mode.
        """
        return self.network.apply(
            self.variables, images, method=method, rngs=self.rngs, mutable=["batch_stats"]
        )

    def logits(self) -> tuple[Float[Array, "b c"], Variables]:
        """Returns the logits in training, and moved statistics."""
        mode = {"train": True, "deterministic": self.key is None}
        return self.apply(self.images, lambda network, images: network(images, **mode).logits)

    def train(
        self, statistics: Variables, images: Float[Array, "b h w k"], *counters: Int[Array, ""]
    ) -> tuple[Float[Array, "b c"], Variables]:
        """Returns the logits of images in training, and the statistics that they leave.

        Args:
            statistics: that the member has.
            images: before they are changed.
            *counters: of the draws, where there are several such passes.
        """
        key = None if self.key is None else rng.stream(self.key, "images", *counters)
        seen = on_images(self.changes, images, Mode(True, key is None), key)
        variables = {**self.variables, **statistics}
        return self._replace(variables=variables, images=seen, key=key).logits()


@dataclasses.dataclass(frozen=True)
class Quantity(abc.ABC):
    """Arrays of one member that a term asks; of all members they are stacked.

    Example:
        >>> import dataclasses
        >>> from robust_jax.methods import Quantity
        >>> @dataclasses.dataclass(frozen=True)
        ... class KernelNorm(Quantity):
        ...     def __call__(self, member):
        ...         leaves = jax.tree.leaves(member.variables["params"])
        ...         return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))
        >>> KernelNorm() == KernelNorm()  # equal ones are computed once
        True
    """

    @abc.abstractmethod
    def __call__(self, member: Member) -> PyTree:
        """Returns them."""


class Asked(NamedTuple):
    """What the terms of a loss ask beside logits.

    Attributes:
        gradients: those of the members' losses at the images?
        quantities: of every member.
        apart: members run one by one all the same, so that draws are those of a pass that did.
    """

    gradients: bool = False
    quantities: tuple[Quantity, ...] = ()
    apart: bool = False


class Members(NamedTuple):
    """What the members of a network, or its draws, give on a batch in training.

    Attributes:
        logits: of each.
        moved: collections after it.
        losses: each one's mean cross-entropy; None where gradients are not asked.
        gradients: of these at the images, flattened; None if not asked.
        quantities: those that were asked.
        report: what is told of the pass itself.
    """

    logits: Float[Array, "m b c"]
    moved: Variables
    losses: Float[Array, " m"] | None = None
    gradients: Float[Array, "m b d"] | None = None
    quantities: Mapping[Quantity, PyTree] = MappingProxyType({})
    report: Mapping[str, Float[Array, ""]] = MappingProxyType({})


@runtime_checkable
class Run(Protocol):
    """Returns what members give on images, in training mode."""

    def __call__(
        self,
        variables: Variables,
        images: Float[Array, "b h w k"],
        labels: Int[Array, " b"],
        /,
        *,
        key: Key[Array, ""] | None,
        asked: Asked,
    ) -> Members: ...


Found = TypeVar("Found")


@runtime_checkable
class OverMembers(Protocol):
    """Returns function(member, *shares) of every member, stacked: arrays with a member axis."""

    def __call__(
        self,
        function: Callable[..., Found],
        variables: Variables,
        images: Float[Array, "b h w k"],
        *shares: Array,
        key: Key[Array, ""] | None,
    ) -> Found: ...


class Runs(NamedTuple):
    """How a network runs in training.

    Attributes:
        run: all members, or draws.
        gradients: can they be asked?
        quantities: can they be asked?
        over_members: one member by itself; None where there is none.
    """

    run: Run
    gradients: bool = True
    quantities: bool = True
    over_members: OverMembers | None = None


def training_view(runs: Runs, vote: voting.Vote) -> MethodView:
    """Returns the view `train`: the vote's logits as the members run in training."""

    def train(variables, images, *, key):
        labels = jnp.zeros(len(images), jnp.int32)
        found = runs.run(variables, images, labels, key=key, asked=Asked())
        return voting.logits(found.logits, vote)

    return train
