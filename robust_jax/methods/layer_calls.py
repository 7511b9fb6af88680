"""What the layers of a network are given and return, in the order of its forward pass."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.methods.runs import Member
from robust_jax.models import Conv

Layer = TypeVar("Layer", bound=nn.Module)


@contextlib.contextmanager
def noting_calls(kind: type[Layer], note: Callable[[Layer, Array, Array], None]) -> Iterator[None]:
    """Has the calls of layers noted while the context lasts.

    Args:
        kind: class of the layers.
        note: is given a layer, its input and its output, after each call.
    """

    def record(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if isinstance(context.module, kind) and context.method_name == "__call__":
            note(context.module, arguments[0], output)
        return output

    with nn.intercept_methods(record):
        yield


class Convolution(NamedTuple):
    """One convolution of a forward pass.

    Attributes:
        module: the layer.
        path: of its parameters.
        images: what it was given.
        output: what it returned, before normalisation and activation.
    """

    module: Conv
    path: tuple[str, ...]
    images: Float[Array, "b h w k"]
    output: Float[Array, "b out_h out_w features"]


def first_convolutions(member: Member, *, train: bool, num_layers: int) -> list[Convolution]:
    """Returns the first 3 x 3 convolutions of a member's forward pass, in its order.

    Projections (1 x 1) and larger stems do not count. What lies behind the last is never computed.

    Raises:
        ValueError: the network has fewer.
    """
    found: list[Convolution] = []

    def note(layer: Conv, images: Array, output: Array) -> None:
        if layer.kernel_size == (3, 3):
            found.append(Convolution(layer.copy(parent=None), layer.path, images, output))

    with noting_calls(Conv, note):
        member.network.apply(
            member.variables,
            member.images,
            train=train,
            deterministic=member.key is None,
            rngs=member.rngs,
            mutable=["batch_stats"] if train else [],
        )
    if len(found) < num_layers:
        raise ValueError(
            f"Expected num_layers={num_layers} <= {len(found)}, the network's 3 x 3 convolutions."
        )
    return found[:num_layers]
