"""Residual networks: CIFAR's 20 and 32, ImageNet's 18, 34 and 50 with either stem, and others."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.base import SingleNetwork, Taps
from robust_jax.models.head import before_last, check_head
from robust_jax.models.layers import Kind, Layers
from robust_jax.models.norm import Framework
from robust_jax.models.residual import LayerMaker, ResidualConfig, residual_sum, stage_widths

# Blocks in each stage.
_STAGES = {
    20: (3, 3, 3),
    32: (5, 5, 5),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig(ResidualConfig):
    """Residual network, activation after the sum (He et al., 2016).

    Depths 20 and 32 have three stages of basic blocks, 18 and 34 four, 50 four of bottlenecks
    whose stride is in the 3 x 3 convolution (as torchvision has it).

    Attributes:
        depth: 18, 20, 32, 34 or 50.
        blocks: of each stage; None for the depth's.
        stem: "cifar" is 3 x 3 with stride 1; "imagenet" 7 x 7 with stride 2, then a 3 x 3 max
            pool with stride 2; "strided" 3 x 3 with stride 2 and half the first stage's width,
            and the first stage begins with stride 2 as the others do.
        widths: of each stage (of a bottleneck's inner convolutions); None is 16, 32, 64 in three
            stages and 64, 128, 256, 512 in four. The KAP paper's ImageNet networks have 64, 144,
            256, 529. The stem has the first stage's width, but for "strided".
        width_multiplier: multiplies all of them.
        shortcut: where a block changes the shape, "B" is a 1 x 1 convolution, "A" takes every
            stride-th pixel and pads channels with zeros, half on each side.
        conv_bias: do convolutions have a bias?
        norm: is there a normalisation after each convolution?
        stem_norm: after the stem's too?
        shortcut_norm: after the projection of option B too?
        positions: side of the grid of positions that the last activations are averaged to, and
            flattened, before the linear layers.
        hidden: sizes of the linear layers before the last, each with an activation.
        activation: "relu", "leaky_relu" or "silu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`. Keras's
            ResNet-20 v1 is depth=20, conv_bias=True, shortcut_norm=False, framework="keras".

    `verification_resnet` makes the small networks that verifiers are compared on.

    References:
        He et al., "Deep residual learning for image recognition", 2016, sections 3.3 and 4.2.

    Raises:
        ValueError: another depth, stem or shortcut, or widths that are no whole numbers.

    Example:
        >>> from robust_jax.models import ResNetConfig
        >>> ResNetConfig(depth=20).num_blocks, ResNetConfig(depth=20).stage_widths
        ((3, 3, 3), (16, 32, 64))
        >>> ResNetConfig(depth=21)
        Traceback (most recent call last):
            ...
        ValueError: Expected depth=21 to be one of [18, 20, 32, 34, 50].
    """

    depth: int = 18
    blocks: tuple[int, ...] | None = None
    stem: Literal["cifar", "imagenet", "strided"] = "cifar"
    widths: tuple[int, ...] | None = None
    width_multiplier: float = 1.0
    shortcut: Literal["A", "B"] = "B"
    conv_bias: bool = False
    norm: bool = True
    stem_norm: bool = True
    shortcut_norm: bool = True
    positions: int = 1
    hidden: tuple[int, ...] = ()
    activation: Kind = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"

    def __post_init__(self):
        super().__post_init__()
        if self.depth not in _STAGES:
            raise ValueError(f"Expected depth={self.depth} to be one of {sorted(_STAGES)}.")
        stems = ("cifar", "imagenet", "strided")
        for name, choices in (("stem", stems), ("shortcut", ("A", "B"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected {name}={getattr(self, name)!r} to be one of {choices}.")
        if self.blocks is not None and (not self.blocks or min(self.blocks) < 1):
            raise ValueError(f"Expected blocks={self.blocks} to be positive and not empty.")
        if self.stem == "strided" and self.stage_widths[0] % 2:
            raise ValueError(f"Expected widths={self.stage_widths} to begin evenly, for its stem.")
        check_head(self)
        _ = self.stage_widths

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Blocks in each stage."""
        return _STAGES[self.depth] if self.blocks is None else self.blocks

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage after the multiplier."""
        return stage_widths(self.widths, len(self.num_blocks), self.width_multiplier)

    def make(self, num_classes: int, layers: Layers) -> "ResNet":
        """Returns the network."""
        return ResNet(config=self, num_classes=num_classes, layers=layers)


def verification_resnet(num_stages: int, *, width: int, positions: int) -> ResNetConfig:
    """Returns a residual network as the verification competition has it: no norm, biases, flat.

    Stages of two blocks; a hidden linear layer of 100 on the flattened activations. For 32 x 32
    images ResNet-2B is `verification_resnet(1, width=16, positions=8)`, ResNet-4B
    `verification_resnet(2, width=32, positions=4)`.

    Args:
        num_stages: of two blocks each.
        width: channels of all of them.
        positions: side of the last map, which is flattened.

    References:
        Wang et al., "Beta-CROWN", 2021; VNN-COMP 2021, benchmark cifar10_resnet.

    Example:
        >>> from robust_jax.models import verification_resnet
        >>> resnet_4b = verification_resnet(2, width=32, positions=4)
        >>> resnet_4b.num_blocks, resnet_4b.norm, resnet_4b.hidden
        ((2, 2), False, (100,))
    """
    return ResNetConfig(
        blocks=(2,) * num_stages,
        stem="strided",
        widths=(width,) * num_stages,
        conv_bias=True,
        norm=False,
        positions=positions,
        hidden=(100,),
    )


def _subsample(x: Array, strides: int, num_channels: int) -> Array:
    """Returns option A's shortcut: every stride-th pixel, zero channels half on each side."""
    missing = num_channels - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f"Expected channels={num_channels} >= {x.shape[-1]} for an option A shortcut."
        )
    pads = ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2))
    return jnp.pad(x[:, ::strides, ::strides, :], pads)


