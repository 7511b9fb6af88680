"""From a network's last activations to what its last linear layer sees."""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from robust_jax.models.base import LayerOptions, Taps
from robust_jax.models.layers import Layers


@runtime_checkable
class HeadOptions(LayerOptions, Protocol):
    """What a configuration says of what comes before the last linear layer.

    `positions` is the side of the grid that the last activations are averaged to, and flattened,
    `hidden` the sizes of the linear layers before the last.
    """

    @property
    def positions(self) -> int: ...

    @property
    def hidden(self) -> tuple[int, ...]: ...


def check_head(config: HeadOptions) -> None:
    """Checks the fields of a configuration that `before_last` reads.

    Raises:
        ValueError: a size below 1.
    """
    if any(size < 1 for size in config.hidden):
        raise ValueError(f"Expected hidden={config.hidden} to be positive.")
    if config.positions < 1:
        raise ValueError(f"Expected positions={config.positions} >= 1.")


def before_last(
    x: Float[Array, "b h w k"],
    config: HeadOptions,
    layers: Layers,
    taps: Taps,
    *,
    train: bool,
    deterministic: bool,
) -> Float[Array, "b f"]:
    """Returns the activations averaged to a grid of positions, then through the hidden layers.

    Call it inside a module's compact method: the layers are called "hidden1", "hidden2", ...

    Args:
        x: the last activations.
        config: of the network.
        layers: factories of the linear layers and activations.
        taps: gets a tap for each hidden layer.
        train: see `layers`.
        deterministic: see `layers`.
    """
    mode = {"train": train, "deterministic": deterministic}
    if config.positions == 1:
        x = jnp.mean(x, (1, 2))
    else:
        x = averaged(x, config.positions).reshape(len(x), -1)
    for i, size in enumerate(config.hidden, 1):
        linear = layers.dense(features=size, framework=config.framework, name=f"hidden{i}")
        x = linear(x, **mode)
        taps.add(f"hidden{i}", x)
        x = layers.act(kind=config.activation, negative_slope=config.negative_slope)(x, **mode)
    return x


def averaged(x: Float[Array, "b h w k"], positions: int) -> Float[Array, "b p p k"]:
    """Returns x averaged over equal cells, or repeated into them."""
    for axis in (1, 2):
        size = x.shape[axis]
        if size % positions == 0:
            shape = (*x.shape[:axis], positions, size // positions, *x.shape[axis + 1 :])
            x = jnp.mean(x.reshape(shape), axis=axis + 1) if size > positions else x
        elif positions % size == 0:
            x = jnp.repeat(x, positions // size, axis=axis)
        else:
            raise ValueError(
                f"Expected positions={positions} to divide or be divided by {size} positions."
            )
    return x
