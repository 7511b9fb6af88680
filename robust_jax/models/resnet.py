"""Residual networks: CIFAR's 20 and 32, ImageNet's 18, 34 and 50 with either stem, PreAct-18."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.base import Backbone, NetworkConfig, Taps
from robust_jax.models.layers import Framework, Layers

# Blocks in each stage.
_STAGES = {
    20: (3, 3, 3),
    32: (5, 5, 5),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}


def _stage_widths(
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


@dataclasses.dataclass(frozen=True)
class ResNetConfig(NetworkConfig):
    """Residual network, activation after the sum (He et al., 2016).

    Depths 20 and 32 have three stages of basic blocks, 18 and 34 four, 50 four of bottlenecks
    whose stride is in the 3 x 3 convolution (as torchvision has it).

    Attributes:
        depth: 18, 20, 32, 34 or 50.
        stem: "cifar" is 3 x 3 with stride 1; "imagenet" 7 x 7 with stride 2, then a 3 x 3 max
            pool with stride 2.
        widths: of each stage (of a bottleneck's inner convolutions); None is 16, 32, 64 in three
            stages and 64, 128, 256, 512 in four. The KAP paper's ImageNet networks have 64, 144,
            256, 529. The stem has the first stage's width.
        width_multiplier: multiplies all of them.
        shortcut: where a block changes the shape, "B" is a 1 x 1 convolution, "A" takes every
            stride-th pixel and pads channels with zeros, half on each side.
        conv_bias: do convolutions have a bias?
        stem_norm: is the stem's convolution normalised?
        shortcut_norm: is the projection of option B normalised?
        activation: "relu" or "leaky_relu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`. Keras's
            ResNet-20 v1 is depth=20, conv_bias=True, shortcut_norm=False, framework="keras".

    References:
        He et al., "Deep residual learning for image recognition", 2016, sections 3.3 and 4.2.
    """

    depth: int = 18
    stem: Literal["cifar", "imagenet"] = "cifar"
    widths: tuple[int, ...] | None = None
    width_multiplier: float = 1.0
    shortcut: Literal["A", "B"] = "B"
    conv_bias: bool = False
    stem_norm: bool = True
    shortcut_norm: bool = True
    activation: Literal["relu", "leaky_relu"] = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"

    def __post_init__(self):
        if self.depth not in _STAGES:
            raise ValueError(f"Expected depth={self.depth} to be one of {sorted(_STAGES)}.")
        for name, choices in (("stem", ("cifar", "imagenet")), ("shortcut", ("A", "B"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected {name}={getattr(self, name)!r} to be one of {choices}.")
        _ = self.stage_widths

    @property
    def num_blocks(self) -> tuple[int, ...]:
        """Blocks in each stage."""
        return _STAGES[self.depth]

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage after the multiplier."""
        return _stage_widths(self.widths, len(self.num_blocks), self.width_multiplier)

    def make(self, num_classes: int, layers: Layers) -> "ResNet":
        """Returns the network."""
        return ResNet(config=self, num_classes=num_classes, layers=layers)


@dataclasses.dataclass(frozen=True)
class PreActResNetConfig(NetworkConfig):
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
        _ = self.stage_widths

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage after the multiplier."""
        return _stage_widths(self.widths, 4, self.width_multiplier)

    def make(self, num_classes: int, layers: Layers) -> "PreActResNet":
        """Returns the network."""
        return PreActResNet(config=self, num_classes=num_classes, layers=layers)


class _LayerMaker:
    """The layers of one network as its configuration asks for them, in one mode."""

    def __init__(self, config: Any, layers: Layers, *, train: bool, deterministic: bool):
        self.config, self.layers = config, layers
        self.mode = {"train": train, "deterministic": deterministic}

    def conv(self, x: Array, features: int, size: int, strides: int, name: str) -> Array:
        conv = self.layers.conv(
            features=features,
            kernel_size=(size, size),
            strides=strides,
            use_bias=getattr(self.config, "conv_bias", False),
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


def _residual_sum(branch: Array, shortcut: Array) -> Array:
    """Returns the sum of a block's two paths: the one place where they meet."""
    return branch + shortcut


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
        make = _LayerMaker(self.config, self.layers, train=train, deterministic=deterministic)
        plan = [(self.width, 3, self.strides), (self.width, 3, 1)]
        if self.config.depth == 50:
            plan = [(self.width, 1, 1), (self.width, 3, self.strides), (4 * self.width, 1, 1)]
        taps, branch = {}, x
        for i, (features, size, strides) in enumerate(plan, 1):
            if i > 1:
                branch = make.act(branch)
            branch = make.conv(branch, features, size, strides, f"conv{i}")
            taps[f"conv{i}"] = branch
            branch = make.norm(branch, f"norm{i}")
        shortcut = x
        # Channels are read from the arrays: a replaced convolution may have changed their number.
        if self.strides != 1 or x.shape[-1] != branch.shape[-1]:
            if self.config.shortcut == "A":
                shortcut = _subsample(x, self.strides, branch.shape[-1])
            else:
                shortcut = make.conv(x, plan[-1][0], 1, self.strides, "shortcut")
                taps["shortcut"] = shortcut
                if self.config.shortcut_norm:
                    shortcut = make.norm(shortcut, "shortcut_norm")
        total = _residual_sum(branch, shortcut)
        taps["pre_act"] = total
        return make.act(total), taps


class ResNet(Backbone):
    """Backbone of `ResNetConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns the mean of the last activations over positions, and the taps."""
        config, taps = self.config, Taps()
        make = _LayerMaker(config, self.layers, train=train, deterministic=deterministic)
        imagenet = config.stem == "imagenet"
        size, strides = (7, 2) if imagenet else (3, 1)
        x = make.conv(images, config.stage_widths[0], size, strides, "stem_conv")
        taps.add("stem.conv", x)
        if config.stem_norm:
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
                    strides=2 if stage > 1 and i == 0 else 1,
                    name=f"layer{stage}_{i}",
                )
                x, block_taps = block(x, train=train, deterministic=deterministic)
                for name, value in block_taps.items():
                    taps.add(f"layer{stage}.{i}.{name}", value)
        return jnp.mean(x, (1, 2)), dict(taps)


class _PreActBlock(nn.Module):
    """Basic block with norm and activation before each convolution."""

    config: Any
    layers: Layers
    width: int
    strides: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Array, dict[str, Array]]:
        make = _LayerMaker(self.config, self.layers, train=train, deterministic=deterministic)
        activated = make.act(make.norm(x, "norm1"))
        taps = {"conv1": make.conv(activated, self.width, 3, self.strides, "conv1")}
        branch = make.act(make.norm(taps["conv1"], "norm2"))
        taps["conv2"] = branch = make.conv(branch, self.width, 3, 1, "conv2")
        shortcut = x
        if self.strides != 1 or x.shape[-1] != branch.shape[-1]:
            shortcut = make.conv(activated, self.width, 1, self.strides, "shortcut")
            taps["shortcut"] = shortcut
        taps["pre_act"] = total = _residual_sum(branch, shortcut)
        return total, taps


class PreActResNet(Backbone):
    """Backbone of `PreActResNetConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns the mean of the last activations over positions, and the taps."""
        config, taps = self.config, Taps()
        make = _LayerMaker(config, self.layers, train=train, deterministic=deterministic)
        x = make.conv(images, config.stage_widths[0], 3, 1, "stem_conv")
        taps.add("stem.conv", x)
        for stage, width in enumerate(config.stage_widths, 1):
            for i in range(2):
                block = _PreActBlock(
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