class _Block(nn.Module):
    """Residual block, basic (two 3 x 3) or bottleneck (1 x 1, 3 x 3, 1 x 1 four times as wide)."""

    config: ResNetConfig
    layers: Layers
    width: int
    strides: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Array, dict[str, Array]]:
        mode = {"train": train, "deterministic": deterministic}
        make = LayerMaker(self.config, self.layers, conv_bias=self.config.conv_bias, **mode)
        plan = [(self.width, 3, self.strides), (self.width, 3, 1)]
        if self.config.depth == 50:
            plan = [(self.width, 1, 1), (self.width, 3, self.strides), (4 * self.width, 1, 1)]
        taps, branch = {}, x
        for i, (features, size, strides) in enumerate(plan, 1):
            if i > 1:
                branch = make.act(branch)
            branch = make.conv(branch, features, size, strides, f"conv{i}")
            taps[f"conv{i}"] = branch
            if self.config.norm:
                branch = make.norm(branch, f"norm{i}")
        shortcut = x
        # Channels are read from the arrays: a replaced convolution may have changed their number.
        if self.strides != 1 or x.shape[-1] != branch.shape[-1]:
            if self.config.shortcut == "A":
                shortcut = _subsample(x, self.strides, branch.shape[-1])
            else:
                shortcut = make.conv(x, plan[-1][0], 1, self.strides, "shortcut")
                taps["shortcut"] = shortcut
                if self.config.norm and self.config.shortcut_norm:
                    shortcut = make.norm(shortcut, "shortcut_norm")
        total = residual_sum(branch, shortcut, self.config.branch_gradient)
        taps["pre_act"] = total
        return make.act(total), taps


class ResNet(SingleNetwork[ResNetConfig]):
    """Backbone of `ResNetConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns what the last linear layer sees, and the taps."""
        config, taps = self.config, Taps()
        mode = {"train": train, "deterministic": deterministic}
        make = LayerMaker(config, self.layers, conv_bias=config.conv_bias, **mode)
        imagenet, strided = (config.stem == name for name in ("imagenet", "strided"))
        width = config.stage_widths[0] // (2 if strided else 1)
        size, strides = 7 if imagenet else 3, 2 if imagenet or strided else 1
        x = make.conv(images, width, size, strides, "stem_conv")
        taps.add("stem.conv", x)
        if config.norm and config.stem_norm:
            x = make.norm(x, "stem_norm")
        x = make.act(x)
        if imagenet:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for stage, (width, num_blocks) in enumerate(
            zip(config.stage_widths, config.num_blocks, strict=True), 1
        ):
            for i in range(num_blocks):
                block = _Block(
                    config=config,
                    layers=self.layers,
                    width=width,
                    strides=2 if i == 0 and (stage > 1 or strided) else 1,
                    name=f"layer{stage}_{i}",
                )
                x, block_taps = block(x, **mode)
                for name, value in block_taps.items():
                    taps.add(f"layer{stage}.{i}.{name}", value)
        return before_last(x, config, self.layers, taps, **mode), dict(taps)
