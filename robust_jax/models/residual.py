"""What networks of residual blocks share: widths, layers, the sum of branch and shortcut."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array

from robust_jax.models.base import LayerOptions, NetworkConfig
from robust_jax.models.layers import Layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualConfig(NetworkConfig):
    """A network of residual blocks; every one has one place where branch and shortcut meet.

    Attributes:
        branch_gradient: factor of the gradient that flows back through every residual branch
            (gamma of the skip gradient method, for attacks that transfer). It changes neither
            logits nor parameters.

    References:
        Wu, Wang, Xia, Bailey, Ma, "Skip connections matter: on the transferability of adversarial
        examples generated with ResNets", 2020, equation 5 (in every block, while their code leaves
        out the first and rescales the gradient between blocks).

    Example:
        >>> import dataclasses
        >>> from robust_jax.models import ResNetConfig, ResidualConfig
        >>> network = ResNetConfig(depth=20)
        >>> isinstance(network, ResidualConfig)
        True
        >>> dataclasses.replace(network, branch_gradient=0.5).branch_gradient  # for attacks
        0.5
    """

    branch_gradient: float = 1.0

    def __post_init__(self):
        if not 0 <= self.branch_gradient <= 1:
            raise ValueError(f"Expected branch_gradient={self.branch_gradient} in [0, 1].")


@runtime_checkable
class BlockOptions(LayerOptions, Protocol):
    """What a configuration says of every block of its network."""

    @property
    def branch_gradient(self) -> float: ...


def stage_widths(
    widths: tuple[int, ...] | None, num_stages: int, multiplier: float
) -> tuple[int, ...]:
    """Returns the width of each stage.

    Raises:
        ValueError: the widths do not fit the stages, or are no whole positive numbers.
    """
    if widths is None:
        widths = (16, 32, 64) if num_stages == 3 else (64, 128, 256, 512)
    if len(widths) != num_stages:
        raise ValueError(f"Expected widths={widths} to have {num_stages} entries.")
    scaled = tuple(round(width * multiplier) for width in widths)
    exact = all(s == w * multiplier for s, w in zip(scaled, widths, strict=True))
    if min(scaled) < 1 or not exact:
        raise ValueError(
            f"Expected width_multiplier={multiplier} times widths={widths} to be whole and >= 1."
        )
    return scaled


class LayerMaker:
    """The layers of one network as its configuration asks for them, in one mode."""

    def __init__(
        self,
        config: LayerOptions,
        layers: Layers,
        *,
        train: bool,
        deterministic: bool,
        conv_bias: bool = False,
    ) -> None:
        self.config, self.layers, self.conv_bias = config, layers, conv_bias
        self.mode = {"train": train, "deterministic": deterministic}

    def conv(self, x: Array, features: int, size: int, strides: int, name: str) -> Array:
        conv = self.layers.conv(
            features=features,
            kernel_size=(size, size),
            strides=strides,
            use_bias=self.conv_bias,
            framework=self.config.framework,
            name=name,
        )
        return conv(x, **self.mode)

    def norm(self, x: Array, name: str) -> Array:
        return self.layers.norm(framework=self.config.framework, name=name)(x, **self.mode)

    def act(self, x: Array) -> Array:
        config = self.config
        act = self.layers.act(kind=config.activation, negative_slope=config.negative_slope)
        return act(x, **self.mode)


def residual_sum(branch: Array, shortcut: Array, branch_gradient: float) -> Array:
    """Returns the sum of a block's two paths: the one place where they meet."""
    if branch_gradient != 1:
        still = jax.lax.stop_gradient(branch)
        branch = still + branch_gradient * (branch - still)
    return branch + shortcut
