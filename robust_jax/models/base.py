"""What every network is: its configuration, and the classifier that normalises in front of it."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.layers import Kind, Layers
from robust_jax.models.norm import Framework, accumulator_dtype
from robust_jax.types import Outputs

ActivationDtype = Literal["float32", "bfloat16", "float64"]


@dataclasses.dataclass(frozen=True)
class NetworkConfig(abc.ABC):
    """Architecture of a network; subclasses add its fields and build the module.

    The module made is a backbone: `features(images, *, train, deterministic)` gives the pooled
    features [b f] and the taps, `head(features, *, train, deterministic)` the logits, and
    calling it `Outputs`. An ensemble's features and head carry a leading member axis.

    Example:
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import ResNetConfig, VGGConfig
        >>> from robust_jax.types import Task
        >>> networks, task = (ResNetConfig(depth=20), VGGConfig(16)), Task((32, 32, 3), 10, 50_000)
        >>> methods = [Standard(network).make(task) for network in networks]
        >>> ["skip_gradient" in method.views for method in methods]  # residual blocks?
        [True, False]
    """

    @abc.abstractmethod
    def make(self, num_classes: int, layers: Layers) -> "Backbone":
        """Returns the backbone.

        Raises:
            ValueError: num_classes < 1.
        """


def in_network_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of taps as the network has them: by number, which "100" is after "99"."""

    def place(name: str) -> tuple[int, str]:
        number = name.partition(".")[0]
        return int(number) if number.isdigit() else -1, name

    return tuple(sorted(names, key=place))


class Taps(dict[str, Array]):
    """Taps of a forward pass; `add` numbers them, and `in_network_order` sorts their names.

    A suffix `.pre_act` is the pre-activation after a residual sum; every other tap is the raw
    output of a convolution or linear layer.
    """

    def add(self, name: str, value: Array) -> None:
        """Adds a tap after all others."""
        self[f"{len(self):02d}.{name}"] = value


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How images in [0, 1] are normalised inside the model: (image - mean) / std.

    Attributes:
        mean: per channel, for statistics="given"; empty is no normalisation.
        std: per channel, of the same length.
        statistics: "given" takes the numbers above; "train_channel" and "train_pixel" keep one
            number per channel or per pixel and channel in the "constants" collection, which
            start at mean 0 and std 1 and are filled from the training images.

    Example:
        >>> from robust_jax.methods import Standard
        >>> from robust_jax.models import Normalization
        >>> cifar = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
        >>> Standard(normalization=cifar).normalization.std[0]  # images and budgets stay in [0, 1]
        0.2471
        >>> Normalization(mean=(0.5,))
        Traceback (most recent call last):
            ...
        ValueError: Expected std=() to be as long as mean=(0.5,).
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    statistics: Literal["given", "train_channel", "train_pixel"] = "given"

    def __post_init__(self):
        if len(self.mean) != len(self.std):
            raise ValueError(f"Expected std={self.std} to be as long as mean={self.mean}.")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"Expected std={self.std} > 0.")
        if self.statistics not in ("given", "train_channel", "train_pixel"):
            raise ValueError(
                f"Expected statistics={self.statistics!r} to be 'given', 'train_channel' or "
                "'train_pixel'."
            )
        if self.statistics != "given" and self.mean:
            raise ValueError(
                f"Expected mean={self.mean} to be empty with statistics={self.statistics!r}."
            )


