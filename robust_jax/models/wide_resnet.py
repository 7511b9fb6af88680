"""Wide residual networks of CIFAR: WRN-16-4 and its like."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.base import SingleNetwork, Taps
from robust_jax.models.layers import Kind, Layers
from robust_jax.models.norm import Framework
from robust_jax.models.pre_act_resnet import PreActBlock
from robust_jax.models.residual import LayerMaker, ResidualConfig


@dataclasses.dataclass(frozen=True)
class WideResNetConfig(ResidualConfig):
    """WRN-depth-widening: three stages of basic blocks, norm and activation before convolutions.

    3 x 3 stem of 16 channels; a block that changes the shape projects its activated input by a
    1 x 1 convolution; norm and activation before the pooling. There is no dropout in blocks.

    Attributes:
        depth: 6 n + 4 for n blocks a stage.
        widening: k; the stages have 16 k, 32 k and 64 k channels.
        activation: "relu", "leaky_relu" or "silu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`.

    References:
        Zagoruyko and Komodakis, "Wide residual networks", 2016, table 1.

    Raises:
        ValueError: a depth that is not 6 n + 4, or a widening below 1.

    Example:
        >>> from robust_jax.models import Classifier, WideResNetConfig, default_layers
        >>> network = Classifier(WideResNetConfig(depth=16, widening=4).make(10, default_layers()))
        >>> def init(key):
        ...     return network.init(key, jnp.zeros((1, 32, 32, 3)), train=False, deterministic=True)
        >>> shapes = jax.eval_shape(init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))  # 2.7 million
        2748890
    """

    depth: int = 16
    widening: int = 4
    activation: Kind = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"Expected depth={self.depth} to be 6 n + 4 with n >= 1.")
        if self.widening < 1:
            raise ValueError(f"Expected widening={self.widening} >= 1.")

    def make(self, num_classes: int, layers: Layers) -> "WideResNet":
        """Returns the network."""
        return WideResNet(config=self, num_classes=num_classes, layers=layers)


class WideResNet(SingleNetwork[WideResNetConfig]):
    """Backbone of `WideResNetConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns the mean of the last activations over positions, and the taps."""
        config, taps = self.config, Taps()
        make = LayerMaker(config, self.layers, train=train, deterministic=deterministic)
        x = make.conv(images, 16, 3, 1, "stem_conv")
        taps.add("stem.conv", x)
        for stage in (1, 2, 3):
            for i in range((config.depth - 4) // 6):
                block = PreActBlock(
                    config=config,
                    layers=self.layers,
                    width=16 * 2 ** (stage - 1) * config.widening,
                    strides=2 if stage > 1 and i == 0 else 1,
                    name=f"layer{stage}_{i}",
                )
                x, block_taps = block(x, train=train, deterministic=deterministic)
                for name, value in block_taps.items():
                    taps.add(f"layer{stage}.{i}.{name}", value)
        x = make.act(make.norm(x, "final_norm"))
        return jnp.mean(x, (1, 2)), dict(taps)
