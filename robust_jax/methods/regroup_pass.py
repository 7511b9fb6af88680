"""The outputs of a network's layers, before or after BatchNorm, in one forward pass (REGroup)."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from robust_jax import voting
from robust_jax.models import BatchNorm
from robust_jax.models.base import Taps, in_network_order
from robust_jax.types import Outputs, Variables


class Pass(NamedTuple):
    """A forward pass of the network.

    Attributes:
        logits: of the network's vote over its members.
        layers: outputs of the layers that may vote, in network order.
    """

    logits: Float[Array, "b c"]
    layers: dict[str, Array]


class NormWithResponse(BatchNorm):
    """BatchNorm that also sows its output into "responses"."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "*b k"]:
        """Returns the normalised activations."""
        y = super().__call__(x, train=train, deterministic=deterministic)
        self.sow("responses", "output", y)
        return y


def run(
    network: nn.Module, variables: Variables, images: Float[Array, "b h w k"], vote: voting.Vote
) -> Pass:
    """Returns the outputs of convolutions and linear layers, or of BatchNorms that sow theirs.

    Args:
        network: a classifier; of `NormWithResponse` layers where BatchNorm's outputs are asked for.
        variables: its own, and what a fit added.
        images: with running statistics.
        vote: of the network's members.
    """
    own = {name: value for name, value in variables.items() if name != "fitted"}
    outputs: Outputs
    outputs, sown = network.apply(
        own, images, train=False, deterministic=True, mutable=["responses"]
    )
    taps = {name: tap for name, tap in outputs.taps.items() if not name.endswith(".pre_act")}
    if "responses" in sown:
        found = Taps()
        # The order of the calls: apply keeps it.
        for path, value in _sown(sown["responses"]["backbone"]):
            found.add(path, value)
        found.add("head", outputs.taps[in_network_order(taps)[-1]])
        taps = dict(found)
    logits = voting.logits(outputs.member_logits, vote)
    return Pass(logits, {name: taps[name] for name in in_network_order(taps)})


def _sown(tree: Mapping[str, PyTree], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Array]]:
    for name, value in tree.items():
        if name == "output":
            (output,) = value  # one call
            yield ".".join(path), output
        else:
            yield from _sown(value, (*path, name))
