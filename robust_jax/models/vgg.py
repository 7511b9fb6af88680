"""VGG networks: 11, 13, 16 and 19 layers, with and without BatchNorm, CIFAR and ImageNet heads."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.base import NetworkConfig, SingleNetwork, Taps
from robust_jax.models.head import before_last, check_head
from robust_jax.models.layers import Kind, Layers
from robust_jax.models.norm import Framework

# Convolutions in each stage; a max pool follows each stage.
_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@dataclasses.dataclass(frozen=True)
class VGGConfig(NetworkConfig):
    """VGG: stages of 3 x 3 convolutions, each ended by a 2 x 2 max pool (Simonyan, Zisserman).

    The convolutions are called "conv1", "conv2", ..., the hidden linear layers "hidden1", ...
    CIFAR's usual network is `VGGConfig(16)`: 13 convolutions and one linear layer. ImageNet's is
    `imagenet_vgg(16)`. There is no dropout between linear layers.

    Attributes:
        depth: 11, 13, 16 or 19, the name of the network on ImageNet (the linear layers counted).
        norm: is there a normalisation after each convolution?
        hidden: sizes of the linear layers before the last, each with an activation.
        positions: side of the grid of positions that the linear layers see: the last activations
            are averaged to it (PyTorch's adaptive pooling, where it divides evenly) and flattened.
        widths: of each stage.
        width_multiplier: multiplies all of them.
        conv_bias: do convolutions have a bias?
        activation: "relu", "leaky_relu" or "silu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`.

    References:
        Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
        recognition", 2015, table 1.

    Raises:
        ValueError: another depth, or widths that are no whole numbers.

    Example:
        >>> from robust_jax.models import VGGConfig
        >>> config = VGGConfig(depth=16, width_multiplier=0.5)
        >>> len(config.last_in_stage), config.stage_widths  # thirteen convolutions in five stages
        (13, (32, 64, 128, 256, 256))
    """

    depth: int = 16
    norm: bool = True
    hidden: tuple[int, ...] = ()
    positions: int = 1
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    width_multiplier: float = 1.0
    conv_bias: bool = True
    activation: Kind = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"

    def __post_init__(self):
        if self.depth not in _STAGES:
            raise ValueError(f"Expected depth={self.depth} to be one of {sorted(_STAGES)}.")
        if len(self.widths) != 5 or any(
            width < 1 or width != wanted
            for width, wanted in zip(self.stage_widths, self._scaled, strict=True)
        ):
            raise ValueError(
                f"Expected widths={self.widths} to be 5 whole numbers >= 1 after the "
                f"width_multiplier={self.width_multiplier}."
            )
        check_head(self)

    @property
    def _scaled(self) -> tuple[float, ...]:
        return tuple(width * self.width_multiplier for width in self.widths)

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Width of each stage after the multiplier."""
        return tuple(round(width) for width in self._scaled)

    @property
    def last_in_stage(self) -> tuple[bool, ...]:
        """For each convolution, is it its stage's last?"""
        return tuple(i == n - 1 for n in _STAGES[self.depth] for i in range(n))

    def make(self, num_classes: int, layers: Layers) -> "VGG":
        """Returns the network."""
        return VGG(config=self, num_classes=num_classes, layers=layers)


def imagenet_vgg(depth: int, *, norm: bool = False) -> VGGConfig:
    """Returns the ImageNet network: 7 x 7 positions, two hidden linear layers of 4096 units.

    Args:
        depth: 11, 13, 16 or 19; VGG-19 has 16 convolutions and 3 linear layers.
        norm: with BatchNorm (torchvision's `vgg19_bn`) or without (`vgg19`).

    Example:
        >>> from robust_jax.models import imagenet_vgg
        >>> imagenet_vgg(19).hidden, len(imagenet_vgg(19).last_in_stage)
        ((4096, 4096), 16)
    """
    return VGGConfig(depth, norm=norm, hidden=(4096, 4096), positions=7)


class VGG(SingleNetwork[VGGConfig]):
    """Backbone of `VGGConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns what the last linear layer sees, and the taps."""
        config, layers, taps, x = self.config, self.layers, Taps(), images
        mode = {"train": train, "deterministic": deterministic}

        number = 0
        for width, num_convs in zip(config.stage_widths, _STAGES[config.depth], strict=True):
            for _ in range(num_convs):
                number += 1
                x = layers.conv(
                    features=width,
                    kernel_size=(3, 3),
                    strides=1,
                    use_bias=config.conv_bias,
                    framework=config.framework,
                    name=f"conv{number}",
                )(x, **mode)
                taps.add(f"conv{number}", x)
                if config.norm:
                    norm = layers.norm(framework=config.framework, name=f"norm{number}")
                    x = norm(x, **mode)
                act = layers.act(kind=config.activation, negative_slope=config.negative_slope)
                x = act(x, **mode)
            if min(x.shape[1:3]) < 2:
                raise ValueError(f"Expected images of {images.shape[1:3]} to be 32 x 32 or larger.")
            x = nn.max_pool(x, (2, 2), (2, 2))
        return before_last(x, config, layers, taps, **mode), dict(taps)
