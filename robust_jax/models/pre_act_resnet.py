"""PreAct-ResNets of CIFAR, and the block that wide residual networks are made of too."""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax import checks
from robust_jax.models.base import SingleNetwork, Taps
from robust_jax.models.layers import Kind, Layers
from robust_jax.models.norm import Framework
from robust_jax.models.residual import (
    BlockOptions,
    LayerMaker,
    ResidualConfig,
    residual_sum,
    stage_widths,
)

ShortcutStart = Literal["activated", "raw"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each stage."""


@dataclasses.dataclass(frozen=True)
class PreActResNetConfig(ResidualConfig):
    """PreAct-ResNet in its common CIFAR form: norm and activation before each convolution.

    3 x 3 stem; a block that changes the shape projects what it is given by a convolution. Depths 18
    and 34 have basic blocks, 50 bottlenecks.

    Attributes:
        widths: of each stage (of a bottleneck's inner convolutions); None is 64, 128, 256, 512.
        width_multiplier: multiplies all of them.
        final_norm: norm and activation before the pooling, as the adversarial-training
            literature has it (Rice et al., Wong et al., 2020).
        activation: "relu", "leaky_relu" or "silu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`.
        depth: 18, 34 or 50.
        stem_norm: norm and activation after the stem?
        shortcut_start: where a projection starts: at the "activated" input of the block, or at its
            "raw" one, as Wong et al. and DeepMind have it.
        shortcut_size: side of its kernel, 1 or 3.
        shortcut_norm: is there a norm after it?

    References:
        He et al., "Identity mappings in deep residual networks", 2016, figure 4e.

    Raises:
        ValueError: another depth or shortcut, or widths that are no whole numbers.

    Example:
        >>> from robust_jax.models import PreActResNetConfig
        >>> config = PreActResNetConfig(depth=18, width_multiplier=0.25)
        >>> config.stage_widths
        (16, 32, 64, 128)
    """

    widths: tuple[int, ...] | None = None
    width_multiplier: float = 1.0
    final_norm: bool = True
    activation: Kind = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"
    depth: int = 18
    stem_norm: bool = False
    shortcut_start: ShortcutStart = "activated"
    shortcut_size: int = 1
    shortcut_norm: bool = False

    def __post_init__(self):
        super().__post_init__()
        checks.one_of(self, "depth", tuple(_BLOCKS))
        checks.one_of(self, "shortcut_start", get_args(ShortcutStart))
        checks.one_of(self, "shortcut_size", (1, 3))
        _ = self.stage_widths

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage after the multiplier."""
        return stage_widths(self.widths, 4, self.width_multiplier)

    def make(self, num_classes: int, layers: Layers) -> "PreActResNet":
        """Returns the network."""
        return PreActResNet(config=self, num_classes=num_classes, layers=layers)


class PreActBlock(nn.Module):
    """Block with norm and activation before each convolution.

    It is basic (two 3 x 3) or a bottleneck (1 x 1, 3 x 3, 1 x 1 four times as wide); the last three
    fields are `PreActResNetConfig`'s.
    """

    config: BlockOptions
    layers: Layers
    width: int
    strides: int
    bottleneck: bool = False
    shortcut_start: ShortcutStart = "activated"
    shortcut_size: int = 1
    shortcut_norm: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Array, dict[str, Array]]:
        make = LayerMaker(self.config, self.layers, train=train, deterministic=deterministic)
        plan = [(self.width, 3, self.strides), (self.width, 3, 1)]
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.strides), (4 * self.width, 1, 1)]
        taps: dict[str, Array] = {}
        branch, activated = x, x
        for i, (features, size, strides) in enumerate(plan, 1):
            branch = make.act(make.norm(branch, f"norm{i}"))
            activated = branch if i == 1 else activated
            taps[f"conv{i}"] = branch = make.conv(branch, features, size, strides, f"conv{i}")
        shortcut = x
        if self.strides != 1 or x.shape[-1] != branch.shape[-1]:
            start = activated if self.shortcut_start == "activated" else x
            size = self.shortcut_size
            shortcut = make.conv(start, plan[-1][0], size, self.strides, "shortcut")
            taps["shortcut"] = shortcut
            if self.shortcut_norm:
                shortcut = make.norm(shortcut, "shortcut_norm")
        total = residual_sum(branch, shortcut, self.config.branch_gradient)
        taps["pre_act"] = total
        return total, taps


class PreActResNet(SingleNetwork[PreActResNetConfig]):
    """Backbone of `PreActResNetConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns the mean of the last activations over positions, and the taps."""
        config, taps = self.config, Taps()
        make = LayerMaker(config, self.layers, train=train, deterministic=deterministic)
        x = make.conv(images, config.stage_widths[0], 3, 1, "stem_conv")
        taps.add("stem.conv", x)
        if config.stem_norm:
            x = make.act(make.norm(x, "stem_norm"))
        for stage, (width, num_blocks) in enumerate(
            zip(config.stage_widths, _BLOCKS[config.depth], strict=True), 1
        ):
            for i in range(num_blocks):
                block = PreActBlock(
                    config=config,
                    layers=self.layers,
                    width=width,
                    strides=2 if stage > 1 and i == 0 else 1,
                    bottleneck=config.depth == 50,
                    shortcut_start=config.shortcut_start,
                    shortcut_size=config.shortcut_size,
                    shortcut_norm=config.shortcut_norm,
                    name=f"layer{stage}_{i}",
                )
                x, block_taps = block(x, train=train, deterministic=deterministic)
                for name, value in block_taps.items():
                    taps.add(f"layer{stage}.{i}.{name}", value)
        if config.final_norm:
            x = make.act(make.norm(x, "final_norm"))
        return jnp.mean(x, (1, 2)), dict(taps)
