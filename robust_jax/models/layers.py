"""The layers that every network is made of, and the factories by which a method replaces them.

A network calls every layer as `layer(x, train=..., deterministic=...)`: `train` moves BatchNorm
statistics, `deterministic` removes sampling. Layers compute in the dtype of their input;
parameters and running statistics are float32 (float64 when the images are).

Two conventions of initialisation, padding and BatchNorm exist, because the papers' numbers
depend on them:

=========  =====================================  ==================================
           framework="torch"                      framework="keras"
=========  =====================================  ==================================
conv       Kaiming normal, fan out (ResNets)      He normal, fan in, truncated at 2 std
conv bias  uniform(+-1/sqrt(fan in))              zeros
linear     uniform(+-1/sqrt(fan in)), bias too    He normal, zero bias
padding    (size - 1) // 2 on both sides          "SAME": the odd pixel goes to the end
BatchNorm  running = .9 old + .1 new, eps 1e-5    running = .99 old + .01 new, eps 1e-3
=========  =====================================  ==================================

framework="torch_default" is "torch" without an initialisation of the network's own: convolutions
are uniform(+-1/sqrt(fan in)), as PyTorch constructs them. framework="torch_same" is "torch" with
the padding "SAME", as DeepMind's networks have it, which came to PyTorch from JAX.

BatchNorm's running variance is the biased one (divided by the number of values n, as Keras and
flax have it) in both; PyTorch's running variance is n/(n-1) times that, normalisation within a
batch is the same.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from robust_jax.models.changes import LayerChange, Mode
from robust_jax.models.convolution import Implementation, Padding, Pair, convolution
from robust_jax.models.initializers import (
    HE_NORMAL_FAN_OUT,
    HE_NORMAL_KERAS,
    Initializer,
    uniform_fan_in,
)
from robust_jax.models.norm import BatchNorm, Framework
from robust_jax.runtime.compilation import computed_once


class Conv(nn.Module):
    """2-D convolution; the parameters are `kernel` (HWIO) and `bias`.

    A method's own convolution may subclass it and call `weights` and `convolve` apart.

    Attributes:
        changes: what is changed before, in and after it, see `changes`.
        inner_norm: factory of the normalisation that a change may put behind it.
        place: path in the network, where the module has none of its own.
        features: channels of the output.
        framework: its initialisation and padding.

    Example:
        >>> from robust_jax.methods import KernelPool, KernelPooling
        >>> from robust_jax.models import Conv
        >>> conv = Conv(16, (3, 3), changes=(KernelPooling(KernelPool()),))
        >>> def convolved(key, x):
        ...     return conv.init_with_output(key, x, train=False, deterministic=True)
        >>> y, variables = jax.eval_shape(convolved, jax.random.key(0), jnp.ones((2, 6, 6, 3)))
        >>> y.shape, variables["params"]["kernel"].shape
        ((2, 6, 6, 16), (3, 3, 3, 16))
    """

    features: int
    kernel_size: Pair
    strides: int = 1
    padding: Padding | None = None
    """None is the framework's habit: "symmetric" or "SAME"."""
    use_bias: bool = False
    kernel_dilation: int = 1
    framework: Framework = "torch"
    implementation: Implementation = "auto"
    changes: tuple[LayerChange, ...] = ()
    inner_norm: "MakeNorm" = BatchNorm
    place: tuple[str, ...] = ()

    @property
    def where(self) -> tuple[str, ...]:
        """Returns its path in the network, from the classifier on."""
        return self.place or self.path

    def weights(self, in_channels: int) -> tuple[Array, Array | None]:
        """Returns the kernel and the bias (None without one); call it from a compact method."""
        bias_init = uniform_fan_in(self.kernel_size[0] * self.kernel_size[1] * in_channels)
        kernel_init: Initializer = HE_NORMAL_FAN_OUT
        if self.framework == "torch_default":
            kernel_init = bias_init
        if self.framework == "keras":
            kernel_init, bias_init = HE_NORMAL_KERAS, nn.initializers.zeros
        shape = (*self.kernel_size, in_channels, self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", bias_init, (self.features,), jnp.float32)

    def convolve(
        self, x: Float[Array, "b h w k"], kernel: Array, bias: Array | None
    ) -> Float[Array, "b out_h out_w features"]:
        """Returns the convolution of x with these weights in the dtype of x."""
        padding = self.padding
        if padding is None:
            same = self.framework in ("keras", "torch_same")
            padding = "SAME" if same else "symmetric"
        output = convolution(
            x,
            kernel.astype(x.dtype),
            strides=(self.strides, self.strides),
            padding=padding,
            kernel_dilation=(self.kernel_dilation, self.kernel_dilation),
            implementation=self.implementation,
        )
        if bias is not None:
            output = output + bias.astype(x.dtype)[None, None, None, :]
        return output

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b out_h out_w features"]:
        """Returns the convolved activations, as they are changed."""
        mode, given = Mode(train, deterministic), x.shape
        for change in self.changes:
            x = change.before_conv(self, x, mode)
        kernel, bias = self.weights(x.shape[-1])
        for change in self.changes:
            kernel, bias = change.on_weights(self, kernel, bias, given)
        x = self.convolve(x, kernel, bias)
        for change in self.changes:
            x = change.after_conv(self, x, mode, given)
        return x


class Dense(nn.Module):
    """Linear layer; the parameters are `kernel` (input x output) and `bias`.

    Example:
        >>> from robust_jax.models import Dense
        >>> variables = {"params": {"kernel": jnp.eye(2), "bias": jnp.ones(2)}}
        >>> Dense(2).apply(variables, jnp.array([[3.0, 4.0]]), train=False, deterministic=True)
        Array([[4., 5.]], dtype=float32)
    """

    features: int
    use_bias: bool = True
    framework: Framework = "torch"
    changes: tuple[LayerChange, ...] = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b k"], *, train: bool, deterministic: bool
    ) -> Float[Array, "b features"]:
        """Returns x @ kernel + bias in the dtype of x, as it is changed."""
        for change in self.changes:
            x = change.before_dense(self, x, Mode(train, deterministic))
        kernel_init = bias_init = uniform_fan_in(x.shape[-1])
        if self.framework == "keras":
            kernel_init, bias_init = HE_NORMAL_KERAS, nn.initializers.zeros
        shape = (x.shape[-1], self.features)
        output = x @ self.param("kernel", kernel_init, shape, jnp.float32).astype(x.dtype)
        if self.use_bias:
            bias = self.param("bias", bias_init, (self.features,), jnp.float32)
            output = output + bias.astype(x.dtype)[None, :]
        return output


