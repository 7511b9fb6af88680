"""PreAct-ResNet-18, and the block that wide residual networks are made of too."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.base import SingleNetwork, Taps
from robust_jax.models.layers import Layers
from robust_jax.models.norm import Framework
from robust_jax.models.residual import (
    BlockOptions,
    LayerMaker,
    ResidualConfig,
    residual_sum,
    stage_widths,
)


@dataclasses.dataclass(frozen=True)
class PreActResNetConfig(ResidualConfig):
    """PreAct-ResNet-18 in its common CIFAR form: norm and activation before each convolution.

    3 x 3 stem without norm; a block that changes the shape projects its activated input by a
    1 x 1 convolution without norm.

    Attributes:
        widths: of each stage; None is 64, 128, 256, 512.
        width_multiplier: multiplies all of them.
        final_norm: norm and activation before the pooling, as the adversarial-training
            literature has it (Rice et al., Wong et al., 2020).
        activation: "relu" or "leaky_relu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`.

    References:
        He et al., "Identity mappings in deep residual networks", 2016, figure 4e.
    """

    widths: tuple[int, ...] | None = None
    width_multiplier: float = 1.0
    final_norm: bool = True
    activation: Literal["relu", "leaky_relu"] = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"

    def __post_init__(self):
        super().__post_init__()
        _ = self.stage_widths

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage after the multiplier."""
        return stage_widths(self.widths, 4, self.width_multiplier)

    def make(self, num_classes: int, layers: Layers) -> "PreActResNet":
        """Returns the network."""
        return PreActResNet(config=self, num_classes=num_classes, layers=layers)


class PreActBlock(nn.Module):
    """Basic block with norm and activation before each convolution."""

    config: BlockOptions
    layers: Layers
    width: int
    strides: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Array, dict[str, Array]]:
        make = LayerMaker(self.config, self.layers, train=train, deterministic=deterministic)
        activated = make.act(make.norm(x, "norm1"))
        taps = {"conv1": make.conv(activated, self.width, 3, self.strides, "conv1")}
        branch = make.act(make.norm(taps["conv1"], "norm2"))
        taps["conv2"] = branch = make.conv(branch, self.width, 3, 1, "conv2")
        shortcut = x
        if self.strides != 1 or x.shape[-1] != branch.shape[-1]:
            shortcut = make.conv(activated, self.width, 1, self.strides, "shortcut")
            taps["shortcut"] = shortcut
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
        for stage, width in enumerate(config.stage_widths, 1):
            for i in range(2):
                block = PreActBlock(
                    config=config,
                    layers=self.layers,
                    width=width,
                    strides=2 if stage > 1 and i == 0 else 1,
                    name=f"layer{stage}_{i}",
                )
                x, block_taps = block(x, train=train, deterministic=deterministic)
                for name, value in block_taps.items():
                    taps.add(f"layer{stage}.{i}.{name}", value)
        if config.final_norm:
            x = make.act(make.norm(x, "final_norm"))
        return jnp.mean(x, (1, 2)), dict(taps)