class Backbone(nn.Module, abc.ABC):
    """A network, or an ensemble of networks, from normalised images to logits.

    Example:
        >>> from robust_jax.models import CNNConfig, default_layers
        >>> backbone = CNNConfig(widths=(8,), strides=(2,)).make(10, default_layers())
        >>> mode = {"train": False, "deterministic": True}
        >>> variables = jax.eval_shape(
        ...     lambda key: backbone.init(key, jnp.zeros((1, 8, 8, 1)), **mode), jax.random.key(0)
        ... )
        >>> def features(variables, images):
        ...     return backbone.apply(variables, images, method="features", **mode)
        >>> pooled, taps = jax.eval_shape(features, variables, jnp.zeros((4, 8, 8, 1)))
        >>> pooled.shape, {name: tap.shape for name, tap in taps.items()}
        ((4, 8), {'00.conv1': (4, 4, 4, 8)})
    """

    @abc.abstractmethod
    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Float[Array, "*m b f"], dict[str, Array]]:
        """Returns the pooled features, an ensemble's of each member, and the taps."""

    @abc.abstractmethod
    def head(
        self, features: Float[Array, "*m b f"], *, train: bool, deterministic: bool
    ) -> Float[Array, "*m b c"]:
        """Returns the logits of pooled features."""

    @abc.abstractmethod
    def __call__(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Outputs:
        """Returns logits, features and taps of a forward pass."""


@runtime_checkable
class LayerOptions(Protocol):
    """What a configuration says of every layer of its network, see `layers`."""

    @property
    def activation(self) -> Kind: ...

    @property
    def negative_slope(self) -> float: ...

    @property
    def framework(self) -> Framework: ...


C = TypeVar("C", bound=LayerOptions)


class SingleNetwork(Backbone, Generic[C]):
    """A network whose layers carry no member axis; subclasses define `features`.

    It gives member_logits and features of one member.

    Example:
        >>> import dataclasses
        >>> from flax import linen as nn
        >>> from robust_jax.models import NetworkConfig, SingleNetwork, default_layers
        >>> class Linear(SingleNetwork):
        ...     def features(self, images, *, train, deterministic):
        ...         return images.reshape(len(images), -1), {}
        >>> @dataclasses.dataclass(frozen=True)
        ... class LinearConfig(NetworkConfig):
        ...     framework: str = "torch"
        ...     def make(self, num_classes, layers):
        ...         return Linear(self, num_classes, layers)
        >>> network, images = LinearConfig().make(10, default_layers()), jnp.zeros((2, 8, 8, 1))
        >>> def outputs(key):
        ...     return network.init_with_output(key, images, train=False, deterministic=True)[0]
        >>> jax.eval_shape(outputs, jax.random.key(0)).logits.shape
        (2, 10)
    """

    config: C
    num_classes: int
    layers: Layers

    def setup(self):
        if self.num_classes < 1:
            raise ValueError(f"Expected num_classes={self.num_classes} >= 1.")
        self.linear = self.layers.dense(features=self.num_classes, framework=self.config.framework)

    def head(
        self, features: Float[Array, "b f"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b c"]:
        """Returns the logits of pooled features."""
        return self.linear(features, train=train, deterministic=deterministic)

    def __call__(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Outputs:
        """Returns logits, features and taps of a forward pass."""
        mode = {"train": train, "deterministic": deterministic}
        features, taps = self.features(images, **mode)
        logits = self.head(features, **mode)
        taps = Taps(taps)
        taps.add("head", logits)
        return Outputs(logits, logits[None], features[None], dict(taps))


class Classifier(nn.Module):
    """Normalisation, then a backbone, on images in [0, 1].

    The constants `mean` and `std` live in the collection "constants": they are saved with the
    model and no optimizer moves them. Normalisation is done in the images' dtype; the backbone
    then runs in `dtype`; logits come back in float32 (float64 for float64).

    Attributes:
        backbone: the network.
        normalization: of images, inside the model; attacks see pixels in [0, 1].
        dtype: of activations.

    Example:
        >>> from robust_jax.models import Classifier, Normalization, ResNetConfig, default_layers
        >>> backbone = ResNetConfig(depth=20).make(num_classes=10, layers=default_layers())
        >>> network = Classifier(backbone, Normalization(mean=(0.5,) * 3, std=(0.25,) * 3))
        >>> def init(key):
        ...     return network.init(key, jnp.zeros((1, 32, 32, 3)), train=False, deterministic=True)
        >>> shapes = jax.eval_shape(init, jax.random.key(0))
        >>> sorted(shapes)  # `constants` are the mean and std
        ['batch_stats', 'constants', 'params']
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))  # 0.27 million
        272474
    """

    backbone: Backbone
    normalization: Normalization = Normalization()
    dtype: ActivationDtype = "float32"

    def setup(self):
        if self.dtype not in ("float32", "bfloat16", "float64"):
            raise ValueError(
                f"Expected dtype={self.dtype!r} to be 'float32', 'bfloat16' or 'float64'."
            )

    @nn.compact
    def normalize(self, images: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
        """Returns the images as the backbone sees them.

        Raises:
            ValueError: the given mean does not have one number per channel.
        """
        given, channels = self.normalization, images.shape[-1]
        if given.statistics == "given" and not given.mean:
            return images.astype(self.dtype)
        shape = images.shape[1:] if given.statistics == "train_pixel" else (channels,)
        if given.mean and len(given.mean) != channels:
            raise ValueError(f"Expected mean={given.mean} to have {channels} entries.")
        mean_value, std_value = given.mean or (0.0,), given.std or (1.0,)

        def fill(values: tuple[float, ...]) -> Array:
            return jnp.broadcast_to(jnp.asarray(values, jnp.float32), shape)

        mean = self.variable("constants", "mean", fill, mean_value).value.astype(images.dtype)
        std = self.variable("constants", "std", fill, std_value).value.astype(images.dtype)
        wide = (None,) * (images.ndim - len(shape))
        return ((images - mean[wide]) / std[wide]).astype(self.dtype)

    def features(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the pooled features ([b f], of an ensemble [m b f]) and the taps."""
        images = self.normalize(images)
        return self.backbone.features(images, train=train, deterministic=deterministic)

    def head(self, features: Array, *, train: bool, deterministic: bool) -> Array:
        """Returns logits [b c] of features [b f], or [m b c] of an ensemble's [m b f]."""
        logits = self.backbone.head(features, train=train, deterministic=deterministic)
        return logits.astype(accumulator_dtype(logits.dtype))

    def __call__(
        self, images: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Outputs:
        """Returns logits, features and taps of a forward pass."""
        outputs = self.backbone(self.normalize(images), train=train, deterministic=deterministic)
        dtype = accumulator_dtype(outputs.logits.dtype)
        return outputs._replace(
            logits=outputs.logits.astype(dtype),
            member_logits=outputs.member_logits.astype(dtype),
        )