Kind = Literal["relu", "leaky_relu", "silu"]


@jax.custom_jvp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns max(x, 0), whose derivative asks the output's sign: the input need not be kept."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = computed_once(relu(x))
    return y, jnp.where(y > 0, tangent, jnp.zeros_like(tangent))


class Activation(nn.Module):
    """ReLU, leaky ReLU or SiLU (x sigmoid(x), also called Swish).

    Attributes:
        kind: "relu", "leaky_relu" or "silu".
        negative_slope: of leaky ReLU.

    Example:
        >>> from robust_jax.models import Activation
        >>> silu = Activation(kind="silu")
        >>> silu.apply({}, jnp.array([0.0, 20.0]), train=False, deterministic=True).round()
        Array([ 0., 20.], dtype=float32)
    """

    kind: Kind = "relu"
    negative_slope: float = 0.01
    changes: tuple[LayerChange, ...] = ()

    def __call__(
        self, x: Float[Array, "..."], *, train: bool, deterministic: bool
    ) -> Float[Array, "..."]:
        """Returns the activation of every element, as it is changed."""
        match self.kind:
            case "relu":
                x = relu(x)
            case "leaky_relu":
                x = nn.leaky_relu(x, self.negative_slope)
            case "silu":
                x = nn.silu(x)
        for change in self.changes:
            x = change.after_act(self, x, Mode(train, deterministic))
        return x


@runtime_checkable
class Layer(Protocol):
    """Returns the activations after a layer, a module or a function, in one mode."""

    def __call__(self, x: Array, /, *, train: bool, deterministic: bool) -> Array: ...


@runtime_checkable
class MakeConv(Protocol):
    """Returns a convolution."""

    def __call__(
        self,
        *,
        features: int,
        kernel_size: Pair,
        strides: int,
        use_bias: bool,
        framework: Framework,
        name: str,
    ) -> Layer: ...


@runtime_checkable
class MakeNorm(Protocol):
    """Returns a normalisation; `cumulative` is BatchNorm's."""

    def __call__(self, *, framework: Framework, name: str, cumulative: bool = False) -> Layer: ...


@runtime_checkable
class MakeActivation(Protocol):
    """Returns an activation."""

    def __call__(self, *, kind: Kind, negative_slope: float) -> Layer: ...


@runtime_checkable
class MakeDense(Protocol):
    """Returns a linear layer; of the last one the name is not said."""

    def __call__(
        self, *, features: int, framework: Framework, name: str | None = None
    ) -> Layer: ...


class Layers(NamedTuple):
    """Factories of a network's layers; a method replaces the ones that it changes.

    A network calls them by keyword and its own names are the contract ("conv1", "conv2", ... in
    order within a network or block, "shortcut", "stem_conv"), so a factory may treat layers
    apart by name. It reads channel counts from arrays: a replaced convolution may return more or
    fewer channels than `features`, as long as it does so for every layer alike.

    Attributes:
        conv: of convolutions.
        norm: of normalisations.
        act: of activations.
        dense: of linear layers, the last one (the classifier head) among them.

    Example:
        >>> import functools
        >>> from robust_jax.models import BatchNorm, CNNConfig, default_layers
        >>> cumulative = functools.partial(BatchNorm, cumulative=True)
        >>> layers = default_layers()._replace(norm=cumulative)
        >>> CNNConfig().make(num_classes=10, layers=layers).layers.norm is cumulative
        True
    """

    conv: MakeConv = Conv
    norm: MakeNorm = BatchNorm
    act: MakeActivation = Activation
    dense: MakeDense = Dense


def default_layers(*, implementation: Implementation = "auto") -> Layers:
    """Returns the plain layers.

    Args:
        implementation: which convolution, see `convolution`.

    Example:
        >>> from robust_jax.models import default_layers
        >>> layers = default_layers(implementation="lax")  # for derivatives in forward mode
        >>> layers.conv(features=8, kernel_size=(3, 3)).implementation
        'lax'
    """
    return Layers(conv=functools.partial(Conv, implementation=implementation))


def changed(layers: Layers, changes: Sequence[LayerChange]) -> Layers:
    """Returns factories whose layers are changed, in this order.

    Args:
        layers: the factories.
        changes: what is done in their layers.

    Example:
        >>> from robust_jax.models import CNNConfig, InputNoise, changed, default_layers
        >>> layers = changed(default_layers(), (InputNoise(0.1),))
        >>> layers.conv(features=8, kernel_size=(3, 3), strides=1).changes
        (InputNoise(sigma=0.1, share=1.0, when=('training', 'prediction')),)
    """
    if not changes:
        return layers
    given = {"changes": tuple(changes)}
    named = [change.activation for change in changes if change.activation is not None]
    return layers._replace(
        conv=functools.partial(layers.conv, inner_norm=layers.norm, **given),
        act=functools.partial(named[0] if named else layers.act, **given),
        dense=functools.partial(layers.dense, **given),
    )
