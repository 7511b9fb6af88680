"""Plain convolutional networks of a few layers, those of the KAP paper's appendix among them."""

import dataclasses

from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.base import NetworkConfig, SingleNetwork, Taps
from robust_jax.models.head import before_last, check_head
from robust_jax.models.layers import Kind, Layers
from robust_jax.models.norm import Framework


@dataclasses.dataclass(frozen=True)
class CNNConfig(NetworkConfig):
    """conv -> norm -> activation, repeated; then the mean over positions and linear layers.

    The convolutions are called "conv1", "conv2", ..., so that a method's factory can treat them
    apart (KAP after the first layer only, figure A2b).

    Attributes:
        widths: output channels of each convolution, before the expansion.
        strides: stride of each convolution.
        max_pool_after: numbers (from 1) of the convolutions whose activation is max pooled, 2 x 2.
        expansion: e; every width is multiplied by e^2.
        kernel_size: of every convolution, square.
        conv_bias: do convolutions have a bias?
        norm: is there a normalisation after each convolution?
        positions: side of the grid of positions that the last activations are averaged to, and
            flattened, before the linear layers.
        hidden: sizes of the linear layers before the last, each with an activation.
        activation: "relu", "leaky_relu" or "silu".
        negative_slope: of leaky ReLU.
        framework: initialisation, padding and BatchNorm conventions, see `layers`.

    Raises:
        ValueError: widths and strides that do not fit, or a size below 1.

    Example:
        >>> from robust_jax.models import Classifier, CNNConfig, default_layers
        >>> config = CNNConfig(widths=(16, 32), strides=(1, 2), hidden=(100,))
        >>> network = Classifier(config.make(num_classes=10, layers=default_layers()))
        >>> def init(key):
        ...     return network.init(key, jnp.zeros((1, 28, 28, 1)), train=False, deterministic=True)
        >>> shapes = jax.eval_shape(init, jax.random.key(0))["params"]["backbone"]
        >>> sorted(shapes)
        ['conv1', 'conv2', 'hidden1', 'linear', 'norm1', 'norm2']
        >>> shapes["conv2"]["kernel"].shape
        (3, 3, 16, 32)
    """

    widths: tuple[int, ...] = (64, 144, 256)
    strides: tuple[int, ...] = (2, 2, 2)
    max_pool_after: tuple[int, ...] = ()
    expansion: int = 1
    kernel_size: int = 3
    conv_bias: bool = False
    norm: bool = True
    positions: int = 1
    hidden: tuple[int, ...] = ()
    activation: Kind = "relu"
    negative_slope: float = 0.01
    framework: Framework = "torch"

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"Expected widths={self.widths} to be positive and not empty.")
        if len(self.strides) != len(self.widths) or min(self.strides) < 1:
            raise ValueError(
                f"Expected strides={self.strides} to be positive, one for each of "
                f"widths={self.widths}."
            )
        if not set(self.max_pool_after) <= set(range(1, len(self.widths) + 1)):
            raise ValueError(
                f"Expected max_pool_after={self.max_pool_after} within 1..{len(self.widths)}."
            )
        for name in ("expansion", "kernel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} >= 1.")
        check_head(self)

    def make(self, num_classes: int, layers: Layers) -> "CNN":
        """Returns the network."""
        return CNN(config=self, num_classes=num_classes, layers=layers)


def strided_cnn(num_layers: int, *, expansion: int = 1) -> CNNConfig:
    """Returns KAP's Single-, Double- or TripleConv: 3 x 3, stride 2, widths 64, 144, 256 times e^2.

    Args:
        num_layers: 1, 2 or 3.
        expansion: e, whose square all widths are multiplied by.

    References:
        Bashivan et al., "Kernel average pooling", 2022, appendix (figure A2a, A2b).

    Raises:
        ValueError: num_layers is not 1, 2 or 3.

    Example:
        >>> from robust_jax.models import strided_cnn
        >>> strided_cnn(2).widths, strided_cnn(2).strides
        ((64, 144), (2, 2))
    """
    if num_layers not in (1, 2, 3):
        raise ValueError(f"Expected num_layers={num_layers} to be 1, 2 or 3.")
    return CNNConfig(
        widths=(64, 144, 256)[:num_layers], strides=(2,) * num_layers, expansion=expansion
    )


def conv_encoder(*, expansion: int = 1) -> CNNConfig:
    """Returns KAP's ConvEncoder: 3 x 3, stride 1, widths 64, 144, 225 times e^2, two max pools.

    References:
        Bashivan et al., "Kernel average pooling", 2022, appendix (figure A2c: K = S = e).

    Args:
        expansion: e.

    Example:
        >>> from robust_jax.models import conv_encoder
        >>> config = conv_encoder(expansion=2)
        >>> [width * config.expansion**2 for width in config.widths]
        [256, 576, 900]
    """
    return CNNConfig(
        widths=(64, 144, 225), strides=(1, 1, 1), max_pool_after=(1, 3), expansion=expansion
    )


class CNN(SingleNetwork[CNNConfig]):
    """Backbone of `CNNConfig`."""

    @nn.compact
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "b f"], dict[str, Array]]:
        """Returns what the last linear layer sees, and the taps."""
        config, layers, taps, x = self.config, self.layers, Taps(), images
        mode = {"train": train, "deterministic": deterministic}
        for i, (width, stride) in enumerate(zip(config.widths, config.strides, strict=True), 1):
            x = layers.conv(
                features=width * config.expansion**2,
                kernel_size=(config.kernel_size, config.kernel_size),
                strides=stride,
                use_bias=config.conv_bias,
                framework=config.framework,
                name=f"conv{i}",
            )(x, **mode)
            taps.add(f"conv{i}", x)
            if config.norm:
                x = layers.norm(framework=config.framework, name=f"norm{i}")(x, **mode)
            x = layers.act(kind=config.activation, negative_slope=config.negative_slope)(x, **mode)
            if i in config.max_pool_after:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return before_last(x, config, layers, taps, **mode), dict(taps)
